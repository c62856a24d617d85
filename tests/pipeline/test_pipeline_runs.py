"""The command itself, from a CSV to a pushed model."""

import json

import pytest

from tests.doubles.shop import run, run_until, steps_of, write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_csv_becomes_a_pushed_model_and_a_second_run_uses_all_of_it(shop):
    first = run(shop)
    assert first.returncode == 0, first.stderr
    assert "Blessed: all" in first.stdout and "cached" not in first.stdout
    assert "Traceback" not in first.stderr and "W0000" not in first.stderr
    for text in ("ctr@imp", "cvr@click", "scene=search", "saved_model_cli show", "docker run"):
        assert text in first.stdout
    (version,) = (shop / "output/serving/shop").iterdir()
    assert (version / "saved_model.pb").exists()

    second = run(shop)
    components = [*steps_of(first.stdout)]
    cached = {name for name, how in steps_of(second.stdout).items() if how == ["cached"]}
    assert cached == {
        *("ArrowExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator"),
        *("Transform", "Trainer", "RankingEvaluator", "Pusher"),
    }
    assert cached < set(components)
    assert second.stdout.split("task  ")[1] == first.stdout.split("task  ")[1]
    assert [*(shop / "output/serving/shop").iterdir()] == [version]

    import tensorflow as tf

    model = tf.saved_model.load(str(version))
    request = json.loads((shop / "output/request.json").read_text())
    (row,) = request["instances"]
    signature = model.signatures[request["signature_name"]]
    inputs = signature.structured_input_signature[1]
    outputs = signature(**{k: tf.constant([v], inputs[k].dtype) for k, v in row.items()})
    assert set(outputs) == {"ctr", "cvr", "ctcvr", "quality"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_inside_trainer_goes_on_to_the_same_metrics(shop):
    whole = run(shop, output="whole")
    checkpoints = shop / "killed/artifacts/checkpoints"
    # Killed in its first epoch, where a checkpoint of five steps is there.
    run_until(lambda: [*checkpoints.glob("*/at-*/state.json")], shop, output="killed")
    resumed = run(shop, output="killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed at epoch" in resumed.stdout
    assert steps_of(resumed.stdout)["Transform"] == ["cached"]
    table = whole.stdout.split("task  ")[1].split("Blessed")[0]
    assert resumed.stdout.split("task  ")[1].split("Blessed")[0] == table
    assert [*checkpoints.iterdir()] == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_unblessed_model_is_not_pushed_and_the_reason_is_told(shop):
    done = run(shop, "--set", "evaluation.bounds={'ctr/auc@imp': 0.99}", output="strict")
    assert done.returncode == 0, done.stderr
    assert "Not blessed: 1 of" in done.stdout and "ctr/auc@imp" in done.stdout
    assert "Not pushed" in done.stdout
    assert not [*(shop / "strict/serving").rglob("saved_model.pb")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_value_that_does_not_parse_is_told_in_one_sentence(shop):
    lines = (shop / "rows.csv").read_text().splitlines()
    lines[99] = lines[99].replace(lines[99].split(",")[3], "cheap")
    (shop / "bad.csv").write_text("\n".join(lines) + "\n")
    done = run(shop, data="bad.csv", output="bad")
    assert done.returncode == 1
    assert "error: numerical column 'price' does not parse" in done.stderr
    assert "bad.csv, line 100: 'cheap'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_search_trains_the_best_candidate_to_the_end(shop):
    text = (
        (shop / "shop.py")
        .read_text()
        .replace(
            "    evaluation=",
            "    tuning=Tuning(space=SPACE, trials=2, epochs=1),\n    evaluation=",
        )
    )
    space = (
        '{"training.learning_rate": [1e-9, 3e-3], "model.backbone.expert_units": [(8,), (8, 4)]}'
    )
    text = f"from tfmtl import Tuning\nSPACE = {space}\n{text}"
    (shop / "search.py").write_text(text)
    done = run(shop, config="search.py", output="search")
    assert done.returncode == 0, done.stderr
    assert "Tuner" in steps_of(done.stdout)
    assert "training.learning_rate = 0.003" in done.stdout
    (trained,) = (shop / "search/artifacts/Trainer/model").glob("*/Format-Serving")
    training = json.loads((trained / "assets.extra/experiment.json").read_text())["training"]
    assert training["learning_rate"] == 3e-3 and training["epochs"] == 3
