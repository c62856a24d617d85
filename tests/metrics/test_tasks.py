"""Metrics against hand counts, brute force, scikit-learn, and the traps they avoid."""

import pickle
import time

import numpy as np
import pytest
import tf_keras as keras
from absl import logging as absl_logging
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmtl.metrics import tasks as metrics

LEVELS = [-1.5, -0.5, 0.0, 0.25, 1.0, 3.0]
ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0]),
        st.sampled_from(LEVELS),
        st.integers(0, 3),
        st.sampled_from("abc"),
    ),
    min_size=1,
    max_size=40,
)
quick = settings(max_examples=150, deadline=None)


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *args: seen.append(text % args))
    return seen


def columns(rows):
    labels, scores, weights, groups = zip(*rows, strict=True)
    return np.array(labels), np.array(scores), np.array(weights, float), np.array(groups)


def auc_by_pairs(labels, scores, weights=None):
    """The definition, in O(n²)."""
    weights = np.ones(len(labels)) if weights is None else weights
    won = pairs = 0.0
    for y1, s1, w1 in zip(labels, scores, weights, strict=True):
        for y0, s0, w0 in zip(labels, scores, weights, strict=True):
            pair = w1 * y1 * w0 * (1 - y0)
            pairs += pair
            won += pair * (1.0 if s1 > s0 else 0.5 if s1 == s0 else 0.0)
    return won / pairs if pairs else float("nan")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rare_log(n, shift, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=n) - shift
    return (rng.random(n) < sigmoid(logits)).astype(float), logits


# --- AUC -----------------------------------------------------------------------------------


def test_auc_counts_won_pairs_by_hand():
    # Pairs (0.4, 0.1), (0.4, 0.4), (0.8, 0.1), (0.8, 0.4): three won and a tie.
    assert metrics.auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]) == 3.5 / 4
    assert metrics.auc([0, 0, 1], [1, 2, 3]) == 1.0
    assert metrics.auc([1, 0, 0], [1, 2, 3]) == 0.0
    assert metrics.auc([1, 0, 1, 0], [5, 5, 5, 5]) == 0.5


@quick
@given(ROWS)
def test_auc_is_the_definition_over_all_pairs_with_weights_and_ties(rows):
    labels, scores, weights, _ = columns(rows)
    for w in (None, weights):
        want = auc_by_pairs(labels, scores, w)
        np.testing.assert_allclose(metrics.auc(labels, scores, w), want, rtol=1e-12)


@quick
@given(ROWS)
def test_an_integer_weight_is_that_row_repeated(rows):
    labels, scores, weights, groups = columns(rows)
    again = np.repeat(np.arange(len(rows)), weights.astype(int))
    if not len(again):
        return
    p = sigmoid(scores)
    weighted = metrics.task_metrics("binary", labels, p, weights, groups)
    repeated = metrics.task_metrics("binary", labels[again], p[again], None, groups[again])
    assert weighted == pytest.approx(repeated, rel=1e-10, abs=1e-12, nan_ok=True)
    weighted = metrics.task_metrics("regression", scores, labels, weights)
    repeated = metrics.task_metrics("regression", scores[again], labels[again])
    assert weighted == pytest.approx(repeated, rel=1e-10, abs=1e-12, nan_ok=True)


def test_auc_and_log_loss_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, logits = rare_log(20_000, 2.0)
    p = np.round(sigmoid(logits), 3)
    weights = np.random.default_rng(1).random(len(p))
    for w in (None, weights):
        want = sklearn.roc_auc_score(labels, p, sample_weight=w)
        assert metrics.auc(labels, p, w) == pytest.approx(want, rel=1e-12)
        want = sklearn.log_loss(labels, sigmoid(logits), sample_weight=w)
        assert metrics.log_loss(labels, sigmoid(logits), w) == pytest.approx(want, rel=1e-12)


def test_auc_of_a_soft_label_is_that_of_its_two_parts():
    labels, scores = [0.25, 0.5, 1.0, 0.0], [0.1, 0.3, 0.3, 0.9]
    split = metrics.auc([1, 0, 1, 0, 1, 0], [0.1, 0.1, 0.3, 0.3, 0.3, 0.9], [1, 3, 2, 2, 4, 4])
    assert metrics.auc(labels, scores) == pytest.approx(split, rel=1e-14)


def test_auc_does_not_change_under_a_rising_function_of_the_score():
    labels, logits = rare_log(5_000, 1.0)
    assert metrics.auc(labels, logits) == metrics.auc(labels, 3 * logits**3 - 7)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_has_no_auc_and_the_warning_names_the_metric(labels, warnings):
    assert np.isnan(metrics.auc(labels, np.arange(len(labels)), name="cvr/auc@click"))
    assert len(warnings) == 1 and warnings[0].startswith("cvr/auc@click is nan")


def test_two_hundred_thresholds_on_the_probability_lose_rare_positives_and_auc_does_not():
    labels, logits = rare_log(200_000, 8.0)
    p = sigmoid(logits)
    thresholds = keras.metrics.AUC(num_thresholds=200)
    thresholds.update_state(labels, p)
    # Both sides of every pair lie below the first threshold, 1/199, and count as tied.
    assert float(thresholds.result()) < 0.6
    assert metrics.auc(labels, p) > 0.7
    assert metrics.auc(labels, p) == pytest.approx(metrics.auc(labels, logits), abs=1e-12)


def test_auc_of_a_million_rows_takes_less_than_half_a_second():
    labels, logits = rare_log(1_000_000, 3.0)
    seconds = []
    for _ in range(4):
        start = time.process_time()
        metrics.auc(labels, logits)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.1]), "one length"),
        (([[0], [1]], [[0.1], [0.2]]), "one length"),
        (([0, 2], [0.1, 0.2]), r"labels must be in \[0, 1\]; got values from 0 to 2"),
        (([0, 1], [0.1, np.nan]), "scores must be numbers.*1 of 2"),
        (([0, 1], [0.1, 0.2], [1, -1]), "weights must be finite and not negative"),
    ],
)
def test_auc_refuses_what_it_would_silently_misread(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.auc(*arguments)


# --- grouped AUC ---------------------------------------------------------------------------


def test_gauc_weighs_groups_by_rows_and_leaves_out_those_of_one_class():
    labels = [0, 1, 1, 0, 0, 1, 1, 0, 0]
    scores = [0.1, 0.2, 0.3, 0.4, 0.1, 0.9, 0.8, 0.3, 0.2]
    groups = [7, 7, 3, 3, 3, 5, 5, 9, 9]
    # Group 7: 1 over 2 rows. Group 3: one pair of two won, over 3 rows. 5 and 9: one class.
    assert metrics.gauc(labels, scores, groups) == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    by_group = metrics.group_auc(labels, scores, groups)
    assert by_group.counted == 2
    np.testing.assert_array_equal(by_group.groups, [3, 5, 7, 9])
    np.testing.assert_array_equal(by_group.mass, [3, 2, 2, 2])
    np.testing.assert_allclose(by_group.auc, [0.5, np.nan, 1.0, np.nan])


@quick
@given(ROWS)
def test_group_auc_is_auc_within_each_group(rows):
    labels, scores, weights, groups = columns(rows)
    result = metrics.group_auc(labels, scores, groups, weights)
    for group, value, mass in zip(result.groups, result.auc, result.mass, strict=True):
        inside = groups == group
        want = auc_by_pairs(labels[inside], scores[inside], weights[inside])
        np.testing.assert_allclose(value, want, rtol=1e-12)
        assert mass == weights[inside].sum()


def test_gauc_is_blind_to_what_only_ranks_groups_and_auc_is_not():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 20)
    level = rng.normal(size=300)[groups]
    labels = (rng.random(len(groups)) < sigmoid(2 * level)).astype(float)
    assert metrics.auc(labels, level) > 0.75
    assert metrics.gauc(labels, level, groups) == 0.5


def test_gauc_without_a_group_of_both_classes_is_nan_with_a_warning(warnings):
    assert np.isnan(metrics.gauc([0, 1], [0.1, 0.2], ["a", "b"], name="ctr/gauc@imp"))
    assert warnings == ["ctr/gauc@imp is nan: none of 2 groups has both classes."]


# --- standard error ------------------------------------------------------------------------


def test_standard_error_is_that_of_delongs_placements_by_hand():
    labels, scores = [0, 1, 0, 1, 0], [0.1, 0.4, 0.4, 0.8, 0.6]
    # Positives win (1 + ½) / 3 and 3 / 3; negatives lose to 2, 1½ and 1 of 2.
    want = np.sqrt(np.var([0.5, 1.0], ddof=1) / 2 + np.var([1.0, 0.75, 0.5], ddof=1) / 3)
    assert metrics.auc_standard_error(labels, scores) == pytest.approx(want, rel=1e-12)


def test_standard_error_is_the_spread_of_auc_over_samples():
    samples = [rare_log(2_000, 2.0, seed) for seed in range(300)]
    spread = np.std([metrics.auc(*sample) for sample in samples], ddof=1)
    errors = [metrics.auc_standard_error(*sample) for sample in samples[:50]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_standard_error_needs_two_rows_of_each_class_and_hard_labels(warnings):
    assert np.isnan(metrics.auc_standard_error([0, 0, 1], [1, 2, 3]))
    assert "standard error of auc is nan" in warnings[0]
    with pytest.raises(ValueError, match="soft"):
        metrics.auc_standard_error([0, 0.5, 1, 1], [1, 2, 3, 4])


# --- streaming AUC -------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_histogram_auc_is_within_its_bound_and_the_bound_is_small(shift):
    labels, logits = rare_log(200_000, shift)
    weights = np.random.default_rng(2).random(len(labels))
    for w in (None, weights):
        histogram = metrics.LogitHistogram()
        histogram.update(labels, logits, w)
        error = abs(histogram.result() - metrics.auc(labels, logits, w))
        assert error <= histogram.error_bound() + 1e-12
        assert histogram.error_bound() < 2e-4


@quick
@given(ROWS, st.floats(1e-5, 30.0))
def test_histogram_bound_holds_where_bins_are_shared_or_logits_out_of_range(rows, scale):
    labels, scores, _, _ = columns(rows)
    histogram = metrics.LogitHistogram()
    histogram.update(labels, scores * scale)
    error = abs(histogram.result() - metrics.auc(labels, scores * scale))
    assert np.isnan(error) or error <= histogram.error_bound() + 1e-12


def test_histograms_of_parts_merge_into_that_of_the_whole():
    labels, logits = rare_log(9_000, 2.0)
    whole = metrics.LogitHistogram()
    whole.update(labels, logits)
    merged = metrics.LogitHistogram()
    for part in np.split(np.arange(9_000), 3):
        histogram = metrics.LogitHistogram()
        histogram.update(labels[part], logits[part])
        merged.merge(pickle.loads(pickle.dumps(histogram)))
    assert merged.result() == whole.result()
    with pytest.raises(ValueError, match="must agree"):
        merged.merge(metrics.LogitHistogram(low=-30.0))


def test_histogram_refuses_few_bins_and_has_no_value_before_both_classes(warnings):
    with pytest.raises(ValueError, match="65536; got 200"):
        metrics.LogitHistogram(bins=200)
    histogram = metrics.LogitHistogram()
    histogram.update([1, 1], [0.0, 1.0])
    assert np.isnan(histogram.result(name="ctr/auc@imp"))
    assert warnings[0].startswith("ctr/auc@imp is nan")


# --- likelihood ----------------------------------------------------------------------------


@pytest.mark.parametrize("positives", [1, 3, 500, 999])
def test_ne_of_the_constant_rate_is_one(positives):
    labels = np.arange(1000) < positives
    rate = np.full(1000, positives / 1000)
    assert abs(metrics.normalized_entropy(labels, rate) - 1) < 1e-12
    logit = np.log(rate / (1 - rate))
    assert abs(metrics.normalized_entropy(labels, logit, from_logits=True) - 1) < 1e-12


def test_ne_of_the_constant_rate_is_one_with_weights_and_soft_labels():
    rng = np.random.default_rng(0)
    labels, weights = rng.random(500), rng.random(500)
    rate = np.full(500, np.average(labels, weights=weights))
    assert abs(metrics.normalized_entropy(labels, rate, weights) - 1) < 1e-12


def test_ne_of_a_better_model_is_below_one_and_of_a_miscalibrated_one_above():
    labels, logits = rare_log(50_000, 2.0)
    assert metrics.normalized_entropy(labels, sigmoid(logits)) < 0.95
    assert metrics.normalized_entropy(labels, sigmoid(logits + 3)) > 1.2


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_ne_of_rows_with_one_class_is_nan_with_a_warning(label, warnings):
    value = metrics.normalized_entropy([label] * 3, [0.2, 0.3, 0.4], name="cvr/ne@click")
    assert np.isnan(value)
    assert warnings == [f"cvr/ne@click is nan: the rate of positives is {label:g}."]


def test_log_loss_is_minus_the_mean_log_likelihood():
    want = -(np.log(0.8) + np.log(1 - 0.3)) / 2
    assert metrics.log_loss([1, 0], [0.8, 0.3]) == pytest.approx(want, rel=1e-14)
    soft = -(0.25 * np.log(0.8) + 0.75 * np.log(0.2))
    assert metrics.log_loss([0.25], [0.8]) == pytest.approx(soft, rel=1e-14)


def test_log_loss_from_logits_is_exact_where_probabilities_have_rounded():
    assert metrics.log_loss([0, 1], [800.0, -800.0], from_logits=True) == 800.0
    assert metrics.log_loss([1], [800.0], from_logits=True) == 0.0
    rounded = metrics.log_loss([0.0], np.array([1.0], np.float32))
    assert rounded == pytest.approx(-np.log(1e-15), rel=1e-2)


def test_logits_given_for_probabilities_are_refused():
    with pytest.raises(ValueError, match="from_logits=True"):
        metrics.log_loss([0, 1], [-2.0, 3.0])


# --- calibration and error -----------------------------------------------------------------


def test_calibration_is_predicted_over_observed(warnings):
    assert metrics.calibration([0, 1, 1, 0], [0.5, 1.0, 1.0, 0.5]) == 1.5
    assert metrics.calibration([0, 1], [0.5, 0.5], [1, 3]) == pytest.approx(2 / 3)
    assert np.isnan(metrics.calibration([0, 0], [0.1, 0.1], name="ctr/calibration@imp"))
    assert warnings == ["ctr/calibration@imp is nan: the labels' sum is 0."]


def test_ece_by_hand_and_of_two_errors_that_cancel_in_calibration():
    labels, p = [0, 0, 1, 1], [0.2, 0.2, 0.8, 0.8]
    assert metrics.calibration(labels, p) == 1.0
    assert metrics.ece(labels, p) == pytest.approx(0.2)
    assert metrics.ece(labels, p, bins=1) == pytest.approx(0.0, abs=1e-15)


def test_ece_of_a_constant_is_its_distance_from_the_rate_in_any_order_of_rows():
    labels = np.arange(1000) < 100
    assert metrics.ece(labels, np.full(1000, 0.1)) == pytest.approx(0, abs=1e-12)
    assert metrics.ece(labels, np.full(1000, 0.3)) == pytest.approx(0.2)


def test_ece_sees_an_error_among_rare_rates_that_equal_widths_would_average_away():
    rng = np.random.default_rng(0)
    rate = np.repeat([0.002, 0.02], 200_000)
    labels = (rng.random(len(rate)) < rate).astype(float)
    assert metrics.ece(labels, rate) < 0.001
    assert metrics.ece(labels, np.repeat([0.011, 0.01101], 200_000)) > 0.008


def test_regression_metrics_by_hand(warnings):
    result = metrics.task_metrics("regression", [1.0, 2.0, 6.0], [2.0, 2.0, 4.0])
    assert result == pytest.approx(
        {
            "mae": 1.0,
            "mse": 5 / 3,
            "rmse": np.sqrt(5 / 3),
            "r2": 1 - 5 / 14,
            "bias": -1 / 3,
            "calibration": 8 / 9,
        }
    )
    assert np.isnan(metrics.r2([2.0, 2.0], [1.0, 2.0], name="quality/r2@imp"))
    assert warnings == ["quality/r2@imp is nan: the labels do not vary."]


# --- all of a task -------------------------------------------------------------------------


def test_task_metrics_has_every_binary_metric_and_gauc_only_with_groups():
    labels, logits = rare_log(1_000, 0.0)
    plain = metrics.task_metrics("binary", labels, sigmoid(logits))
    assert list(plain) == ["auc", "log_loss", "ne", "calibration", "ece", "mae"]
    grouped = metrics.task_metrics("binary", labels, sigmoid(logits), groups=np.arange(1_000) % 9)
    assert grouped.pop("gauc") == pytest.approx(plain["auc"], abs=0.03)
    assert grouped == plain
    assert plain["mae"] == pytest.approx(np.abs(labels - sigmoid(logits)).mean())


def test_task_metrics_of_no_rows_are_all_nan_and_each_warning_says_whose(warnings):
    result = metrics.task_metrics("binary", [], [], groups=[], task="cvr", space="click")
    assert set(result) > {"auc", "gauc"} and np.isnan(list(result.values())).all()
    for metric in ("auc", "gauc", "ne", "calibration"):
        assert any(w.startswith(f"cvr/{metric}@click is nan") for w in warnings)
    assert np.isnan(list(metrics.task_metrics("regression", [], []).values())).all()


def test_task_metrics_refuses_a_kind_it_does_not_know():
    with pytest.raises(ValueError, match="got 'binray'. Did you mean 'binary'"):
        metrics.task_metrics("binray", [0, 1], [0.1, 0.2])


def test_metric_name_names_task_metric_and_space():
    assert metrics.metric_name("ctcvr", "auc", "imp") == "ctcvr/auc@imp"
    for parts in [("", "auc", "imp"), ("cvr", "auc@click", "imp"), ("a/b", "auc", "imp")]:
        with pytest.raises(ValueError, match="without '/' or '@'"):
            metrics.metric_name(*parts)
