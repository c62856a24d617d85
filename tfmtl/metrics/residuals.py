"""Metrics of residuals, prediction minus label, in the label's unit."""

import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from tfmtl import registry
from tfmtl.metrics.checks import checked, mean_of
from tfmtl.metrics.metric import metric


@registry.register("metric", "mae")
@metric(
    best="low",
    kinds=("binary", "regression"),
    standard=True,
    heading="MAE",
    format=".4g",
    shown=("regression",),
    tfma="MeanAbsoluteError",
)
def mae(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean absolute error, in the label's unit."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return mean_of(np.abs(p - y), w, "mae")


@registry.register("metric", "mse")
@metric(
    best="low",
    kinds=("regression",),
    standard=True,
    heading="MSE",
    format=".4g",
    shown=(),
    tfma="MeanSquaredError",
)
def mse(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared error, in the label's unit squared."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return mean_of((p - y) ** 2, w, "mse")


@registry.register("metric", "rmse")
@metric(
    best="low",
    kinds=("regression",),
    standard=True,
    heading="RMSE",
    format=".4g",
    shown=("cold_start",),
    tfma="RootMeanSquaredError",
)
def rmse(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Root of the mean squared error, in the label's unit."""
    return float(np.sqrt(mse(labels, predictions, weights)))


@registry.register("metric", "r2")
@metric(
    best="high",
    kinds=("regression",),
    standard=True,
    heading="R2",
    shown=("regression",),
    default_bound=0.0,
)
def r2(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    name: str = "r2",
) -> float:
    """One minus the squared error over that of these rows' own mean.

    Returns:
        A float of at most 1, or NaN with a warning where all labels are equal.
    """
    y, p, w = checked(labels, predictions, weights, real=True)
    seen = y[w > 0]
    if not len(seen) or seen.min() == seen.max():
        logging.warning("%s is nan: the labels do not vary.", name)
        return float("nan")
    spread = mean_of((y - mean_of(y, w, name)) ** 2, w, name)
    return 1 - mean_of((p - y) ** 2, w, name) / spread


@registry.register("metric", "bias")
@metric(
    best=0.0,
    kinds=("regression",),
    standard=True,
    format="+.4g",
    shown=("regression", "cold_start"),
)
def bias(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of prediction minus label, in the label's unit."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return mean_of(p - y, w, "bias")
