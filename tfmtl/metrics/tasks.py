"""How good predictions are: ranking, likelihood, calibration, error. NumPy in float64.

Every function takes vectors of one length and returns a float. Where a metric is not
defined it returns NaN and warns by its name, never a value that reads like a result.
"""

import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from tfmtl.errors import did_you_mean
from tfmtl.metrics.auc import (
    GroupAUC,
    LogitHistogram,
    auc,
    auc_standard_error,
    checked,
    gauc,
    group_auc,
)

__all__ = [
    "GroupAUC",
    "LogitHistogram",
    "auc",
    "auc_standard_error",
    "bias",
    "calibration",
    "ece",
    "gauc",
    "group_auc",
    "log_loss",
    "mae",
    "metric_name",
    "mse",
    "normalized_entropy",
    "r2",
    "rmse",
    "task_metrics",
]


def metric_name(task: str, metric: str, space: str) -> str:
    """The full name of a metric: of which task, and on which rows.

    Args:
        task: Task name.
        metric: Metric name, such as a key of `task_metrics`.
        space: Rows it is computed on, such as `imp` for all and `click` for clicked ones.

    Raises:
        ValueError: A part is empty or holds `/` or `@`, so that the name could not be read back.

    Example:
        >>> metric_name("cvr", "auc", "click")
        'cvr/auc@click'
    """
    for part in (task, metric, space):
        if not part or set("/@") & set(part):
            raise ValueError(f"a metric's name has parts without '/' or '@'; got {part!r}.")
    return f"{task}/{metric}@{space}"


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
    y, p, w = _checked_predictions(labels, predictions, weights, from_logits)
    if from_logits:
        losses = y * np.logaddexp(0.0, -p) + (1 - y) * np.logaddexp(0.0, p)
    else:
        p = np.clip(p, 1e-15, 1 - 1e-15)
        losses = -y * np.log(p) - (1 - y) * np.log1p(-p)
    return _mean(losses, w, "log_loss")


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
    y, _, w = _checked_predictions(labels, predictions, weights, from_logits)
    rate = _mean(y, w, name)
    if not 0 < rate < 1:
        logging.warning("%s is nan: the rate of positives is %g.", name, rate)
        return float("nan")
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(log_loss(labels, predictions, weights, from_logits=from_logits) / entropy)


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
        logging.warning("%s is nan: the labels' sum is %g.", name, total)
        return float("nan")
    return float(np.dot(w, p) / total)


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
    y, p, w = _checked_predictions(labels, predictions, weights, False)
    if not w.sum() > 0:
        return _mean(p, w, "ece")
    order = np.argsort(p)
    y, p, w = y[order], p[order], w[order]
    starts = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
    mass = np.add.reduceat(w, starts)
    gap = np.add.reduceat(w * (p - y), starts)
    middle = (np.cumsum(mass) - 0.5 * mass) / w.sum()
    index = np.minimum((middle * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(index, gap)).sum() / w.sum())


def mae(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean absolute error, in the label's unit."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return _mean(np.abs(p - y), w, "mae")


def mse(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared error, in the label's unit squared."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return _mean((p - y) ** 2, w, "mse")


def rmse(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Root of the mean squared error, in the label's unit."""
    return float(np.sqrt(mse(labels, predictions, weights)))


def bias(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of prediction minus label, in the label's unit."""
    y, p, w = checked(labels, predictions, weights, real=True)
    return _mean(p - y, w, "bias")


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
    spread = _mean((y - _mean(y, w, name)) ** 2, w, name)
    return 1 - _mean((p - y) ** 2, w, name) / spread


def task_metrics(
    kind: str,
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    task: str | None = None,
    space: str | None = None,
) -> dict[str, float]:
    """All metrics of one task on the rows given, which are those of its space.

    Args:
        kind: `binary` for `auc`, `gauc` (with groups), `log_loss`, `ne`, `calibration`, `ece`
            and `mae`; `regression` for `mae`, `mse`, `rmse`, `r2`, `bias` and `calibration`.
        labels: `[n]`, of the rows on which the task is observed.
        predictions: `[n]`, probabilities, or numbers in the label's unit.
        weights: `[n]`, not negative; without them every row counts once.
        groups: `[n]`, sortable keys such as request ids.
        task: Task name, for warnings.
        space: Space of the rows, for warnings.

    Returns:
        Bare metric names to values; NaN, with a warning, where a metric is not defined.

    Example:
        >>> metrics = task_metrics("binary", [0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'auc': 0.875, 'log_loss': 0.439, 'ne': 0.633, 'calibration': 0.85, 'ece': 0.125,
         'mae': 0.325}
    """

    def full(metric: str) -> str:
        return metric_name(task, metric, space) if task and space else metric

    rows = (labels, predictions, weights)
    if kind == "binary":
        result = {"auc": auc(*rows, name=full("auc"))}
        if groups is not None:
            result["gauc"] = gauc(labels, predictions, groups, weights, name=full("gauc"))
        return {
            **result,
            "log_loss": log_loss(*rows),
            "ne": normalized_entropy(*rows, name=full("ne")),
            "calibration": calibration(*rows, name=full("calibration")),
            "ece": ece(*rows),
            "mae": mae(*rows),
        }
    if kind == "regression":
        return {
            "mae": mae(*rows),
            "mse": mse(*rows),
            "rmse": rmse(*rows),
            "r2": r2(*rows, name=full("r2")),
            "bias": bias(*rows),
            # Numbers below zero in sum have no such ratio, by nature: no warning each epoch.
            "calibration": (
                calibration(*rows, name=full("calibration"))
                if np.sum(np.multiply(labels, 1.0 if weights is None else weights)) > 0
                else float("nan")
            ),
        }
    known = ("binary", "regression")
    raise ValueError(f"kind must be one of {list(known)}; got {kind!r}.{did_you_mean(kind, known)}")


def _mean(values: np.ndarray, weights: np.ndarray, name: str) -> float:
    total = weights.sum()
    if not total > 0:
        logging.warning("%s is nan: it has no rows, or none with a weight.", name)
        return float("nan")
    return float(np.dot(weights, values) / total)


def _checked_predictions(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None, from_logits: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, p, w = checked(labels, predictions, weights)
    if from_logits and not np.isfinite(p).all():
        raise ValueError("logits must be finite.")
    if not from_logits and ((p < 0) | (p > 1)).any():
        raise ValueError(
            "predictions must be probabilities in [0, 1]; got values from "
            f"{p.min():g} to {p.max():g}. Logits need from_logits=True."
        )
    return y, p, w
