"""Average precision against its definition and scikit-learn."""

import numpy as np
import pytest

from tfmtl.metrics.pr_auc import pr_auc


def by_definition(labels, scores, weights):
    """Precision at every distinct threshold, times the recall that it adds."""
    total, recall, area = np.dot(weights, labels), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        passed = np.dot(weights[chosen], labels[chosen])
        if passed:
            area += (passed / total - recall) * passed / weights[chosen].sum()
        recall = passed / total
    return area


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_it_is_scikit_learns_with_ties_and_weights(levels):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 5_000) / levels
    labels = (rng.random(5_000) < 0.1 + 0.2 * scores).astype(float)
    for weights in (np.ones(5_000), rng.random(5_000), rng.integers(0, 3, 5_000).astype(float)):
        value = pr_auc(labels, scores, weights)
        wanted = sklearn.average_precision_score(labels, scores, sample_weight=weights)
        assert value == pytest.approx(wanted, rel=1e-12)
        assert value == pytest.approx(by_definition(labels, scores, weights), rel=1e-12)


def test_equal_scores_have_the_rate_and_a_perfect_ranking_one():
    assert pr_auc([0, 1, 0, 0], [0.3] * 4) == 0.25
    assert pr_auc([0, 1, 0, 1], [0.1, 0.7, 0.2, 0.6]) == 1.0


def test_weightless_rows_at_the_top_change_nothing():
    assert pr_auc([0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], [0, 1, 1, 1]) == pr_auc(
        [1, 0, 1], [0.8, 0.7, 0.6]
    )


def test_a_soft_label_is_a_positive_and_a_negative_of_its_weights():
    soft = pr_auc([0.25, 1.0, 0.0], [0.6, 0.3, 0.9])
    assert soft == pr_auc([1, 0, 1, 0], [0.6, 0.6, 0.3, 0.9], [0.25, 0.75, 1, 1])


def test_it_does_not_change_under_a_rising_function_of_the_score():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=1_000)
    labels = rng.random(1_000) < 0.2
    assert pr_auc(labels, scores) == pr_auc(labels, 1 / (1 + np.exp(-scores)))
