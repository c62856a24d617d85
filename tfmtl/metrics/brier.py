"""The Brier score (Brier, Monthly Weather Review 1950)."""

import numpy as np
from numpy.typing import ArrayLike

from tfmtl.metrics.checks import checked_probabilities, mean_of
from tfmtl.metrics.metric import metric
from tfmtl.registry import register


@register("metric", "brier")
@metric(best="low", kinds=("binary",), heading="Brier", tfma="MeanSquaredError")
def brier(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    name: str = "brier",
) -> float:
    """The mean squared error of probabilities.

    It punishes a wrong rate and a lack of ranking alike, and unlike log loss never by more than
    1 per row. At rates of a percent it is close to the rate itself, so compare models on the same
    rows alone.

    Args:
        labels: `[n]`, each in `[0, 1]`.
        predictions: `[n]`, probabilities.
        weights: `[n]`, not negative; without them every row counts once.
        name: What the warning calls the metric.

    Returns:
        A float in `[0, 1]`, or NaN with a warning without rows.

    Example:
        >>> brier([0, 1], [0.5, 1.0])
        0.125
    """
    y, p, w = checked_probabilities(labels, predictions, weights)
    return mean_of(np.square(p - y), w, name)
