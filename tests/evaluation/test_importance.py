"""Importance of columns: what the model reads counts, what it does not read counts nothing."""

import numpy as np
import pandas as pd
import pytest

from tests.doubles.served import PREPROCESSOR, random_model, request_rows
from tests.doubles.worlds import PROBLEM
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.errors import DataError
from tfmtl.evaluation.importance import explain_request, permutation_importance, predictor
from tfmtl.metrics.auc import auc

TWO = ProblemSpec(
    features=(numerical("a"), numerical("b"), categorical("c")),
    tasks=(binary("ctr", label="click"), regression("quality", label="quality")),
)


def world(rows=4000):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "c": "x"})
    p = 1 / (1 + np.exp(-2 * frame["a"]))
    labels = np.stack([rng.random(rows) < p, frame["b"] + rng.normal(size=rows)], axis=1)
    return frame, labels.astype(float), np.ones((rows, 2), bool)


def predict(frame):
    a = pd.to_numeric(frame["a"]).fillna(0)
    return {"ctr": (1 / (1 + np.exp(-2 * a))).to_numpy(), "quality": frame["b"].to_numpy(float)}


def test_each_task_rests_on_the_column_that_it_reads_and_on_no_other():
    frame, labels, observed = world()
    found = permutation_importance(predict, TWO, frame, labels, observed)
    table = found.pivot(index="column", columns="task", values="importance")
    assert table.loc["a", "ctr"] > 0.25 and table.loc["b", "quality"] > 0.4
    assert table.loc["c"].abs().max() == table.loc["b", "ctr"] == table.loc["a", "quality"] == 0
    # The AUC of a shuffled column is one half.
    auc_before = auc(labels[:, 0], predict(frame)["ctr"])
    assert table.loc["a", "ctr"] == pytest.approx(auc_before - 0.5, abs=0.03)


def test_a_task_is_measured_in_its_own_space():
    frame, labels, observed = world()
    observed[:, 0] = frame["a"] > 0
    one = permutation_importance(predict, TWO, frame, labels, observed)
    labels[~observed[:, 0], 0] = 0.0
    other = permutation_importance(predict, TWO, frame, labels, observed)
    pd.testing.assert_frame_equal(one, other)


def test_a_request_is_explained_by_the_logits_without_each_value():
    found = explain_request(predict, TWO, {"a": 1.5, "b": 2.0, "c": "x"})
    first = found.iloc[0]
    assert first["column"] == "a" and first["ctr"] == pytest.approx(3.0)
    assert found.set_index("column").loc["c", "ctr"] == 0


def test_a_whole_model_is_explained_from_its_raw_columns():
    rows = request_rows(30)
    found = explain_request(predictor(PREPROCESSOR, random_model()), PROBLEM, rows[3])
    expected = set(PROBLEM.feature_columns()) - {"tag_weights"}
    assert set(found["column"]) == expected
    assert np.isfinite(found[list(PROBLEM.task_names)].to_numpy(float)).all()


def test_no_rows_are_refused():
    frame, labels, observed = world(4)
    with pytest.raises(DataError, match="no rows"):
        permutation_importance(predict, TWO, frame[:0], labels[:0], observed[:0])
