"""Bootstrap intervals: they cover, they repeat, and pairing narrows them."""

import numpy as np
import pytest

from tfmtl.metrics import bootstrap as module
from tfmtl.metrics.bootstrap import Ratio, bootstrap, intervals, paired_bootstrap, resampled


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 2000)
    interval = bootstrap(values, samples=4000, seed=1)
    error = values.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(400):
        weights = rng.exponential(size=200)
        ratio = Ratio(weights * rng.uniform(size=200), weights)
        interval = bootstrap(ratio, samples=300, seed=trial, level=0.8)
        covered += interval.low <= 0.5 <= interval.high
    # 4 standard errors of a share of 0.8 in 400 are 0.08.
    assert abs(covered / 400 - 0.8) < 0.08


def test_a_seed_repeats_and_another_does_not():
    values = np.random.default_rng(2).normal(size=100)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_the_chunks_that_bound_memory_do_not_change_the_draws(monkeypatch):
    ratios = Ratio(*np.random.default_rng(3).uniform(1, 2, (2, 37, 3)))
    at_once = resampled(ratios, samples=101, seed=5)
    monkeypatch.setattr(module, "CELLS", 5 * 37)
    np.testing.assert_allclose(resampled(ratios, samples=101, seed=5), at_once, rtol=1e-12)


def test_a_resample_is_as_many_units_drawn_with_replacement():
    # With powers of two as values, a sum says how often each unit was drawn.
    values = np.array([[1.0], [8.0], [64.0], [512.0]])
    draws = resampled(Ratio(values, np.full((4, 1), 0.25)), samples=500, seed=0)[:, 0]
    counts = np.stack([(draws.astype(int) >> shift) & 7 for shift in (0, 3, 6, 9)])
    assert (counts.sum(axis=0) == 4).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(4), abs=0.15)
    assert counts.var(axis=1) == pytest.approx(np.full(4, 0.75), abs=0.2)


def test_columns_share_their_resamples():
    values = np.random.default_rng(4).normal(size=50)
    both = intervals(Ratio.mean_of(np.stack([values, 2 * values], axis=1)), seed=0)
    assert both[1].low == pytest.approx(2 * both[0].low)
    assert both[0].low == pytest.approx(bootstrap(values, seed=0).low)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    ratio = Ratio(np.array([1.0, 0.0]), np.array([1.0, 3.0]))
    assert bootstrap(ratio, seed=0).value == 0.25
    assert bootstrap(np.array([1.0, 0.0]), seed=0).value == 0.5


def test_units_that_are_nan_count_neither_above_nor_below():
    values = np.random.default_rng(5).normal(1, 1, 300)
    holes = np.append(values, np.full(300, np.nan))
    full, holed = bootstrap(values, seed=0), bootstrap(holes, seed=0)
    assert holed.value == pytest.approx(full.value)
    assert holed.high - holed.low == pytest.approx(full.high - full.low, rel=0.15)


def test_a_paired_interval_is_narrower_where_arms_are_alike():
    rng = np.random.default_rng(6)
    easy = rng.uniform(size=500)
    first, second = easy + rng.normal(0, 0.02, 500), easy + 0.01 + rng.normal(0, 0.02, 500)
    pair = paired_bootstrap(first, second, seed=0)
    width = pair.difference.high - pair.difference.low
    apart = [bootstrap(arm, seed=seed) for seed, arm in enumerate((first, second))]
    assert width < 0.2 * np.hypot(*[i.high - i.low for i in apart])
    assert pair.difference.low > 0
    assert apart[1].low < apart[0].high
    assert pair.difference.value == pytest.approx(second.mean() - first.mean())
    assert pair.relative.value == pytest.approx(second.mean() / first.mean() - 1)


def test_an_arm_does_not_differ_from_itself():
    values = np.random.default_rng(7).uniform(size=60)
    pair = paired_bootstrap(values, values, seed=0)
    assert (pair.difference.low, pair.difference.high) == (0.0, 0.0)
    assert (pair.relative.low, pair.relative.high) == (0.0, 0.0)


def test_one_unit_or_none_that_counts_has_no_interval():
    one = bootstrap([0.5, np.nan], seed=0)
    assert one.value == 0.5 and np.isnan(one.low) and np.isnan(one.high)
    none = bootstrap([np.nan, np.nan], seed=0)
    assert np.isnan([none.value, none.low, none.high]).all()


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match="with a unit"):
        bootstrap([], seed=0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        bootstrap([1.0, 2.0], samples=0, seed=0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        bootstrap([1.0, 2.0], level=95, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap(Ratio(np.array([1.0, np.nan]), np.ones(2)), seed=0)
    with pytest.raises(ValueError, match="same units"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)
