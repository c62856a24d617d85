"""Metrics of probabilities: their likelihood, and whether they are as large as what happens."""

import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from tfmtl import registry
from tfmtl.metrics.checks import checked, checked_probabilities, mean_of
from tfmtl.metrics.metric import metric


@registry.register("metric", "log_loss")
@metric(
    best="low",
    kinds=("binary",),
    standard=True,
    heading="log loss",
    shown=("cold_start",),
    tfma="BinaryCrossEntropy",
)
def log_loss(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    from_logits: bool = False,
) -> float:
    """Mean cross-entropy in nats; labels may be soft.

    Probabilities are held within 1e-15 of 0 and 1, so that a float32 sigmoid that rounded to
    1 costs 34.5 and not infinity. Logits are exact.

    Args:
        labels: `[n]`, each in `[0, 1]`.
        predictions: `[n]`, probabilities, or finite logits with `from_logits`.
        weights: `[n]`, not negative; without them every row counts once.
        from_logits: Whether predictions are logits.
    """
    y, p, w = checked_probabilities(labels, predictions, weights, from_logits)
    if from_logits:
        losses = y * np.logaddexp(0.0, -p) + (1 - y) * np.logaddexp(0.0, p)
    else:
        p = np.clip(p, 1e-15, 1 - 1e-15)
        losses = -y * np.log(p) - (1 - y) * np.log1p(-p)
    return mean_of(losses, w, "log_loss")


@registry.register("metric", "ne")
@metric(name="ne", best="low", kinds=("binary",), standard=True, heading="NE", shown=("binary",))
def normalized_entropy(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    from_logits: bool = False,
    name: str = "ne",
) -> float:
    """Log loss over that of always predicting these rows' own rate (He et al., ADKDD 2014).

    Below 1 is better than the rate. Arguments as in `log_loss`.

    Returns:
        A float, or NaN with a warning where the rate is 0 or 1 and there is nothing to predict.

    Example:
        >>> normalized_entropy([0, 0, 0, 1], [0.25] * 4)
        1.0
    """
    y, _, w = checked_probabilities(labels, predictions, weights, from_logits)
    rate = mean_of(y, w, name)
    if not 0 < rate < 1:
        logging.warning("%s is nan: the rate of positives is %g.", name, rate)
        return float("nan")
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(log_loss(labels, predictions, weights, from_logits=from_logits) / entropy)


@registry.register("metric", "calibration")
@metric(
    best=1.0,
    kinds=("binary", "regression"),
    standard=True,
    format=".3f",
    shown=("binary", "cold_start"),
    tfma="Calibration",
)
def calibration(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    name: str = "calibration",
) -> float:
    """Sum of predictions over sum of labels; above 1 predicts too much.

    For labels of both signs the ratio says little; see `bias`.

    Returns:
        A float, or NaN with a warning where the labels' sum is not positive.
    """
    y, p, w = checked(labels, predictions, weights, real=True)
    total = np.dot(w, y)
    if not total > 0:
        # Labels with negative ones may well have such a sum: that is no news of every epoch.
        if not (y < 0).any():
            logging.warning("%s is nan: the labels' sum is %g.", name, total)
        return float("nan")
    return float(np.dot(w, p) / total)


@registry.register("metric", "ece")
@metric(best="low", kinds=("binary",), standard=True, heading="ECE", shown=())
def ece(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
) -> float:
    """Expected calibration error: mean distance of prediction and rate (Naeini et al., 2015).

    Bins hold equal mass rather than equal width (our choice): rates of a percent would all
    share the first of 15 equal widths. Equal predictions stay in one bin, that of their
    middle rank, so the order of rows does not matter and a constant gives its plain error.

    Args:
        labels: `[n]`, each in `[0, 1]`.
        predictions: `[n]`, probabilities.
        weights: `[n]`, not negative; without them every row counts once.
        bins: Number of bins.

    Returns:
        A float in `[0, 1]`, or NaN with a warning without rows.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}.")
    y, p, w = checked_probabilities(labels, predictions, weights, False)
    if not w.sum() > 0:
        return mean_of(p, w, "ece")
    order = np.argsort(p)
    y, p, w = y[order], p[order], w[order]
    starts = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
    mass = np.add.reduceat(w, starts)
    gap = np.add.reduceat(w * (p - y), starts)
    middle = (np.cumsum(mass) - 0.5 * mass) / w.sum()
    index = np.minimum((middle * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(index, gap)).sum() / w.sum())
