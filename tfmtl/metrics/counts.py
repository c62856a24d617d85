"""Counts of the rows that the metrics beside them are of."""

import numpy as np
from numpy.typing import ArrayLike

from tfmtl import registry
from tfmtl.metrics.checks import checked
from tfmtl.metrics.metric import metric


@registry.register("metric", "rows")
@metric(
    best="high",
    kinds=("binary", "regression"),
    standard=True,
    counts=True,
    format=",.0f",
    shown=("binary", "regression"),
)
def rows(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Rows of the task's space, or the sum of their weights."""
    _, _, w = checked(labels, predictions, weights, real=True)
    return float(w.sum())


@registry.register("metric", "positives")
@metric(best="high", kinds=("binary",), standard=True, counts=True, format=",.0f", shown=())
def positives(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Positives of the task's space, or the sum of their weights; a soft label counts in part."""
    y, _, w = checked(labels, predictions, weights)
    return float(np.dot(w, y))
