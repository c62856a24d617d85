"""The encodings: hand-computed values, and facts about what they were fitted on."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    count_encoding,
    numerical,
    regression,
    target_encoding,
)
from tfmtl.errors import DataError
from tfmtl.features.fit import Preprocessor

CLICK = binary("ctr", label="click")


def fit(features, columns, tasks=(CLICK,), **context):
    problem = ProblemSpec(features=features, tasks=tasks, **context)
    columns = {
        task.label: np.zeros(next(iter(columns.values())).shape[0]) for task in tasks
    } | columns
    preprocessor = Preprocessor(problem)
    return preprocessor, preprocessor.fit(columns)


def test_a_vocabulary_is_ordered_by_count_and_keeps_rows_for_unknown_and_missing():
    preprocessor, packed = fit(
        (categorical("x"),), {"x": np.array(["a", "b", "b", "c", "c", None], object)}
    )
    np.testing.assert_array_equal(packed["ids_context"].numpy().ravel(), [4, 3, 3, 2, 2, 1])
    new = preprocessor({"x": np.array(["a", "z", ""])})["ids_context"].numpy().ravel()
    np.testing.assert_array_equal(new, [4, 0, 1])
    assert preprocessor.table_rows() == {"x": 5}


def test_a_vocabulary_drops_what_is_rarer_than_min_count_or_beyond_its_size():
    values = np.array(["a"] * 3 + ["b"] * 2 + ["c"])
    rare, _ = fit((categorical("x", min_count=2),), {"x": values})
    small, _ = fit((categorical("x", size=1),), {"x": values})
    assert rare.table_rows() == {"x": 4}
    assert small.table_rows() == {"x": 3}


def test_identity_refuses_nothing_but_maps_what_lies_outside_to_unknown():
    feature = categorical("x", encoding="identity", size=3)
    _, packed = fit((feature,), {"x": np.array([0, 2, 3, -1])})
    np.testing.assert_array_equal(packed["ids_context"].numpy().ravel(), [2, 4, 0, 0])


@pytest.mark.parametrize("kind", [pa.float64(), pa.int32(), pa.int64()])
def test_a_gap_in_whole_arrow_ids_is_missing_whatever_their_type(kind):
    feature = categorical("x", encoding="hash", size=2**30, dtype="int64")
    columns = {"x": np.array([7, 8, 9]), "click": np.zeros(3)}
    preprocessor, packed = fit((feature,), columns)
    gap = preprocessor({"x": pa.array([7, None, 9], kind)})["ids_context"].numpy().ravel()
    known = packed["ids_context"].numpy().ravel()
    np.testing.assert_array_equal(gap, [known[0], 1, known[2]])
    if pa.types.is_floating(kind):
        gap = preprocessor({"x": pa.array([7, np.nan, 9], kind)})["ids_context"].numpy().ravel()
        np.testing.assert_array_equal(gap, [known[0], 1, known[2]])


def test_a_hash_needs_no_fitting_and_stays_inside_its_buckets():
    values = np.array([f"v{i}" for i in range(1000)])
    feature = categorical("x", encoding="hash", size=7)
    _, one = fit((feature,), {"x": values})
    _, other = fit((feature,), {"x": values[::-1]})
    ids = one["ids_context"].numpy().ravel()
    assert set(ids) == set(range(2, 9))
    np.testing.assert_array_equal(ids, other["ids_context"].numpy().ravel()[::-1])


def test_a_list_is_padded_cut_and_weighed():
    feature = categorical("t", max_values=2, weights="w")
    _, packed = fit(
        (feature,),
        {
            "t": tf.ragged.constant([["a"], [], ["a", "a", "b"]]),
            "w": tf.ragged.constant([[2.0], [], [1.0, 3.0, 5.0]]),
            "click": np.zeros(3),
        },
    )
    np.testing.assert_array_equal(packed["ids_context"], [[2, -1], [-1, -1], [2, 2]])
    np.testing.assert_array_equal(packed["numbers_context"], [[2, 0], [0, 0], [1, 3]])


def test_standard_and_log_have_zero_mean_and_unit_variance_and_missing_is_the_mean():
    values = np.float32([1, 10, 100, 1000, np.nan])
    _, packed = fit(
        (numerical("x"), numerical("l", column="x", encoding="log", indicator=True)),
        {"x": values},
    )
    numbers = packed["numbers_context"].numpy()
    np.testing.assert_allclose(numbers[:4, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(numbers[:4, :2].std(0), 1, atol=1e-6)
    logs = np.log1p(values[:4])
    np.testing.assert_allclose(numbers[:4, 1], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    np.testing.assert_array_equal(numbers[4], [0, 0, 1])


def test_quantile_buckets_hold_equal_shares_and_zero_and_missing_have_their_own():
    values = np.float32([*range(100), *[0] * 50, np.nan])
    _, packed = fit((numerical("x", encoding="quantile", bins=4),), {"x": values})
    ids = packed["ids_context"].numpy().ravel()
    np.testing.assert_array_equal(np.bincount(ids), [0, 1, 51, 33, 33, 33])


def test_piecewise_linear_matches_the_papers_equation_inside_the_training_range():
    values = np.float32([1, 2, 3, 5, 0, 0])
    preprocessor, _ = fit((numerical("x", encoding="piecewise", bins=3),), {"x": values})
    found = preprocessor({"x": np.float32([1.5, 2.5, 4.0, np.nan, 99.0, 0.0])})
    # Edges 1, 2, 3, 5: quantiles of the values other than zero.
    expected = [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_allclose(found["numbers_context"], expected, atol=1e-6)


def test_a_count_is_of_training_rows():
    preprocessor, _ = fit((count_encoding("x"),), {"x": np.array(["a"] * 3 + ["b"])})
    seen = preprocessor({"x": np.array(["a", "b", "new"])})["numbers_context"].numpy().ravel()
    logs = np.log1p([3, 3, 3, 1])
    np.testing.assert_allclose(seen, (np.log1p([3, 1, 0]) - logs.mean()) / logs.std(), rtol=1e-4)


def test_a_target_encoding_is_the_smoothed_mean_of_the_other_folds():
    columns = {
        "x": np.array(["a", "a", "a", "b"]),
        "click": np.float32([1, 1, 0, 0]),
        FOLD: np.array([0, 0, 1, 1]),
    }
    feature = target_encoding("x", task="ctr", smoothing=1.0, folds=2)
    preprocessor, packed = fit((feature,), columns)

    def score(clicks, rows, prior=0.5):
        p = (clicks + prior) / (rows + 1)
        return np.log(p / (1 - p)) - np.log(prior / (1 - prior))

    own = [score(0, 1), score(0, 1), score(2, 2), score(0, 0)]
    np.testing.assert_allclose(packed["numbers_context"].numpy().ravel(), own, atol=1e-5)
    served = preprocessor({"x": np.array(["a", "b", "c"])})["numbers_context"].numpy().ravel()
    np.testing.assert_allclose(served, [score(2, 3), score(0, 1), 0], atol=1e-5)


def test_a_rows_own_label_never_reaches_its_target_encoding():
    rng = np.random.default_rng(0)
    x, click = rng.integers(0, 5, 400).astype(str), (rng.random(400) < 0.3).astype(np.float32)
    flipped = click.copy()
    flipped[7] = 1 - flipped[7]
    feature = (target_encoding("x", task="ctr", smoothing=1e-6),)
    _, one = fit(feature, {"x": x, "click": click})
    _, other = fit(feature, {"x": x, "click": flipped})
    # The prior cancels only where it has no weight, hence the tiny smoothing.
    before, after = one["numbers_context"].numpy()[7, 0], other["numbers_context"].numpy()[7, 0]
    prior = np.log(click.mean() / (1 - click.mean())) - np.log(
        flipped.mean() / (1 - flipped.mean())
    )
    assert abs(before + prior - after) < 1e-4


def test_a_target_encoding_counts_only_its_tasks_own_space():
    columns = {
        "x": np.array(["a"] * 4 + ["b"] * 4),
        "click": np.float32([1, 1, 0, 0] * 2),
        "buy": np.float32([1, 0, 0, 0, 0, 0, 0, 0]),
    }
    tasks = (CLICK, binary("cvr", label="buy", observed_if="click"))
    preprocessor, _ = fit((target_encoding("x", task="cvr", smoothing=1.0),), columns, tasks)
    served = preprocessor({"x": np.array(["a"])})["numbers_context"].numpy()[0, 0]
    p, prior = (1 + 0.25) / (2 + 1), 0.25
    assert served == pytest.approx(np.log(p / (1 - p)) - np.log(prior / (1 - prior)), abs=1e-5)


def test_a_regressions_target_encoding_is_in_standard_deviations():
    tasks = (regression("cqs", label="q"),)
    columns = {"x": np.array(["a", "a", "b", "b"]), "q": np.float32([-1, -3, 1, 3])}
    preprocessor, _ = fit((target_encoding("x", task="cqs", smoothing=2.0),), columns, tasks)
    served = preprocessor({"x": np.array(["a", "b"])})["numbers_context"].numpy().ravel()
    np.testing.assert_allclose(served, np.array([-1, 1]) / np.std([-1, -3, 1, 3]), rtol=1e-5)


def test_labels_outside_their_space_or_missing_weigh_nothing():
    tasks = (CLICK, binary("cvr", label="buy", observed_if="click", weight="w"))
    _, packed = fit(
        (categorical("x"),),
        {
            "x": np.array(["a"] * 4),
            "click": np.float32([1, 0, 1, np.nan]),
            "buy": np.float32([1, 1, np.nan, 1]),
            "w": np.float32([2, 2, 2, 2]),
        },
        tasks,
    )
    np.testing.assert_array_equal(packed["label_weights"], [[1, 2], [1, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(packed["labels"], [[1, 1], [0, 0], [1, 0], [0, 0]])


def test_statistics_come_from_the_fitted_rows_alone():
    preprocessor, _ = fit((numerical("x"),), {"x": np.float32([0, 2])})
    one = preprocessor({"x": np.float32([4, 1000])})["numbers_context"].numpy()
    np.testing.assert_allclose(one.ravel(), [3, 999])


def test_a_missing_column_is_named():
    preprocessor, _ = fit((numerical("x"),), {"x": np.float32([0, 2])})
    with pytest.raises(DataError, match=r"\['x'\]"):
        preprocessor({"y": np.float32([1])})


def test_an_infinite_number_is_missing_and_spoils_no_other_row():
    for encoding in ("standard", "log"):
        feature = numerical("x", encoding=encoding, indicator=True)
        preprocessor, packed = fit((feature,), {"x": np.float32([0, 2, np.inf, np.nan])})
        np.testing.assert_allclose(packed["numbers_context"][:, 0], [-1, 1, 0, 0], atol=1e-6)
        served = preprocessor({"x": np.float32([-np.inf, 2])})["numbers_context"]
        np.testing.assert_allclose(served, [[0, 1], [1, 0]], atol=1e-6)


def test_a_vocabulary_none_of_whose_values_is_frequent_enough_knows_none():
    for values, dtype in ((np.array(["a", "b"]), "string"), (np.array([1, 2]), "int64")):
        feature = categorical("x", dtype=dtype, min_count=9)
        preprocessor, packed = fit((feature,), {"x": values})
        np.testing.assert_array_equal(packed["ids_context"], [[0], [0]])
        np.testing.assert_array_equal(preprocessor({"x": values})["ids_context"], [[0], [0]])
        assert preprocessor.table_rows() == {"x": 2}


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([["a", "b"], None, ["b", None, "c"]]),
        [["a", "b"], [], ["b", None, "c"]],
        pa.array([["a", "b"], None, ["b", None, "c"]], pa.large_list(pa.string())),
    ],
)
def test_lists_in_a_frame_are_lists_and_not_their_text(column):
    frame = {"x": column, "click": np.zeros(3)}
    preprocessor = Preprocessor(
        ProblemSpec(features=(categorical("x", max_values=3),), tasks=(CLICK,))
    )
    ids = preprocessor.fit(frame)["ids_context"].numpy()
    np.testing.assert_array_equal(ids >= 0, [[1, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert ids[0, 1] == ids[2, 0] and preprocessor.table_rows() == {"x": 5}


def test_an_id_is_the_same_text_whether_or_not_its_column_has_gaps():
    preprocessor, _ = fit((categorical("x"),), {"x": pd.Series([7, None, 8, 8])})
    whole = preprocessor({"x": pd.Series([7, 8, 9])})["ids_context"].numpy().ravel()
    np.testing.assert_array_equal(whole, [3, 2, 0])


def test_pandas_own_missing_value_is_missing_in_every_type():
    features = (categorical("t"), categorical("i", dtype="int64"), numerical("x", indicator=True))
    big = 2**60 + 1
    frame = pd.DataFrame(
        {
            "t": pd.Series(["a", None, "b"], dtype="string"),
            "i": pd.Series([big, None, big - 1], dtype="Int64"),
            "x": pd.Series([1, None, 3], dtype="Float64"),
            "click": pd.Series([True, None, False], dtype="boolean"),
        }
    )
    packed = Preprocessor(ProblemSpec(features=features, tasks=(CLICK,))).fit(frame)
    ids = packed["ids_context"].numpy()
    np.testing.assert_array_equal(ids == 1, [[0, 0], [1, 1], [0, 0]])
    assert len(set(ids[:, 1])) == 3
    np.testing.assert_allclose(packed["numbers_context"], [[-1, 0], [0, 1], [1, 0]], atol=1e-6)
    np.testing.assert_array_equal(packed["label_weights"], [[1], [0], [1]])


def test_fitting_without_a_label_names_it():
    preprocessor = Preprocessor(ProblemSpec(features=(numerical("x"),), tasks=(CLICK,)))
    with pytest.raises(DataError, match=r"labels \['click'\]"):
        preprocessor.fit({"x": np.float32([0, 2])})


def test_one_text_column_is_a_sample_space_and_a_label():
    tasks = (
        binary("visit", label="segment", positive="yes"),
        binary("buy", label="sale", observed_if="segment"),
    )
    columns = {
        "x": np.array(["a"] * 3),
        "segment": np.array(["yes", "no", ""]),
        "sale": np.float32([1, 1, 1]),
    }
    _, packed = fit((categorical("x"),), columns, tasks)
    np.testing.assert_array_equal(packed["labels"], [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(packed["label_weights"], [[1, 1], [1, 0], [0, 0]])
