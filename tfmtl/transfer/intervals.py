"""How sure a gain of one model over another is: over seeds, or over the test rows of one seed."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tfmtl import registry
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics.bootstrap import Interval, percentile_interval
from tfmtl.metrics.checks import quietly
from tfmtl.metrics.metric import Metric


def gain_metric(kind: str, name: str) -> Metric[...]:
    """The metric that the gain of a kind of task is measured by.

    Args:
        kind: `binary` or `regression`.
        name: A registered metric that is best high or low, or where one of your own is defined,
            as `"my_shop.metrics:lift"`.

    Raises:
        SpecError: There is no such metric, or it is best at a value, so that no gain is.
    """
    known = [
        n
        for n, m in registry.parts("metric").items()
        if kind in m.kinds and m.directed and not m.counts
    ]
    metric = registry.get("metric", name) if name in known or ":" in name else None
    if metric is None or kind not in metric.kinds or not metric.directed:
        raise SpecError(
            f"metric={name!r}: the gain of a {kind} task is measured by one of {known}."
            f"{did_you_mean(name, known)}"
        )
    return cast(Metric[...], metric)


def over_seeds(gains: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of paired gains with Student's interval; without ends for fewer than two.

    Pairs share seed and rows, so that a gain varies less than either model. With three seeds
    the reach is 4.3 standard errors: what holds there is no small effect.

    Example:
        >>> interval = over_seeds([0.1, 0.2, 0.3])
        >>> round(interval.low, 3), round(interval.high, 3)
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
    metric: Metric[...],
    labels: NDArray[Any],
    alone: NDArray[Any],
    together: NDArray[Any],
    groups: NDArray[Any] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The gain on these rows with a paired percentile bootstrap interval (Efron, 1979).

    Both models are measured on the same resample. Requests (or users) are drawn where the rows
    have them, and rows where they do not: rows of one request are not independent. The interval
    says how sure the gain is of these two models on other rows of the kind; another seed may
    differ more.

    Args:
        metric: What is measured.
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
    """
    units, codes = (len(labels), np.arange(len(labels)))
    if groups is not None:
        keys, codes = np.unique(groups, return_inverse=True)
        units = len(keys)

    def gain_of(weights: NDArray[np.float64] | None) -> float:
        before, after = (metric.measure(labels, p, weights, codes) for p in (alone, together))
        return metric.gain(before, after)

    # A resample of one class is ordinary where positives are few.
    with quietly():
        value = gain_of(None)
        if units < 2:
            return Interval(value, math.nan, math.nan)
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(samples):
            counts = np.bincount(rng.integers(0, units, units), minlength=units)
            draws.append(gain_of(counts[codes].astype(np.float64)))
    return percentile_interval(value, np.array(draws), level)
