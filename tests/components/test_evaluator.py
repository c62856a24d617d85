"""The Evaluator component: what it writes, and what TFX and TFMA make of it."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.evaluators import metrics_validator
from tfx.components.evaluator.executor import Executor as StockExecutor
from tfx.components.util import model_utils
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.types import Channel, artifact_utils, standard_artifacts
from tfx.utils import proto_utils

from components import tfma_results
from components.evaluator import Executor, RankingEvaluator, load_predict, read_examples
from tfmtl.declare.experiment import Evaluation, ExperimentConfig
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.declare.split import by_hash
from tfmtl.errors import DataError, SpecError
from tfmtl.evaluation import reliability
from tfmtl.evaluation.blessing import bless
from tfmtl.evaluation.evaluate import SlicedMetrics
from tfmtl.metrics.tasks import auc

PROBLEM = ProblemSpec(
    features=(numerical("price"), numerical("appeal")),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
    ),
    scene="scene",
    request_id="request_id",
)
ROWS = 3000


class Ranker(tf.Module):
    """`ctr` follows `sign_in_search * price` in search, `price` elsewhere; `cvr` the appeal."""

    def __init__(self, *, sign_in_search=1.0, noise=0.0, tasks=("ctr", "cvr")):
        super().__init__()
        self.sign_in_search = tf.Variable(sign_in_search)
        self.noise = tf.Variable(noise)
        self.tasks = tasks

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples):
        spec = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("price", "appeal", "id")}
        spec["scene"] = tf.io.FixedLenFeature([], tf.string)
        raw = tf.io.parse_example(examples, spec)
        sign = tf.where(raw["scene"] == "search", self.sign_in_search, 1.0)
        # Noise that is a function of the row: the same in every batch.
        blur = self.noise * tf.sin(raw["id"] * 12.9898)
        outputs = {
            "ctr": tf.sigmoid(sign * raw["price"] + blur)[:, tf.newaxis],
            "cvr": tf.sigmoid(raw["appeal"] - 1),
        }
        return {name: outputs[name] for name in self.tasks}


def rows_of(seed=5, rows=ROWS):
    rng = np.random.default_rng(seed)
    price, appeal = rng.normal(size=(2, rows)).astype(np.float32)
    click = (rng.random(rows) < 1 / (1 + np.exp(-2 * price))).astype(np.float32)
    bought = click * (rng.random(rows) < 1 / (1 + np.exp(1 - 2 * appeal)))
    return {
        "price": price,
        "appeal": appeal,
        "id": np.arange(rows, dtype=np.float32),
        "click": click,
        "conversion": bought.astype(np.float32),
        "scene": rng.choice([b"feed", b"search"], rows),
        "request_id": rng.integers(0, rows // 6, rows).astype(str).astype(bytes),
    }


def write_examples(folder, table, shards=("GZIP", "")):
    """One shard per compression, under `Split-test`."""
    folder = folder / "Split-test"
    folder.mkdir(parents=True)
    records = []
    for row in zip(*table.values(), strict=True):
        features = tf.train.Features()
        for name, value in zip(table, row, strict=True):
            if isinstance(value, bytes):
                features.feature[name].bytes_list.value.append(value)
            else:
                features.feature[name].float_list.value.append(value)
        records.append(tf.train.Example(features=features).SerializeToString())
    for i, (kind, part) in enumerate(
        zip(shards, np.array_split(np.array(records, object), len(shards)), strict=True)
    ):
        name = f"data-{i:05d}-of-{len(shards):05d}" + (".gz" if kind else "")
        with tf.io.TFRecordWriter(str(folder / name), kind) as writer:
            for record in part:
                writer.write(record)


def artifact(kind, uri, identity):
    made = kind()
    made.uri, made.id = str(uri), identity
    uri.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture(scope="module")
def table():
    return rows_of()


@pytest.fixture(scope="module")
def world(tmp_path_factory, table):
    """Examples and three models, each made once."""
    folder = tmp_path_factory.mktemp("world")
    write_examples(folder / "examples", table)
    examples = artifact(standard_artifacts.Examples, folder / "examples", 1)
    examples.split_names = artifact_utils.encode_split_names(["train", "test"])
    made = {"examples": examples}
    models = {
        "good": Ranker(),
        "bad_in_search": Ranker(sign_in_search=0.0),
        "slightly_worse": Ranker(noise=0.8),
        "older": Ranker(tasks=("ctr",)),
    }
    for identity, (name, model) in enumerate(models.items(), start=10):
        made[name] = artifact(standard_artifacts.Model, folder / name, identity)
        tf.saved_model.save(
            model,
            f"{made[name].uri}/Format-Serving",
            signatures={"serving_default": model.serve},
        )
    return made


@pytest.fixture(autouse=True)
def without_plot(monkeypatch):
    """A plot takes ten times as long as the evaluation of so few rows."""
    monkeypatch.setattr(reliability, "draw", lambda *_: None)


def run(world, folder, model, baseline=None, **evaluation):
    outputs = {
        "evaluation": artifact(standard_artifacts.ModelEvaluation, folder / "evaluation", 20),
        "blessing": artifact(standard_artifacts.ModelBlessing, folder / "blessing", 21),
    }
    experiment = ExperimentConfig(
        name="ranker",
        problem=PROBLEM,
        split=by_hash("request_id"),
        evaluation=Evaluation(**evaluation),
    )
    inputs = {"examples": [world["examples"]], "model": [world[model]]}
    if baseline is not None:
        inputs["baseline_model"] = [world[baseline]]
    Executor().Do(
        inputs,
        {name: [made] for name, made in outputs.items()},
        {"experiment": experiment.to_json(), "example_splits": '["test"]'},
    )
    return outputs["evaluation"], outputs["blessing"]


def verdict_in(evaluation):
    with open(f"{evaluation.uri}/verdict.json") as file:
        return json.load(file)


def sentences(evaluation):
    return [reason["sentence"] for reason in verdict_in(evaluation)["reasons"]]


def test_a_good_model_is_blessed_and_tfma_opens_its_metrics(world, tmp_path, table, monkeypatch):
    monkeypatch.undo()
    evaluation, blessing = run(world, tmp_path, "good", bounds={"cvr/auc@click": 0.6})
    assert (tmp_path / "blessing" / "BLESSED").exists()
    assert model_utils.is_model_blessed(blessing)
    assert blessing.get_int_custom_property("current_model_id") == world["good"].id
    assert blessing.get_string_custom_property("current_model") == world["good"].uri

    result = tfma.load_eval_result(evaluation.uri)
    slices = dict(result.slicing_metrics)
    assert set(slices) == {(), (("scene", "feed"),), (("scene", "search"),)}
    clicked = table["click"] == 1
    expected = auc(table["conversion"][clicked], table["appeal"][clicked])
    assert slices[()]["cvr"][""]["auc@click"]["doubleValue"] == pytest.approx(expected, abs=1e-6)
    assert slices[()]["cvr"][""]["rows@click"]["doubleValue"] == clicked.sum()
    assert slices[()]["ctr"][""]["rows@imp"]["doubleValue"] == ROWS
    assert result.model_location == world["good"].uri
    assert result.config.model_specs[0].example_weight_keys["cvr"] == "click"
    validation = tfma.load_validation_result(evaluation.uri)
    assert validation.validation_ok and validation.rubber_stamp

    with open(f"{evaluation.uri}/metrics.json") as file:
        own = SlicedMetrics.from_json(file.read())
    assert own.overall["cvr/auc@click"] == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "evaluation" / "reliability.png").read_bytes()[1:4] == b"PNG"


def test_a_model_that_fails_in_one_scene_is_not_blessed_and_the_scene_is_named(
    world, tmp_path, monkeypatch
):
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: warned.append(text % a))
    evaluation, blessing = run(world, tmp_path, "bad_in_search", slice_bounds={"ctr/auc@imp": 0.7})
    (sentence,) = sentences(evaluation)
    assert sentence.startswith("ctr/auc@imp is 0.5000 in scene=search, below its bound 0.7000")
    assert any(sentence in text for text in warned)
    assert (tmp_path / "blessing" / "NOT_BLESSED").exists()
    assert not (tmp_path / "blessing" / "BLESSED").exists()
    assert not model_utils.is_model_blessed(blessing)
    validation = tfma.load_validation_result(evaluation.uri)
    assert not validation.validation_ok
    (failing,) = validation.metric_validations_per_slice
    assert failing.slice_key.single_slice_keys[0].bytes_value == b"search"
    assert failing.failures[0].message == sentence
    assert failing.failures[0].metric_threshold.value_threshold.lower_bound.value == 0.7


def test_a_small_scene_does_not_decide(world, tmp_path):
    _, blessing = run(
        world,
        tmp_path,
        "bad_in_search",
        slice_bounds={"ctr/auc@imp": 0.7},
        min_slice_rows=ROWS,
    )
    assert model_utils.is_model_blessed(blessing)


def test_a_fall_against_the_last_blessed_model_withholds_the_blessing(world, tmp_path):
    evaluation, blessing = run(world, tmp_path, "slightly_worse", "good")
    assert not model_utils.is_model_blessed(blessing)
    found = sentences(evaluation)
    assert found and all(s.startswith("ctr/auc@imp") and "fell by" in s for s in found)
    assert blessing.get_int_custom_property("baseline_model_id") == world["good"].id
    # The candidate's metrics and their change are what opens without naming a model.
    ctr = dict(tfma.load_eval_result(evaluation.uri).slicing_metrics)[()]["ctr"][""]
    before = tfma.load_eval_result(evaluation.uri, model_name="baseline").slicing_metrics
    before = dict(before)[()]["ctr"][""]["auc@imp"]["doubleValue"]
    change = ctr["auc@imp"]["doubleValue"] - before
    assert change < -0.005
    assert ctr["auc@imp_diff"]["doubleValue"] == pytest.approx(change)


def test_the_other_way_round_it_is_blessed(world, tmp_path):
    _, blessing = run(world, tmp_path, "good", "slightly_worse")
    assert model_utils.is_model_blessed(blessing)


def test_an_earlier_model_with_fewer_tasks_is_compared_on_those(world, tmp_path):
    evaluation, blessing = run(world, tmp_path / "a", "good", "older")
    assert model_utils.is_model_blessed(blessing)
    assert (
        "Task cvr is not compared: the last blessed model lacks it."
        in verdict_in(evaluation)["notes"]
    )
    _, blessing = run(world, tmp_path / "b", "slightly_worse", "older")
    assert not model_utils.is_model_blessed(blessing)


def test_an_earlier_model_that_does_not_run_is_not_compared_and_said_so(world, tmp_path):
    gone = artifact(standard_artifacts.Model, tmp_path / "gone", 9)
    evaluation, blessing = run({**world, "gone": gone}, tmp_path, "good", "gone")
    assert model_utils.is_model_blessed(blessing)
    (note,) = verdict_in(evaluation)["notes"]
    assert note.startswith("The last blessed model does not run on these rows")


def test_a_candidate_that_lacks_a_task_is_an_error(world, tmp_path):
    with pytest.raises(DataError, match="no output for task 'cvr'"):
        run(world, tmp_path, "older")


def test_the_latest_blessed_model_is_found_by_tfx(world, tmp_path):
    _, good = run(world, tmp_path / "1", "good")
    _, bad = run(world, tmp_path / "2", "bad_in_search", slice_bounds={"ctr/auc@imp": 0.7})
    # Later, but not blessed.
    assert world["bad_in_search"].id > world["good"].id
    found = LatestBlessedModelStrategy().resolve_artifacts(
        None, {"model": [world["good"], world["bad_in_search"]], "model_blessing": [good, bad]}
    )
    assert found["model"] == [world["good"]]


def test_records_are_read_gzipped_or_not_in_order(world, table):
    folder = tf.io.gfile.glob(f"{world['examples'].uri}/Split-test/*")
    ids = []
    for batch in read_examples(sorted(folder), batch_size=1024):
        spec = {"id": tf.io.FixedLenFeature([], tf.float32)}
        ids.extend(tf.io.parse_example(batch, spec)["id"].numpy())
    np.testing.assert_array_equal(ids, table["id"])


def test_a_model_without_the_signature_is_refused(tmp_path):
    model = tf.Module()
    model.call = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(model, str(tmp_path), signatures={"rank": model.call})
    with pytest.raises(DataError, match=r"no signature 'serving_default'; it has \['rank'\]"):
        load_predict(str(tmp_path))


def test_a_wrong_bound_is_refused_when_the_pipeline_is_made():
    experiment = ExperimentConfig(
        name="ranker",
        problem=PROBLEM,
        split=by_hash("request_id"),
        evaluation=Evaluation(bounds={"cvr/auc@imp": 0.6}),
    )
    with pytest.raises(SpecError, match="no metric 'cvr/auc@imp'"):
        RankingEvaluator(
            examples=Channel(type=standard_artifacts.Examples),
            model=Channel(type=standard_artifacts.Model),
            experiment=experiment,
        )


@pytest.mark.parametrize("seed", range(8))
def test_the_verdict_is_that_of_tfmas_validator_where_all_slices_are_large(seed):
    rng = np.random.default_rng(seed)

    def sliced():
        names = [PROBLEM.metric_name(t, m) for t in PROBLEM.tasks for m in ("auc", "ece")]
        counts = {
            PROBLEM.metric_name(t, m): v
            for t in PROBLEM.tasks
            for m, v in (("rows", 5000.0), ("positives", 90.0))
        }
        keys = [(), (("scene", "feed"),), (("scene", "search"),)]
        return SlicedMetrics(
            slices={
                k: {n: 0.6 + 0.01 * rng.standard_normal() for n in names} | counts for k in keys
            }
        )

    candidate, baseline = sliced(), sliced()
    evaluation = Evaluation(
        bounds={"ctr/auc@imp": 0.59, "cvr/ece@click": 0.61},
        slice_bounds={"cvr/auc@click": 0.585},
        max_fall=0.01,
    )
    config = tfma_results.eval_config(PROBLEM, evaluation, baseline=True)
    failing = set()
    for key, values in candidate.slices.items():
        before = baseline.slices[key]
        metrics = {}
        for name, value in values.items():
            metrics[tfma_results.metric_key(PROBLEM, name, model="candidate")] = value
            metrics[tfma_results.metric_key(PROBLEM, name, model="baseline")] = before[name]
            diff = tfma_results.metric_key(PROBLEM, name, model="candidate", diff=True)
            metrics[diff] = value - before[name]
        result = metrics_validator.validate_metrics((key, metrics), config)
        for validation in result.metric_validations_per_slice:
            for failure in validation.failures:
                assert failure.message.strip() == "", failure
                failing.add(
                    (
                        key,
                        f"{failure.metric_key.output_name}/{failure.metric_key.name}",
                        failure.metric_key.is_diff,
                    )
                )
    verdict = bless(candidate, baseline, PROBLEM, evaluation)
    assert {(r.slice, r.metric, r.max_fall is not None) for r in verdict.reasons} == failing
    assert verdict.blessed == (not failing)


@pytest.mark.slow
def test_tfxs_own_evaluator_runs_the_same_configuration_and_agrees(world, tmp_path, table):
    write_examples(tmp_path / "examples", table, shards=("GZIP",))
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples", 1)
    examples.split_names = artifact_utils.encode_split_names(["test"])
    settings = {"slice_bounds": {"cvr/auc@click": 0.99}, "min_slice_rows": 100}
    ours, not_blessed = run(world, tmp_path / "ours", "good", **settings)
    outputs = {
        "evaluation": [artifact(standard_artifacts.ModelEvaluation, tmp_path / "theirs", 30)],
        "blessing": [artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing", 31)],
    }
    config = tfma_results.eval_config(PROBLEM, Evaluation(**settings))
    StockExecutor().Do(
        {"examples": [examples], "model": [world["good"]]},
        outputs,
        {
            "eval_config": proto_utils.proto_to_json(config),
            "example_splits": '["test"]',
            "module_path": None,
        },
    )
    assert not model_utils.is_model_blessed(not_blessed)
    assert not model_utils.is_model_blessed(outputs["blessing"][0])
    theirs = dict(tfma.load_eval_result(outputs["evaluation"][0].uri).slicing_metrics)
    own = dict(tfma.load_eval_result(ours.uri).slicing_metrics)
    assert own.keys() == theirs.keys()
    for key, outputs_of in theirs.items():
        for output, by_sub_key in outputs_of.items():
            for name, value in by_sub_key[""].items():
                # Their AUC has 10,000 thresholds.
                close = pytest.approx(value["doubleValue"], abs=2e-4)
                assert own[key][output][""][name]["doubleValue"] == close, (key, output, name)
        assert {"auc@imp", "log_loss@imp", "calibration@imp"} <= outputs_of["ctr"][""].keys()
        assert {"auc@click", "calibration@click"} <= outputs_of["cvr"][""].keys()


def test_undefined_metrics_reach_tfma_as_undefined(tmp_path):
    metrics = SlicedMetrics(slices={(): {"cvr/auc@click": math.nan, "cvr/rows@click": 0.0}})
    verdict = bless(metrics, None, PROBLEM, Evaluation())
    assert not verdict.blessed
    tfma_results.write(
        str(tmp_path),
        problem=PROBLEM,
        evaluation=Evaluation(),
        candidate=metrics,
        baseline=None,
        verdict=verdict,
        data="",
        models={"": ""},
    )
    ((_, found),) = tfma.load_eval_result(str(tmp_path)).slicing_metrics
    assert found["cvr"][""]["auc@click"]["doubleValue"] == "NaN"
