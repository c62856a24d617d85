"""Metrics per task, space and slice, from serialised rows."""

import math

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.errors import DataError, SpecError
from tfmtl.evaluation.evaluate import (
    MAX_SLICES,
    SlicedMetrics,
    collect,
    evaluate,
    format_table,
    measure,
)
from tfmtl.evaluation.reliability import draw, reliability
from tfmtl.metrics.tasks import auc, gauc, normalized_entropy

PROBLEM = ProblemSpec(
    features=(numerical("price"), numerical("appeal"), categorical("ad_id")),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
        regression("quality", label="score"),
    ),
    scene="scene",
    request_id="request_id",
)
EVALUATION = Evaluation(slices=("segment", ("scene", "segment")))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def table_of(rows=4000, seed=3):
    """Raw columns: clicks follow price; conversions among clicks follow appeal alone."""
    rng = np.random.default_rng(seed)
    price, appeal = rng.normal(size=(2, rows))
    click = (rng.random(rows) < sigmoid(price)).astype(np.float32)
    conversion = click * (rng.random(rows) < sigmoid(appeal - 1))
    return {
        "price": price.astype(np.float32),
        "appeal": appeal.astype(np.float32),
        "scene": rng.choice([b"feed", b"search"], rows),
        "segment": rng.integers(0, 3, rows),
        "request_id": np.char.add("r", rng.integers(0, rows // 8, rows).astype(str)).astype(bytes),
        "click": click,
        "conversion": conversion.astype(np.float32),
        "score": (2 * price + rng.normal(size=rows)).astype(np.float32),
    }


def feature(value):
    if value is None:
        return tf.train.Feature()
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, np.integer | int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def serialise(table):
    rows = zip(*table.values(), strict=True)
    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={n: feature(v) for n, v in zip(table, row, strict=True)}
            )
        ).SerializeToString()
        for row in rows
    ]


def batches(table, size=700):
    return tf.data.Dataset.from_tensor_slices(serialise(table)).batch(size)


def predict(serialised):
    spec = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("price", "appeal")}
    parsed = tf.io.parse_example(serialised, spec)
    ctr, cvr = tf.sigmoid(parsed["price"]), tf.sigmoid(parsed["appeal"] - 1)
    # One column per row, as a Dense layer gives it, or none: both are served.
    return {"ctr": ctr[:, None], "cvr": cvr, "ctcvr": ctr * cvr, "quality": 2 * parsed["price"]}


@pytest.fixture(scope="module")
def table():
    return table_of()


@pytest.fixture(scope="module")
def rows(table):
    return collect(predict, batches(table), PROBLEM, EVALUATION)


@pytest.fixture(scope="module")
def metrics(rows):
    return measure(rows, PROBLEM, EVALUATION)


def test_a_conversion_rate_is_measured_on_clicked_rows_only(table, metrics):
    clicked = table["click"] == 1
    said = sigmoid(table["appeal"].astype(np.float64) - 1)
    on_clicks = auc(table["conversion"][clicked], said[clicked])
    on_all = auc(table["conversion"], said)
    assert abs(on_clicks - on_all) > 0.01
    assert metrics.overall["cvr/auc@click"] == pytest.approx(on_clicks, abs=1e-6)
    assert metrics.overall["cvr/rows@click"] == clicked.sum()
    assert metrics.overall["cvr/positives@click"] == table["conversion"].sum()
    # The same head over all rows is a diagnostic under a name of its own.
    assert metrics.overall["cvrhead/auc@imp"] == pytest.approx(on_all, abs=1e-6)


def test_predictions_outside_the_space_do_not_matter(table, metrics):
    def spoiled(serialised):
        outputs = predict(serialised)
        spec = {"click": tf.io.FixedLenFeature([], tf.float32)}
        clicked = tf.io.parse_example(serialised, spec)["click"]
        return {**outputs, "cvr": outputs["cvr"] * clicked}

    again = evaluate(spoiled, batches(table), PROBLEM, EVALUATION)
    assert again.overall["cvr/auc@click"] == metrics.overall["cvr/auc@click"]
    assert again.overall["cvr/calibration@click"] == metrics.overall["cvr/calibration@click"]
    assert again.overall["cvrhead/auc@imp"] != metrics.overall["cvrhead/auc@imp"]


@pytest.mark.parametrize(
    "key",
    [
        (("scene", "search"),),
        (("segment", 2),),
        (("scene", "feed"), ("segment", 1)),
    ],
)
def test_a_slices_metrics_are_those_of_its_rows_alone(table, metrics, key):
    inside = np.ones(len(table["price"]), bool)
    for column, value in key:
        inside &= table[column] == (value.encode() if isinstance(value, str) else value)
    part = {name: values[inside] for name, values in table.items()}
    alone = evaluate(predict, batches(part), PROBLEM, Evaluation())
    assert set(metrics.slices[key]) == set(alone.overall)
    for name, value in alone.overall.items():
        # Float32 predictions differ in their last bit with a row's place in its batch.
        assert metrics.slices[key][name] == pytest.approx(value, rel=1e-6), name


def test_slices_of_one_column_hold_every_row_once(table, metrics):
    for columns in (("scene",), ("segment",), ("scene", "segment")):
        found = [k for k in metrics.slices if tuple(c for c, _ in k) == columns]
        assert found == sorted(found)
        counts = [metrics.slices[k]["ctr/rows@imp"] for k in found]
        assert sum(counts) == len(table["price"])


def test_gauc_groups_by_request(table, metrics):
    said = sigmoid(table["price"].astype(np.float64))
    expected = gauc(table["click"], said, table["request_id"])
    assert metrics.overall["ctr/gauc@imp"] == pytest.approx(expected, abs=1e-6)


def test_rows_without_a_request_are_no_group_together(table):
    some = dict(table)
    some["request_id"] = np.where(np.arange(len(table["price"])) % 2, b"", table["request_id"])
    have = some["request_id"] != b""
    found = evaluate(predict, batches(some), PROBLEM, Evaluation()).overall["ctr/gauc@imp"]
    said = sigmoid(table["price"].astype(np.float64))
    expected = gauc(table["click"][have], said[have], some["request_id"][have])
    assert found == pytest.approx(expected, abs=1e-6)


def test_batch_size_does_not_change_a_metric(table, metrics):
    again = evaluate(predict, batches(table, size=4000), PROBLEM, EVALUATION)
    assert again.slices.keys() == metrics.slices.keys()
    for key, values in metrics.slices.items():
        # TensorFlow's vectorised sigmoid rounds a batch's last rows otherwise.
        assert again.slices[key] == pytest.approx(values, rel=1e-5, nan_ok=True)


def test_rows_with_a_missing_label_or_no_weight_are_not_observed():
    problem = ProblemSpec(
        features=(numerical("price"),), tasks=(binary("ctr", label="click", weight="w"),)
    )
    table = {
        "price": np.array([3.0, -3.0, 0.0, 1.0], np.float32),
        "click": [1.0, 0.0, None, 0.0],
        "w": [1.0, 2.0, 1.0, 0.0],
    }

    def ctr(serialised):
        spec = {"price": tf.io.FixedLenFeature([], tf.float32)}
        return {"ctr": tf.sigmoid(tf.io.parse_example(serialised, spec)["price"])}

    found = evaluate(ctr, batches(table), problem, Evaluation()).overall
    assert found["ctr/rows@imp"] == 2 and found["ctr/positives@imp"] == 1
    # Metrics are unweighted.
    expected = normalized_entropy([1, 0], sigmoid(np.array([3.0, -3.0])))
    assert found["ctr/ne@imp"] == pytest.approx(expected, rel=1e-6)


def test_a_missing_slice_value_is_a_slice_of_its_own(table):
    some = {name: values[:60] for name, values in table.items()}
    some["scene"] = [None if i % 3 == 0 else b"feed" for i in range(60)]
    some["segment"] = [None if i % 4 == 1 else 7 for i in range(60)]
    found = evaluate(predict, batches(some), PROBLEM, EVALUATION).slices
    assert found[(("scene", "(missing)"),)]["ctr/rows@imp"] == 20
    assert found[(("scene", "feed"),)]["ctr/rows@imp"] == 40
    assert found[(("segment", "(missing)"),)]["ctr/rows@imp"] == 15
    assert found[(("segment", 7),)]["ctr/rows@imp"] == 45


def test_a_slice_of_one_class_has_no_auc_and_warns_nobody(table, monkeypatch):
    some = {name: values[:400] for name, values in table.items()}
    some["click"] = np.where(some["scene"] == b"feed", 0.0, some["click"]).astype(np.float32)
    warned = []
    monkeypatch.setattr(logging.get_absl_logger(), "handle", warned.append)
    found = evaluate(predict, batches(some), PROBLEM, Evaluation()).slices
    assert math.isnan(found[(("scene", "feed"),)]["ctr/auc@imp"])
    assert math.isnan(found[(("scene", "feed"),)]["cvr/ne@click"])
    assert math.isfinite(found[(("scene", "search"),)]["ctr/auc@imp"])
    assert warned == []


def test_a_prediction_that_is_not_a_number_spoils_its_task_and_no_other(table, metrics):
    def broken(serialised):
        outputs = predict(serialised)
        spoil = tf.tensor_scatter_nd_update(outputs["ctcvr"], [[0]], [float("nan")])
        return {**outputs, "ctcvr": spoil}

    found = evaluate(broken, batches(table), PROBLEM, EVALUATION).overall
    assert math.isnan(found["ctcvr/auc@imp"]) and math.isnan(found["ctcvr/mae@imp"])
    assert found["ctr/auc@imp"] == metrics.overall["ctr/auc@imp"]


def test_many_slices_keep_the_largest(table):
    rows = MAX_SLICES + 200
    many = {name: np.resize(values, rows) for name, values in table.items()}
    many["segment"] = np.arange(rows)
    many["segment"][-50:] = 5
    found = evaluate(predict, batches(many), PROBLEM, Evaluation(slices=("segment",))).slices
    kept = [k for k in found if k and k[0][0] == "segment"]
    assert len(kept) == MAX_SLICES and found[(("segment", 5),)]["ctr/rows@imp"] == 51


def test_a_model_without_a_task_is_refused_unless_partial_is_wanted(table):
    def older(serialised):
        return {"ctr": predict(serialised)["ctr"], "cvrs": predict(serialised)["cvr"]}

    with pytest.raises(DataError, match=r"no output for task 'cvr'.*Did you mean 'cvrs'"):
        collect(older, batches(table), PROBLEM, EVALUATION)
    rows = collect(older, batches(table), PROBLEM, EVALUATION, partial=True)
    found = measure(rows, PROBLEM, EVALUATION).overall
    assert {name.partition("/")[0] for name in found} == {"ctr"}


def test_an_output_of_the_wrong_length_is_refused(table):
    with pytest.raises(DataError, match="1 values of 'ctr' for 700 rows"):
        collect(
            lambda b: {**predict(b), "ctr": predict(b)["ctr"][:1]},
            batches(table),
            PROBLEM,
            EVALUATION,
        )


def test_an_empty_split_is_refused(table):
    with pytest.raises(DataError, match="no rows"):
        evaluate(predict, batches(table).take(0), PROBLEM, EVALUATION)


def test_a_slice_column_that_is_not_there_is_refused_by_its_nearest_name(table):
    with pytest.raises(DataError, match=r"'segmnt'.*Did you mean 'segment'"):
        evaluate(predict, batches(table), PROBLEM, Evaluation(slices=("segmnt",)))


def test_a_list_column_cannot_slice(table):
    problem = ProblemSpec(
        features=(categorical("tags", max_values=3),), tasks=(binary("ctr", label="click"),)
    )
    with pytest.raises(SpecError, match="'tags' holds lists"):
        evaluate(predict, batches(table), problem, Evaluation(slices=("tags",)))


def test_json_keeps_every_metric_and_the_undefined_ones(metrics):
    again = SlicedMetrics.from_json(metrics.to_json())
    assert again.overall == metrics.overall and again.slices.keys() == metrics.slices.keys()
    assert again.to_json() == metrics.to_json()
    undefined = SlicedMetrics(slices={(("age", 3),): {"ctr/auc@imp": math.nan}})
    text = undefined.to_json()
    assert "NaN" not in text
    again = SlicedMetrics.from_json(text)
    assert math.isnan(again.slices[(("age", 3),)]["ctr/auc@imp"])


def test_the_table_shows_each_task_in_its_space_overall_and_by_scene(metrics):
    text = format_table(metrics, columns=("scene",))
    lines = text.splitlines()
    assert lines[0].split() == ["task", "slice", "rows", "AUC", "NE", "calibration"]
    value = f"{metrics.overall['cvr/auc@click']:.4f}"
    (line,) = [line for line in lines if line.startswith("cvr@click")]
    assert line.split()[:2] == ["cvr@click", "overall"] and line.split()[3] == value
    assert sum("scene=search" in line for line in lines) == 4
    assert "segment" not in text and "cvrhead" not in text
    # Columns line up: every number of a column ends where its heading ends.
    end = lines[0].index("AUC") + 3
    assert all(line[end - 1].isdigit() for line in lines[1:4])
    (quality,) = [line for line in lines if line.startswith("quality@imp")]
    assert f"{metrics.overall['quality/r2@imp']:.4f}" in quality


def test_reliability_bins_hold_equally_many_rows_and_their_rates():
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1], np.float32)
    predictions = np.array([0.9, 0.1, 0.2, 0.3, 0.8, 0.7, 0.4, 0.6], np.float32)
    said, happened, error = reliability(labels, predictions, bins=2)
    np.testing.assert_allclose(said, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(happened, [0.25, 0.75])
    np.testing.assert_allclose(error, np.sqrt(0.25 * 0.75 / 4))


def test_the_reliability_figure_has_one_diagram_per_binary_task(rows):
    titles = [axes.get_title() for axes in draw(rows, PROBLEM).axes]
    clicked = int(rows.observed[:, 1].sum())
    assert titles == [
        "ctr@imp (4,000 rows)",
        f"cvr@click ({clicked:,} rows)",
        "ctcvr@imp (4,000 rows)",
    ]
