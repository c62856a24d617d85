"""The command itself, from a CSV to a pushed model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
from tfmtl import (
    Evaluation, ExperimentConfig, Model, ProblemSpec, Training, binary, by_hash, categorical,
    numerical, regression,
)

PROBLEM = ProblemSpec(
    features=(
        categorical("user_id", side="user"),
        categorical("ad_id", side="ad"),
        categorical("scene"),
        numerical("price", side="ad", encoding="log", indicator=True),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
        regression("quality", label="quality"),
    ),
    scene="scene",
    request_id="request_id",
)
EXPERIMENT = ExperimentConfig(
    name="shop",
    problem=PROBLEM,
    split=by_hash("request_id"),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 2, "expert_units": (16,)},
        dim=8,
        tower_units=(8,),
    ),
    training=Training(
        epochs=3, batch_size=256, learning_rate=3e-3, patience=9, checkpoint_every=5
    ),
    evaluation=Evaluation(bounds={"ctr/auc@imp": 0.6}, min_slice_rows=100),
)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with 5,000 rows, of which users and ads explain the clicks, and a configuration."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(CONFIG)
    rng = np.random.default_rng(5)
    user, ad = rng.integers(0, 200, 5000), rng.integers(0, 40, 5000)
    price, search = rng.lognormal(2, 1, 5000), rng.random(5000) < 0.4
    logit = -0.8 + rng.normal(0, 0.8, 200)[user] + 1.2 * (ad % 5 - 2) / 2 + 0.4 * search
    click = rng.random(5000) < 1 / (1 + np.exp(-logit))
    conversion = click & (rng.random(5000) < 0.2 + 0.1 * (ad % 5))
    lines = ["request_id,user_id,ad_id,price,scene,click,conversion,quality"]
    for i in range(5000):
        lines.append(
            f"r{i // 3},u{user[i]},a{ad[i]},{price[i]:.2f},{'search' if search[i] else 'feed'},"
            f"{int(click[i])},{int(conversion[i])},{ad[i] % 5 - 0.05 * price[i]:.3f}"
        )
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def command(shop, *arguments, data="rows.csv", output="output"):
    return [
        *(sys.executable, "-m", "pipeline.local_runner"),
        *("--config", str(shop / "shop.py")),
        *("--data", str(shop / data)),
        *("--output", str(shop / output)),
        *arguments,
    ]


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, cwd=ROOT, check=False
    )


def steps_of(output):
    lines = [line.split() for line in output.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1 and line[0][0].isupper()}


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
    process = subprocess.Popen(
        command(shop, output="killed"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = shop / "killed/artifacts/checkpoints"
    # Killed in its first epoch, where a checkpoint of five steps is there.
    while not [*checkpoints.glob("*/at-*/state.json")]:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
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
    arguments = command(shop, output="search")
    arguments[arguments.index("--config") + 1] = str(shop / "search.py")
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Tuner" in steps_of(done.stdout)
    assert "training.learning_rate = 0.003" in done.stdout
    (trained,) = (shop / "search/artifacts/Trainer/model").glob("*/Format-Serving")
    training = json.loads((trained / "assets.extra/experiment.json").read_text())["training"]
    assert training["learning_rate"] == 3e-3 and training["epochs"] == 3
