"""Skew: each of the ways in which a request's value is not the value that training read."""

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmtl
from tfmtl.declare.experiment import ExperimentConfig, Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import DataError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export
from tfmtl.serving.skew import skew, training_graph
from tfmtl.serving.skew_command import main

PROBLEM = ProblemSpec(
    features=(
        categorical("ad"),
        categorical("logged_in"),
        categorical("account"),
        categorical("city"),
        categorical("tags", max_values=3),
        categorical("count", dtype="int64"),
        numerical("price"),
    ),
    tasks=(binary("ctr", label="click"),),
)
EXPERIMENT = ExperimentConfig(name="shop", problem=PROBLEM, split=tfmtl.by_row_number())
ROWS = 60


def training_rows():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "ad": [str(i % 7) for i in range(ROWS)],
            "logged_in": [str(i % 2 == 0) for i in range(ROWS)],
            "account": [str(10_000_000_025 + i % 5) for i in range(ROWS)],
            "city": [None if i % 4 == 0 else f"c{i % 3}" for i in range(ROWS)],
            "tags": [["t1", f"t{2 + i % 3}"] for i in range(ROWS)],
            "count": [i % 3 for i in range(ROWS)],
            "price": rng.normal(size=ROWS).astype(np.float32),
            "click": rng.integers(0, 2, ROWS).astype(np.float32),
        }
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    preprocessor = Preprocessor(PROBLEM)
    packed = preprocessor.fit(training_rows().drop(columns="row"))
    model = MultiTaskModel.build_from(PROBLEM, preprocessor.table_rows(), Model(dim=4))
    model(packed)
    generator = tf.random.Generator.from_seed(0)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(variable.shape, stddev=0.5))
    path = str(tmp_path_factory.mktemp("models") / "1")
    export(model, preprocessor, path, extra={"experiment.json": EXPERIMENT.to_json()})
    return path, preprocessor, model


def requests():
    rows = training_rows().drop(columns="click").to_dict("records")
    return [{**row, "price": float(row["price"])} for row in rows]


def changed(column, change):
    return [{**row, column: change(row[column])} for row in requests()]


def test_the_same_values_show_no_skew(served):
    report = skew(served[0], requests(), training_rows(), PROBLEM, key=("row",))
    assert report.columns == () and not report.skewed and report.rows == ROWS
    assert "agree" in report.describe()


def test_the_training_graph_and_the_saved_model_agree(served):
    path, preprocessor, model = served
    graph = training_graph(preprocessor, model, PROBLEM)
    assert not skew(path, requests(), training_rows(), PROBLEM, training=graph).skewed


CASES = {
    "an id with .0": ("ad", lambda v: f"{v}.0", "without .0"),
    "a boolean in lower case": ("logged_in", str.lower, "boolean"),
    "an integer that lost its digits": (
        "account",
        lambda v: f"{float(v):.10e}",
        "read as floats",
    ),
    "NA for a missing value": ("city", lambda v: "NA" if v is None else v, "means missing"),
    "delimited text for a list": ("tags", "|".join, "list is meant"),
    "delimited text inside a list": ("tags", lambda v: ["|".join(v)], "list is meant"),
    "a float for an integer": ("count", float, "read as floats"),
}


@pytest.mark.parametrize("what", CASES)
def test_it_is_seen_in_the_column_its_feature_and_the_prediction(served, what):
    column, change, cause = CASES[what]
    report = skew(served[0], changed(column, change), training_rows(), PROBLEM, key=("row",))
    assert set(report.of("column")) == {column} == set(report.of("feature"))
    assert cause in report.of("column")[column].cause
    assert report.skewed
    if what != "NA for a missing value":  # An unknown and a missing city may predict alike.
        assert report.of("prediction")["ctr"].differing > 0


def test_a_spelling_that_the_graph_takes_as_missing_is_told_and_does_not_count(tmp_path):
    preprocessor = Preprocessor(PROBLEM, null_values=("NA", ""))
    packed = preprocessor.fit(training_rows().drop(columns="row"))
    model = MultiTaskModel.build_from(PROBLEM, preprocessor.table_rows(), Model(dim=4))
    model(packed)
    path = export(model, preprocessor, str(tmp_path / "1"))
    sent = changed("city", lambda v: "NA" if v is None else v)
    report = skew(path, sent, training_rows(), PROBLEM, key=("row",))
    assert set(report.of("column")) == {"city"} and not report.skewed


def test_another_statistic_in_training_is_seen_in_the_feature(served):
    path, _, model = served
    other = Preprocessor(PROBLEM)
    other.fit(training_rows().assign(price=lambda f: f["price"] * 2))
    graph = training_graph(other, model, PROBLEM)
    report = skew(path, requests(), training_rows(), PROBLEM, training=graph)
    assert set(report.of("feature")) == {"price"} and not report.of("column")


def test_rows_are_matched_by_key_in_any_order_and_the_rest_is_counted(served):
    shuffled = training_rows().sample(frac=1, random_state=0)
    extra = [*requests(), {**requests()[0], "row": 999}]
    report = skew(served[0], extra, shuffled, PROBLEM, key=("row",))
    assert (report.rows, report.unmatched, report.skewed) == (ROWS, 1, False)


def test_a_missing_column_or_no_common_row_is_refused(served):
    with pytest.raises(DataError, match="requests lack the column 'city'"):
        without = [{k: v for k, v in row.items() if k != "city"} for row in requests()]
        skew(served[0], without, training_rows(), PROBLEM)
    with pytest.raises(DataError, match="no row is on both sides"):
        skew(served[0], changed("row", lambda v: v + 1000), training_rows(), PROBLEM, key=("row",))


def test_the_command_replays_files_and_its_status_tells(served, tmp_path, capsys):
    log = training_rows().assign(tags=lambda f: f["tags"].map("|".join))
    log["city"] = log["city"].fillna("NA")
    log.to_csv(tmp_path / "log.csv", index=False)
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    same.write_text("\n".join(json.dumps(row) for row in requests()))
    body = {"signature_name": "predict", "instances": changed("ad", lambda v: f"{v}.0")}
    other.write_text(json.dumps(body))
    arguments = [str(tmp_path / "log.csv"), "--key", "row", "--null", "NA"]
    assert main([served[0], str(same), *arguments]) == 0
    assert "agree" in capsys.readouterr().out
    assert main([served[0], str(other), *arguments]) == 1
    out = capsys.readouterr().out
    assert "'0' | '0.0'" in out and "without .0" in out
    assert main([served[0], str(tmp_path / "none"), *arguments]) == 2
