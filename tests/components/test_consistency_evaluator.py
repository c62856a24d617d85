"""ReplayGen and ConsistencyEvaluator: what they write, refuse and withhold."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tfx.components.util import model_utils
from tfx.types import Channel, standard_artifacts

from components.consistency_evaluator import ConsistencyEvaluator, Executor, read_consistency
from components.replay_gen import (
    EXAMPLES_FILE,
    LOG_FILE,
    ReplayGen,
    ReplayLog,
    fingerprint,
    write_replay,
)
from tfmtl.data.readers import Source
from tfmtl.declare.experiment import ExperimentConfig, Replay
from tfmtl.declare.problem import ProblemSpec, binary, numerical, regression
from tfmtl.declare.split import by_hash
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import DataError, SpecError
from tfmtl.replay import curve as recall_curve
from tfmtl.replay.log import ReplayLog as Log
from tfmtl.replay.recall import recall_at, tvd

PROBLEM = ProblemSpec(
    features=(numerical("appeal"), numerical("quality"), numerical("bid")),
    tasks=(binary("ctr", label="click"), regression("cqs", label="final_cqs")),
    scene="scene",
    request_id="request_id",
)
VALUE = TotalValue(actions={"cpc": "click", "cpa": "click_conversion"})
REQUESTS, ADS = 200, 30


class EarlyStage(tf.Module):
    """The final stage itself, or what `noise` and `sign` leave of it."""

    def __init__(self, *, noise=0.0, sign=1.0, tasks=("ctr", "cqs")):
        super().__init__()
        self.noise, self.sign = tf.Variable(noise), tf.Variable(sign)
        self.tasks = tasks

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples):
        spec = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("appeal", "quality")}
        raw = tf.io.parse_example(examples, spec)
        # Noise that is a function of the row: the same in every batch.
        blur = self.noise * tf.sin(1e3 * raw["appeal"])
        outputs = {
            "ctr": tf.sigmoid(self.sign * raw["appeal"] + blur)[:, tf.newaxis],
            "cqs": raw["quality"],
        }
        return {name: outputs[name] for name in self.tasks}


def table_of(requests=REQUESTS, ads=ADS, seed=3):
    """A replay log in which all that the final stage knows is among the features."""
    rng = np.random.default_rng(seed)
    rows = requests * ads
    appeal, quality = rng.normal(size=rows), 0.3 * rng.normal(size=rows)
    table = pd.DataFrame(
        {
            "request_id": np.repeat(np.arange(requests), ads),
            "ad_id": np.concatenate([rng.permutation(500)[:ads] for _ in range(requests)]),
            "scene": np.repeat(rng.choice(["feed", "search"], requests), ads),
            "appeal": appeal.astype(np.float32),
            "quality": quality.astype(np.float32),
            "bid": rng.lognormal(size=rows),
            "objective": rng.choice(["cpc", "cpa"], rows),
            "early_cvr": rng.random(rows),
        }
    )
    table["final_cqs"] = table["quality"].astype(np.float64)
    table["final_tv"] = value_of(table, table["appeal"], table["quality"])
    return table.sample(frac=1, random_state=1).reset_index(drop=True)


def value_of(table, logit, quality):
    return VALUE(
        pctr=1 / (1 + np.exp(-logit.astype(np.float64))),
        rate=table["early_cvr"],
        cqs=quality,
        bid=table["bid"],
        objective=table["objective"].to_numpy(object),
    )


def experiment_of(**replay):
    return ExperimentConfig(
        name="early",
        problem=PROBLEM,
        split=by_hash("request_id"),
        value=VALUE,
        replay=Replay(**{"k": 5, "ks": (2, 10)} | replay),
    )


def artifact(kind, uri, identity):
    made = kind()
    made.uri, made.id = str(uri), identity
    os.makedirs(uri, exist_ok=True)
    return made


@pytest.fixture(scope="module")
def table():
    return table_of()


@pytest.fixture(scope="module")
def world(tmp_path_factory, table):
    """A replay log and models, each made once."""
    folder = tmp_path_factory.mktemp("world")
    table.to_parquet(folder / "replay.parquet")
    made = {"replay": artifact(ReplayLog, folder / "replay", 1)}
    path = str(folder / "replay.parquet")
    write_replay(path, made["replay"].uri, experiment_of(), Source())
    models = {
        "oracle": EarlyStage(),
        "noisy": EarlyStage(noise=1.0),
        "reversed": EarlyStage(sign=-1.0),
        "broken": EarlyStage(noise=float("nan")),
        "older": EarlyStage(tasks=("ctr",)),
    }
    for identity, (name, model) in enumerate(models.items(), start=10):
        made[name] = artifact(standard_artifacts.Model, folder / name, identity)
        signatures = {"serving_default": model.serve}
        tf.saved_model.save(model, f"{made[name].uri}/Format-Serving", signatures=signatures)
    return made


@pytest.fixture(autouse=True)
def without_plot(monkeypatch):
    """A plot takes ten times as long as the evaluation of so few rows."""

    class Figure:
        def savefig(self, image, **_):
            image.write(b"drawn")

    monkeypatch.setattr(recall_curve, "draw", lambda _: Figure())


def run(world, folder, model, baseline=None, *, ranking=None, experiment=None):
    outputs = {
        "evaluation": artifact(standard_artifacts.ModelEvaluation, folder / "evaluation", 20),
        "blessing": artifact(standard_artifacts.ModelBlessing, folder / "blessing", 21),
    }
    inputs = {"replay": [world["replay"]], "model": [world[model]]}
    if baseline is not None:
        inputs["baseline_model"] = [world[baseline]]
    if ranking is not None:
        said = artifact(standard_artifacts.ModelBlessing, folder / "ranking", 19)
        said.set_int_custom_property("blessed", int(ranking))
        (folder / "ranking" / ("BLESSED" if ranking else "NOT_BLESSED")).touch()
        inputs["ranking_blessing"] = [said]
    Executor().Do(
        inputs,
        {name: [made] for name, made in outputs.items()},
        {"experiment": (experiment or experiment_of()).to_json()},
    )
    with open(f"{outputs['evaluation'].uri}/verdict.json") as file:
        verdict = json.load(file)
    return outputs["evaluation"], outputs["blessing"], verdict


def test_an_early_stage_that_is_the_final_one_has_recall_1_and_divergence_0(
    world, tmp_path, monkeypatch
):
    monkeypatch.undo()
    evaluation, blessing, verdict = run(world, tmp_path, "oracle")
    found = read_consistency(evaluation.uri)
    assert found.ks == (2, 5, 10)
    assert set(found.slices) == {(), (("scene", "feed"),), (("scene", "search"),)}
    for part in found.slices.values():
        for k in found.ks:
            assert part.metrics[f"soft_recall@{k}"].value == 1.0
            assert part.metrics[f"hard_recall@{k}"].value == 1.0
            assert part.metrics[f"tvd@{k}"].value == pytest.approx(0, abs=1e-6)
            assert part.metrics[f"cqs_error@{k}"].value == pytest.approx(0, abs=1e-12)
    assert verdict["blessed"] and model_utils.is_model_blessed(blessing)
    assert (tmp_path / "blessing" / "BLESSED").exists()
    assert blessing.get_int_custom_property("current_model_id") == world["oracle"].id
    assert blessing.get_string_custom_property("component_id") == "ConsistencyEvaluator"
    assert (tmp_path / "evaluation" / "recall_curve.png").read_bytes()[1:4] == b"PNG"


def test_the_numbers_are_those_of_the_served_predictions_total_value(world, tmp_path, table):
    evaluation, _, _ = run(world, tmp_path, "noisy")
    found = read_consistency(evaluation.uri).overall
    logit = table["appeal"] + np.sin(np.float32(1e3) * table["appeal"])
    early = value_of(table, logit, table["quality"])
    log = Log.from_table(table)
    expected = recall_at(log, early, [2, 5, 10]).values()
    for i, k in enumerate((2, 5, 10)):
        for name in ("soft_recall", "hard_recall", "soft_recall_micro"):
            close = pytest.approx(expected[name][i], abs=1e-4)
            assert found.metrics[f"{name}@{k}"].value == close
    assert found.metrics["tvd@5"].value == pytest.approx(tvd(log, early, 5), abs=1e-4)
    assert found.requests == REQUESTS and found.rows == REQUESTS * ADS
    interval = found.metrics["soft_recall@5"]
    assert interval.low < interval.value < interval.high < 1


def test_recall_below_its_bound_withholds_the_blessing_and_says_so(world, tmp_path):
    strict = experiment_of(bounds={"soft_recall@5": 0.9, "tvd@5": 9.0})
    evaluation, blessing, verdict = run(world, tmp_path, "reversed", experiment=strict)
    value = read_consistency(evaluation.uri).overall.metrics["soft_recall@5"].value
    (reason,) = verdict["reasons"]
    assert reason["sentence"].startswith(f"soft_recall@5 is {value:.4f} [")
    assert reason["sentence"].endswith("below its bound 0.9000")
    assert not model_utils.is_model_blessed(blessing)
    assert (tmp_path / "blessing" / "NOT_BLESSED").exists()


def test_divergence_above_its_bound_withholds_the_blessing(world, tmp_path):
    _, _, verdict = run(world, tmp_path, "noisy", experiment=experiment_of(bounds={"tvd@10": 0.01}))
    (reason,) = verdict["reasons"]
    assert reason["metric"] == "tvd@10" and "above its bound 0.0100" in reason["sentence"]


def test_a_fall_of_soft_recall_against_the_last_blessed_model_withholds_the_blessing(
    world, tmp_path
):
    evaluation, blessing, verdict = run(world, tmp_path, "noisy", "oracle")
    (reason,) = verdict["reasons"]
    assert "soft_recall@5" in reason["sentence"] and "fell by" in reason["sentence"]
    assert not model_utils.is_model_blessed(blessing)
    assert blessing.get_int_custom_property("baseline_model_id") == world["oracle"].id
    with open(f"{evaluation.uri}/consistency.json") as file:
        plain = json.load(file)
    difference = plain["difference"]["soft_recall@5"]["difference"]
    values = [
        plain[arm]["slices"][0]["metrics"]["soft_recall@5"]["value"]
        for arm in ("candidate", "baseline")
    ]
    assert difference["value"] == pytest.approx(values[0] - values[1])
    assert difference["low"] < difference["value"] < difference["high"] < 0


def test_a_fall_within_the_margin_and_a_rise_are_blessed(world, tmp_path):
    lenient = experiment_of(max_fall=0.9)
    assert run(world, tmp_path / "a", "noisy", "oracle", experiment=lenient)[2]["blessed"]
    assert run(world, tmp_path / "b", "oracle", "noisy")[2]["blessed"]


def test_what_the_other_evaluator_refused_is_not_blessed_whatever_its_recall(world, tmp_path):
    _, blessing, verdict = run(world, tmp_path / "a", "oracle", ranking=False)
    assert not model_utils.is_model_blessed(blessing)
    assert [r["metric"] for r in verdict["reasons"]] == ["blessing"]
    _, blessing, _ = run(world, tmp_path / "b", "oracle", ranking=True)
    assert model_utils.is_model_blessed(blessing)


def test_an_earlier_model_without_the_tasks_is_not_compared_and_said_so(world, tmp_path):
    evaluation, _, verdict = run(world, tmp_path, "oracle", "older")
    assert verdict["blessed"]
    (note,) = verdict["notes"]
    assert note.startswith("The last blessed model does not run") and "'cqs'" in note
    assert json.loads((tmp_path / "evaluation/consistency.json").read_text())["baseline"] is None
    assert read_consistency(evaluation.uri) is not None


def test_a_candidate_without_the_tasks_is_an_error(world, tmp_path):
    with pytest.raises(DataError, match="no output for task 'cqs'"):
        run(world, tmp_path, "older")


def test_a_model_that_predicts_nan_is_withheld_and_measured_by_nobody(world, tmp_path):
    evaluation, blessing, verdict = run(world, tmp_path / "a", "broken")
    assert not model_utils.is_model_blessed(blessing)
    assert "not all finite" in verdict["reasons"][0]["sentence"]
    assert read_consistency(evaluation.uri) is None
    _, _, verdict = run(world, tmp_path / "b", "oracle", "broken")
    assert verdict["blessed"] and "not all finite" in verdict["notes"][0]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"soft_recal@5": 0.5}, "Did you mean 'soft_recall@5'"),
        ({"soft_recall@20": 0.5}, "no metric 'soft_recall@20'"),
        ({"tvd@5": (2.0, 1.0)}, "lies above"),
        ({"tvd@5": "low"}, "must be a finite number"),
    ],
)
def test_a_wrong_bound_is_refused_when_the_pipeline_is_made(bounds, message):
    with pytest.raises(SpecError, match=message):
        ConsistencyEvaluator(
            replay=Channel(type=ReplayLog),
            model=Channel(type=standard_artifacts.Model),
            experiment=experiment_of(bounds=bounds),
        )


def broken(table, **changes):
    table = table.copy()
    for name, (row, value) in changes.items():
        if value is None and table[name].dtype.kind != "O":
            table[name] = table[name].astype("float64")
        table.loc[row, name] = np.nan if value is None else value
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_tv": (7, None)}, "'final_tv' of the replay log is missing in 1 of 6,000 rows"),
        ({"bid": (7, None)}, "'bid' of the replay log is missing .* first in row 8"),
        ({"objective": (7, "cpm")}, "objective 'cpm' is none of"),
        ({"scene": (7, "stories")}, "slice column 'scene' varies inside request"),
    ],
)
def test_a_bad_replay_log_is_refused_with_its_row_and_nothing_is_written(
    tmp_path, table, change, message
):
    broken(table, **change).to_parquet(tmp_path / "replay.parquet")
    with pytest.raises(DataError, match=message):
        write_replay(
            str(tmp_path / "replay.parquet"), str(tmp_path / "out"), experiment_of(), Source()
        )
    assert not (tmp_path / "out").exists()


def test_a_rate_is_needed_only_where_the_objective_pays_for_a_conversion(tmp_path, table):
    path = str(tmp_path / "replay.parquet")
    clicks = int(np.flatnonzero(table["objective"] == "cpc")[0])
    broken(table, early_cvr=(clicks, None)).to_parquet(path)
    write_replay(path, str(tmp_path / "out"), experiment_of(), Source())
    conversions = int(np.flatnonzero(table["objective"] == "cpa")[0])
    broken(table, early_cvr=(conversions, None)).to_parquet(path)
    with pytest.raises(DataError, match="'early_cvr' of the replay log is missing"):
        write_replay(path, str(tmp_path / "out2"), experiment_of(), Source())


def test_an_ad_twice_in_a_request_and_a_k_beyond_every_request_are_refused(tmp_path, table):
    path = str(tmp_path / "replay.parquet")
    pd.concat([table, table.iloc[:1]]).to_parquet(path)
    with pytest.raises(DataError, match="holds ad .* twice, in rows 1 and 6,001"):
        write_replay(path, str(tmp_path / "out"), experiment_of(), Source())
    table.to_parquet(path)
    with pytest.raises(DataError, match="K=50, but all 200 requests .* fewer ads, 30 at most"):
        write_replay(path, str(tmp_path / "out"), experiment_of(ks=(50,)), Source())


def test_text_in_a_dialect_of_its_own_makes_the_same_log_as_parquet(tmp_path, table, world):
    first = table.iloc[:3000]
    (tmp_path / "days").mkdir()
    first.to_csv(tmp_path / "days/1.csv", sep=";", index=False)
    table.iloc[3000:].to_csv(tmp_path / "days/2.csv", sep=";", index=False)
    source = Source(delimiter=";")
    write_replay(str(tmp_path / "days"), str(tmp_path / "out"), experiment_of(), source)
    ours = pd.read_parquet(tmp_path / "out" / LOG_FILE)
    pd.testing.assert_frame_equal(ours, pd.read_parquet(f"{world['replay'].uri}/{LOG_FILE}"))
    # Every digit of the final stage's values is there, though features are float32.
    np.testing.assert_array_equal(ours["final_tv"], table["final_tv"])
    records = tf.data.TFRecordDataset(str(tmp_path / "out" / EXAMPLES_FILE)).batch(10_000)
    spec = {"appeal": tf.io.FixedLenFeature([], tf.float32)}
    appeal = tf.io.parse_example(next(iter(records)), spec)["appeal"]
    np.testing.assert_array_equal(appeal, table["appeal"])


def test_requests_of_k_ads_or_fewer_and_worthless_ones_are_counted_in_the_notes(tmp_path, world):
    table = table_of(requests=40, ads=12)
    table = table[(table["request_id"] > 2) | (table["ad_id"].rank(method="first") <= 60)]
    table.loc[table["request_id"].isin([30, 31]), "final_tv"] = -1.0
    small = int((table.groupby("request_id").size() <= 5).sum())
    assert small
    table.to_parquet(tmp_path / "replay.parquet")
    replay = artifact(ReplayLog, tmp_path / "replay", 2)
    write_replay(str(tmp_path / "replay.parquet"), replay.uri, experiment_of(), Source())
    _, _, verdict = run({**world, "replay": replay}, tmp_path, "oracle")
    _, whole, skipped = verdict["notes"]
    assert whole.startswith(f"{small} of {table['request_id'].nunique()} replayed requests")
    assert skipped.startswith("2 of ")


def test_caching_follows_the_content_of_the_files_not_their_dates(tmp_path):
    path = tmp_path / "replay.csv"
    path.write_text("a,b\n1,2\n")
    before = fingerprint(str(path), Source())
    os.utime(path, (1, 1))
    assert fingerprint(str(path), Source()) == before
    # As many bytes, in the same second.
    path.write_text("a,b\n1,3\n")
    os.utime(path, (1, 1))
    assert fingerprint(str(path), Source()) != before


def test_another_bound_does_not_read_the_log_again(tmp_path, table):
    path = str(tmp_path / "replay.parquet")
    table.to_parquet(path)
    plain = ReplayGen(path=path, experiment=experiment_of()).exec_properties
    strict = experiment_of(bounds={"soft_recall@5": 0.9}, max_fall=0.5)
    assert ReplayGen(path=path, experiment=strict).exec_properties == plain
    deeper = ReplayGen(path=path, experiment=experiment_of(k=6)).exec_properties
    assert deeper != plain


def test_an_experiment_without_a_replay_has_no_consistency(tmp_path, table):
    table.to_parquet(tmp_path / "replay.parquet")
    bare = experiment_of().replace_path("replay", None)
    with pytest.raises(SpecError, match="declares no replay"):
        ReplayGen(path=str(tmp_path / "replay.parquet"), experiment=bare)
