"""Metrics of pooled rows on resamples of their groups, all resamples at once.

Rows of one advertiser are not independent, so groups are drawn with replacement, never rows
(Efron, 1979). Every metric here follows from sums over groups: of rows for most, and of pairs of
groups for the AUC, so that a thousand resamples cost little more than one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfmtl.metrics.auc import group_auc
from tfmtl.metrics.bootstrap import Interval, percentile_interval
from tfmtl.metrics.checks import Floats, quietly
from tfmtl.metrics.metric import Metric

Ints = NDArray[np.int64]
Summed = Callable[[NDArray[Any]], Floats]

SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
BLOCK = 64
"""Groups whose pairs with all others are counted at a time."""


def counts_of(groups: int, *, samples: int, seed: int) -> Floats:
    """How often each group counts, `[1 + samples, groups]`; once each in the first row."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=samples)
    return np.concatenate([np.ones((1, groups)), drawn])


def interval_of(values: Floats, level: float = 0.95) -> Interval:
    """The percentile interval of what `resampled_metrics` gives, `[1 + samples]`.

    Resamples on which the metric is not defined are left out.
    """
    return percentile_interval(values[0], values[1:], level)


def resampled_metrics(
    kind: str,
    labels: NDArray[Any],
    predictions: NDArray[Any],
    groups: Ints,
    counts: Floats,
    parts: Ints | None = None,
    *,
    metrics: Sequence[Metric[...]] = (),
) -> Mapping[str, Floats]:
    """A task's metrics on all rows, and on each resample of their groups.

    `group_auc` is the mean of the AUCs within groups that have both classes, by their rows. All
    others are those of `tfmtl.metrics.tasks.task_metrics`, of all resamples at once.

    Args:
        kind: `binary` or `regression`.
        labels: `[n]`, of rows on which the task is observed.
        predictions: `[n]`.
        groups: `[n]`, a row of `counts`' columns.
        counts: `[1 + samples, groups]`, from `counts_of`.
        parts: `[n]`, which draw of the group a row is of: rows of two are not compared within a
            group, as two adaptations scored them.
        metrics: Further metrics. They are measured resample by resample, which takes as long as
            `1 + samples` of them.

    Returns:
        `[1 + samples]` by bare name; NaN where a metric is not defined, and on every resample
        where fewer than two groups have a row.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    size = counts.shape[1]

    def summed(values: NDArray[Any]) -> Floats:
        return np.asarray(counts @ np.bincount(groups, values, minlength=size))

    n = summed(np.ones(len(y)))
    values = (
        _binary(y, p, groups, counts, summed, n, parts)
        if kind == "binary"
        else _regression(y, p, summed, n)
    )
    with quietly():
        for metric in metrics:
            values[metric.name] = np.array(
                [metric.measure(y, p, of_group[groups], groups) for of_group in counts]
            )
    if len(np.unique(groups)) < 2:
        for resampled in values.values():
            resampled[1:] = np.nan
    return values


def _binary(
    y: Floats,
    p: Floats,
    groups: Ints,
    counts: Floats,
    summed: Summed,
    n: Floats,
    parts: Ints | None,
) -> dict[str, Floats]:
    inside = np.clip(p, 1e-15, 1 - 1e-15)
    loss = _ratio(summed(-y * np.log(inside) - (1 - y) * np.log1p(-inside)), n)
    rate = _ratio(summed(y), n)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where one class is missing this is NaN, as it should be.
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return {
        "auc": _auc(y, p, groups, counts),
        "group_auc": _group_auc(y, p, groups, counts, parts),
        "log_loss": loss,
        "ne": _ratio(loss, entropy),
        "calibration": _ratio(summed(p), summed(y)),
    }


def _regression(y: Floats, p: Floats, summed: Summed, n: Floats) -> dict[str, Floats]:
    error = p - y
    mse = _ratio(summed(error**2), n)
    # About their mean, lest the squares of large labels cancel.
    centred = y - (y.mean() if len(y) else 0.0)
    spread = summed(centred**2) - _ratio(summed(centred) ** 2, n)
    return {
        "mae": _ratio(summed(np.abs(error)), n),
        "mse": mse,
        "rmse": np.sqrt(mse),
        "r2": 1 - _ratio(mse * n, np.where(spread > 1e-12 * n, spread, 0.0)),
        "bias": _ratio(summed(error), n),
    }


def _auc(y: Floats, p: Floats, groups: Ints, counts: Floats) -> Floats:
    """Pairs won over pairs, each counted as often as both its groups; soft labels are both."""
    size = counts.shape[1]
    is_positive, is_negative = y > 0, y < 1
    positives, positive_group, mass = p[is_positive], groups[is_positive], y[is_positive]
    scores, negative_group = p[is_negative], groups[is_negative]
    weights = 1 - y[is_negative]
    order = np.lexsort((scores, negative_group))
    scores, weights = scores[order], weights[order]
    negatives = np.bincount(negative_group, 1 - y[is_negative], minlength=size)
    ends = np.cumsum(np.bincount(negative_group, minlength=size))
    won = np.zeros(len(counts))
    for start in range(0, size, BLOCK):
        block = range(start, min(start + BLOCK, size))
        wins = np.zeros((size, len(block)))
        for column, group in enumerate(block):
            of_group = slice(ends[group - 1] if group else 0, ends[group])
            passed = np.concatenate([[0.0], np.cumsum(weights[of_group])])
            # A tie is half won.
            below, not_above = (
                passed[np.searchsorted(scores[of_group], positives, side)] for side in SIDES
            )
            beaten = 0.5 * mass * (below + not_above)
            wins[:, column] = np.bincount(positive_group, beaten, minlength=size)
        won += np.sum((counts @ wins) * counts[:, block.start : block.stop], axis=1)
    pairs = (counts @ np.bincount(positive_group, mass, minlength=size)) * (counts @ negatives)
    return _ratio(won, pairs)


def _group_auc(y: Floats, p: Floats, groups: Ints, counts: Floats, parts: Ints | None) -> Floats:
    size = counts.shape[1]
    keys = groups if parts is None else np.asarray(parts, np.int64) * size + groups
    within = group_auc(y, p, keys)
    both = np.isfinite(within.auc)
    group, mass = within.groups[both] % size, within.mass[both]
    top, bottom = (
        counts @ np.bincount(group, values, minlength=size)
        for values in (mass * within.auc[both], mass)
    )
    return _ratio(top, bottom)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    out = np.full(np.shape(top), np.nan)
    ratio: Floats = np.divide(top, bottom, out=out, where=~np.isnan(bottom) & (bottom != 0))
    return ratio
