"""Percentile bootstrap intervals over independent units, such as requests (Efron, 1979).

The units are drawn with replacement, never their rows: ads of one request are not independent.
Everything is a ratio of sums over units; a mean is one whose denominator counts.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Draws in memory at a time: 16 MB as integers, and as much again for counts.
CELLS = 2_000_000


class Ratio(NamedTuple):
    """A ratio of sums over `R` units, or `m` of them side by side.

    Args:
        numerator: `[R]` or `[R, m]`, finite.
        denominator: The same shape. 0, with a numerator of 0, leaves a unit out.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]

    @classmethod
    def mean_of(cls, values: ArrayLike) -> "Ratio":
        """The mean of `[R]` or `[R, m]` values; NaN leaves a unit out."""
        values = np.asarray(values, np.float64)
        counted = ~np.isnan(values)
        return cls(np.where(counted, values, 0.0), counted.astype(np.float64))

    @property
    def value(self) -> NDArray[np.float64]:
        """The ratio, `[]` or `[m]`; NaN where the denominator's sum is 0."""
        return _divide(np.sum(self.numerator, axis=0), np.sum(self.denominator, axis=0))


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: Of all units.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        value, low, high = (
            "-" if np.isnan(x) else format(x, spec) for x in (self.value, self.low, self.high)
        )
        return f"{value} [{low}, {high}]"


@dataclasses.dataclass(frozen=True)
class PairedInterval:
    """How far a second arm differs from a first on the same units.

    Attributes:
        difference: Second minus first.
        relative: Difference over first.
    """

    difference: Interval
    relative: Interval


def bootstrap(
    statistic: Ratio | ArrayLike, *, samples: int = 1000, seed: int, level: float = 0.95
) -> Interval:
    """The percentile interval of a mean or of a ratio of sums.

    Args:
        statistic: One value per unit, `[R]`, whose mean is wanted (NaN leaves a unit out), or a
            `Ratio` of two `[R]`.
        samples: Number of resamples.
        seed: Of the resamples.
        level: Share of resamples inside.

    Returns:
        The interval. Its ends are NaN where fewer than two units count, since resamples of a single
        unit do not vary. Resamples in which the ratio is undefined are left out.

    Example:
        >>> bootstrap([1.0] * 9 + [0.0], seed=0)
        Interval(value=0.9, low=0.7, high=1.0)
    """
    (interval,) = intervals(_columns(statistic), samples=samples, seed=seed, level=level)
    return interval


def intervals(
    ratios: Ratio, *, samples: int = 1000, seed: int, level: float = 0.95
) -> list[Interval]:
    """As `bootstrap`, for the `m` columns of `[R, m]` at once, on the same resamples."""
    draws = resampled(ratios, samples=samples, seed=seed)
    draws[:, _too_few(ratios)] = np.nan
    return [percentile_interval(v, d, level) for v, d in zip(ratios.value, draws.T, strict=True)]


def paired_bootstrap(
    first: Ratio | ArrayLike,
    second: Ratio | ArrayLike,
    *,
    samples: int = 1000,
    seed: int,
    level: float = 0.95,
) -> PairedInterval:
    """Intervals of the difference of two arms that met the same units.

    Both arms are resampled together, so that the difficulty of a unit cancels.

    Args:
        first: The arm compared with, as in `bootstrap`.
        second: The other arm, of as many units in the same order.
        samples: Number of resamples.
        seed: Of the resamples.
        level: Share of resamples inside.

    Raises:
        ValueError: The arms differ in their number of units.
    """
    (pair,) = paired_intervals(
        _columns(first), _columns(second), samples=samples, seed=seed, level=level
    )
    return pair


def paired_intervals(
    first: Ratio, second: Ratio, *, samples: int = 1000, seed: int, level: float = 0.95
) -> list[PairedInterval]:
    """As `paired_bootstrap`, for the `m` columns of `[R, m]` at once, on the same resamples."""
    if first.numerator.shape != second.numerator.shape:
        raise ValueError(
            "paired arms need the same units and columns; got shapes "
            f"{first.numerator.shape} and {second.numerator.shape}."
        )
    both = Ratio(*(np.hstack(parts) for parts in zip(first, second, strict=True)))
    draws = resampled(both, samples=samples, seed=seed)
    draws[:, _too_few(both)] = np.nan
    m = first.numerator.shape[1]
    a, b = draws[:, :m], draws[:, m:]
    value_a, value_b = first.value, second.value
    relative, relative_draws = _divide(value_b - value_a, value_a), _divide(b - a, a)
    return [
        PairedInterval(
            difference=percentile_interval(value_b[i] - value_a[i], b[:, i] - a[:, i], level),
            relative=percentile_interval(relative[i], relative_draws[:, i], level),
        )
        for i in range(m)
    ]


def resampled(ratios: Ratio, *, samples: int = 1000, seed: int) -> NDArray[np.float64]:
    """The ratios of resamples of the units, `[samples, m]`, in bounded memory.

    Args:
        ratios: `[R, m]`.
        samples: Number of resamples, each of `R` units drawn with replacement.
        seed: Of the draws; all columns share them.

    Raises:
        ValueError: There are no units or samples, shapes differ, or a value is not finite.
    """
    numerator, denominator = ratios
    if numerator.ndim != 2 or numerator.shape != denominator.shape or not len(numerator):
        raise ValueError(
            "numerator and denominator must be [units, columns] of one shape, with a unit; got "
            f"{numerator.shape} and {denominator.shape}."
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}.")
    both = np.hstack([numerator, denominator])
    if not np.isfinite(both).all():
        raise ValueError(
            f"{int((~np.isfinite(both)).sum())} numerators or denominators are not finite; "
            "Ratio.mean_of leaves NaN out."
        )
    units, m = numerator.shape
    rng = np.random.default_rng(seed)
    sums = np.empty((samples, 2 * m))
    chunk = max(1, CELLS // units)
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        drawn = rng.integers(0, units, size=(rows, units))
        drawn += units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        sums[start : start + rows] = counts.astype(np.float64) @ both
    return _divide(sums[:, :m], sums[:, m:])


def _columns(statistic: Ratio | ArrayLike) -> Ratio:
    ratio = statistic if isinstance(statistic, Ratio) else Ratio.mean_of(statistic)
    parts = [np.asarray(part, np.float64) for part in ratio]
    if parts[0].ndim != 1 or parts[0].shape != parts[1].shape:
        raise ValueError(
            f"a statistic is one value per unit, [R]; got shapes {parts[0].shape} and "
            f"{parts[1].shape}."
        )
    return Ratio(parts[0][:, None], parts[1][:, None])


def _too_few(ratios: Ratio) -> NDArray[np.bool_]:
    return np.asarray(np.count_nonzero(ratios.denominator, axis=0) < 2)


def percentile_interval(value: float, draws: NDArray[np.float64], level: float = 0.95) -> Interval:
    """The percentile interval of a statistic from its values on resamples.

    Args:
        value: On all units.
        draws: `[samples]`, on each resample; NaN, where it was not defined, is left out.
        level: Share of resamples inside.

    Returns:
        The interval, without ends (NaN) where no resample is defined.

    Raises:
        ValueError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95; got {level}.")
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def _divide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.full(np.shape(a), np.nan)
    values: NDArray[np.float64] = np.divide(a, b, out=out, where=np.asarray(b) != 0)
    return values
