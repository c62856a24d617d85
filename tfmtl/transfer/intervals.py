"""How sure a gain of one model over another is: over seeds, or over the test rows of one seed."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging
from numpy.typing import NDArray

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics import tasks as metrics
from tfmtl.metrics.bootstrap import Interval

METRICS: Mapping[str, Mapping[str, Callable[..., float]]] = {
    "binary": {
        "auc": metrics.auc,
        "gauc": metrics.gauc,
        "log_loss": metrics.log_loss,
        "ne": metrics.normalized_entropy,
        "mae": metrics.mae,
    },
    "regression": {
        "mae": metrics.mae,
        "mse": metrics.mse,
        "rmse": metrics.rmse,
        "r2": metrics.r2,
    },
}
"""What a gain may be measured in, by kind of task: metrics that are best high, or best low."""

BEST_HIGH = ("auc", "gauc", "r2")


def check_metric(kind: str, metric: str) -> None:
    """Refuses a metric that a kind of task does not have, or that is best at a value.

    Raises:
        SpecError: It is none of `METRICS[kind]`.
    """
    known = METRICS[kind]
    if metric not in known:
        raise SpecError(
            f"metric={metric!r}: the gain of a {kind} task is measured by one of {list(known)}."
            f"{did_you_mean(metric, known)}"
        )


def gain(metric: str, alone: float, together: float) -> float:
    """How much better the second is, in the metric's unit: of a loss, how much smaller.

    Example:
        >>> gain("auc", 0.5, 0.75), gain("mse", 0.5, 0.75)
        (0.25, -0.25)
    """
    return together - alone if metric in BEST_HIGH else alone - together


def over_seeds(gains: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of paired gains with Student's interval; without ends for fewer than two.

    Pairs share seed and rows, so that a gain varies less than either model. With three seeds
    the reach is 4.3 standard errors: what holds there is no small effect.

    Example:
        >>> found = over_seeds([0.1, 0.2, 0.3])
        >>> round(found.low, 3), round(found.high, 3)
        (-0.048, 0.448)
    """
    # Loaded here: who trains one model needs no table of distributions.
    from scipy import stats

    values = np.asarray(gains, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    error = values.std(ddof=1) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * error)
    return Interval(mean, mean - reach, mean + reach)


def over_rows(
    kind: str,
    metric: str,
    labels: NDArray,
    alone: NDArray,
    together: NDArray,
    groups: NDArray | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The gain on these rows with a paired percentile bootstrap interval (Efron, 1979).

    Both models are measured on the same resample. Drawn are requests (or users) where the rows
    have them, and else rows: rows of one request are not independent. The interval says how sure
    the gain is of these two models on other rows of the kind; another seed may differ more.

    Args:
        kind: `binary` or `regression`.
        metric: One of `METRICS[kind]`.
        labels: `[n]`, of the rows on which the task is observed.
        alone: `[n]`, predictions of the first model.
        together: `[n]`, of the second.
        groups: `[n]`, the request of each row.
        samples: Number of resamples.
        seed: Of the resamples.
        level: Share of resamples inside.

    Returns:
        The interval; without ends where there are fewer than two units. Resamples in which the
        metric is not defined are left out.

    Raises:
        SpecError: The kind of task has no such metric.
    """
    check_metric(kind, metric)
    units, codes = (len(labels), np.arange(len(labels)))
    if groups is not None:
        keys, codes = np.unique(groups, return_inverse=True)
        units = len(keys)
    measure = METRICS[kind][metric]
    more = (codes,) if metric == "gauc" else ()

    def gain_of(weights: NDArray | None) -> float:
        values = [measure(labels, p, *more, weights) for p in (alone, together)]
        return gain(metric, *values)

    level_before = logging.get_verbosity()
    # A resample of one class is ordinary where positives are few.
    logging.set_verbosity(logging.ERROR)
    try:
        value = gain_of(None)
        if units < 2:
            return Interval(value, math.nan, math.nan)
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(samples):
            counts = np.bincount(rng.integers(0, units, units), minlength=units)
            draws.append(gain_of(counts[codes].astype(np.float64)))
    finally:
        logging.set_verbosity(level_before)
    defined = np.array([draw for draw in draws if not math.isnan(draw)])
    if not len(defined):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
