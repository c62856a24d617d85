"""Statistics of parts merge to those of the whole, whatever the parts are."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

from tfmtl.features.exact import Moments
from tfmtl.features.states import KeySums, Quantiles, log_moments, most_frequent


def moments_of(*parts):
    whole = Moments()
    for part in parts:
        one = Moments()
        one.add(part)
        whole.merge(pickle.loads(pickle.dumps(one)))
    return whole


def counted(*words):
    state = KeySums()
    kind = np.int64 if isinstance(words[0], int) else object
    state.add(np.array(words, kind), np.ones(len(words)))
    return state


def test_a_mean_is_that_of_the_exact_sum_however_the_values_are_divided():
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000) * 10.0 ** rng.integers(-20, 20, 3000)
    whole, parts = moments_of(values), moments_of(*np.array_split(values[::-1], 7))
    assert whole.mean == float(sum(map(Fraction, values)) / 3000)
    assert (whole.mean, whole.std, whole.count) == (parts.mean, parts.std, 3000)


def test_the_deviation_of_milliseconds_of_epoch_seconds_does_not_cancel():
    values = 1.7e9 + np.arange(1000) * 2.0**-20
    assert moments_of(values).std == pytest.approx((np.arange(1000) * 2.0**-20).std(), rel=1e-9)
    assert moments_of(np.full(7, 0.1)).std == 0


def test_no_values_have_mean_zero_and_deviation_one_and_an_infinite_one_spoils_both():
    assert (moments_of().mean, moments_of().std) == (0.0, 1.0)
    assert math.isnan(moments_of(np.array([1.0, np.inf]), np.array([2.0])).mean)


def test_few_distinct_numbers_have_the_quantiles_of_numpy():
    values = np.float32(np.random.default_rng(0).normal(size=1001))
    state = Quantiles()
    for part in np.array_split(values, 5):
        state.add(part)
    expected = np.quantile(values, np.linspace(0, 1, 8)).astype(np.float32)
    np.testing.assert_array_equal(state.edges(7), expected)
    np.testing.assert_array_equal(Quantiles().edges(3), np.zeros(4))


def test_many_distinct_numbers_keep_their_edges_within_the_stated_error_in_any_order():
    values = np.float32(np.random.default_rng(0).lognormal(size=50_000))
    whole, parts = Quantiles(distinct=2000), Quantiles(distinct=2000)
    whole.add(values)
    for part in np.array_split(values[::-1], 9):
        one = Quantiles(distinct=2000)
        one.add(part)
        parts.merge(one)
    np.testing.assert_array_equal(whole.edges(10), parts.edges(10))
    exact = np.quantile(values, np.linspace(0, 1, 11))
    error = 2.0 ** (whole.bits - 23)
    assert whole.bits > 0 and error < 0.01
    assert (np.abs(whole.edges(10) / exact - 1) < error).all()
    assert whole.edges(10)[-1] == values.max() and whole.edges(10)[0] == values.min()


def test_a_vocabulary_has_the_most_frequent_first_and_of_equals_the_greater_text():
    state = counted(b"b", b"a", b"c", b"a", b"", b"line\nbreak")
    state.merge(counted(b"c", b"d"))
    assert most_frequent(state, None, 1).to_pylist() == [b"c", b"a", b"d", b"b"]
    assert most_frequent(state, 3, 2).to_pylist() == [b"c", b"a"]
    assert most_frequent(counted(10, 9, -3, 10, 9), None, 1).to_pylist() == [9, 10, -3]
    assert most_frequent(KeySums(), None, 1).to_pylist() == []


def test_sums_of_parts_are_those_of_all_rows_also_after_a_compaction(monkeypatch):
    monkeypatch.setattr("tfmtl.features.states.PENDING", 10)
    rng = np.random.default_rng(0)
    keys, numbers = rng.integers(0, 50, 1000), rng.integers(0, 9, 1000).astype(float)
    state = KeySums()
    for part in np.array_split(np.arange(1000), 40):
        state.add(keys[part], numbers[part])
    found = dict(zip(state.keys.to_pylist(), state.totals, strict=True))
    assert found == {k: numbers[keys == k].sum() for k in range(50)}


def test_moments_of_logarithms_count_a_key_once_per_row():
    counts = np.array([1, 3, 3, 7])
    logs = np.log1p(np.repeat(counts, counts))
    np.testing.assert_allclose(log_moments(counts), [logs.mean(), logs.std()])
    assert log_moments(np.zeros(0)).tolist() == [0.0, 1.0]
