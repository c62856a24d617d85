"""The Brier score against scikit-learn."""

import numpy as np
import pytest

from tfmtl.metrics.brier import brier


def test_it_is_scikit_learns_with_and_without_weights():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p = rng.random(2_000)
    labels = (rng.random(2_000) < p).astype(float)
    for weights in (None, rng.random(2_000)):
        wanted = sklearn.brier_score_loss(labels, p, sample_weight=weights)
        assert brier(labels, p, weights) == pytest.approx(wanted, rel=1e-12)


def test_the_true_probability_of_a_soft_label_is_best():
    assert brier([0.3, 0.3], [0.3, 0.3]) == 0.0 < brier([0.3, 0.3], [0.0, 1.0])


def test_a_logit_is_refused():
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        brier([0, 1], [-1.0, 2.0])
