"""The area under the ROC curve: exact, by group, with its standard error, and streaming.

All of it counts pairs of a positive and a negative (Mann and Whitney, 1947), a tie as half
won. Thresholds on the probability, as in `keras.metrics.AUC`, lose nearly all pairs where
positives are rare, because all predictions then lie between the same two thresholds.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from absl import logging
from numpy.typing import ArrayLike


def auc(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, name: str = "auc"
) -> float:
    """The probability that a positive scores above a negative, ties counting a half.

    Computed exactly by one sort in float64. A row of weight `w` counts as `w` rows. A soft
    label `y` splits its row into a positive of weight `y` and a negative of weight `1 - y`
    with the same score (our choice: a row repeated with labels drawn from `y` gives this in
    the limit); soft labels therefore keep even a perfect ranking below 1.

    Args:
        labels: `[n]`, each in `[0, 1]`.
        scores: `[n]`, probabilities, logits or anything of the same order; not NaN.
        weights: `[n]`, not negative; without them every row counts once.
        name: What the warning calls the metric.

    Returns:
        A float in `[0, 1]`, or NaN with a warning where one class is missing.

    Raises:
        ValueError: Lengths differ, or a value is outside the ranges above.

    Example:
        >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
    """
    y, s, w = checked(labels, scores, weights)
    ties = _count_ties(y, s, w)
    positives, negatives = ties.positives.sum(), ties.negatives.sum()
    if not (positives > 0 and negatives > 0):
        _warn_one_class(name, positives, negatives)
        return float("nan")
    below = np.cumsum(ties.negatives) - ties.negatives
    won = np.dot(ties.positives, below + 0.5 * ties.negatives)
    return float(won / (positives * negatives))


@dataclasses.dataclass(frozen=True)
class GroupAUC:
    """The AUC of each of `g` groups.

    Attributes:
        groups: `[g]`, the distinct group keys, sorted.
        auc: `[g]`, NaN for a group with one class.
        mass: `[g]`, the group's rows, or the sum of their weights.
    """

    groups: np.ndarray
    auc: np.ndarray
    mass: np.ndarray

    @property
    def counted(self) -> int:
        """Groups with both classes."""
        return int(np.isfinite(self.auc).sum())

    def mean(self) -> float:
        """The mean over the groups with both classes, by their rows; NaN without any."""
        both = np.isfinite(self.auc)
        if not both.any():
            return float("nan")
        return float(np.average(self.auc[both], weights=self.mass[both]))


def group_auc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupAUC:
    """The AUC within each group; arguments as in `auc`, and `groups` of `[n]` sortable keys."""
    y, s, w = checked(labels, scores, weights)
    keys = np.asarray(groups)
    if keys.shape != y.shape:
        raise ValueError(f"groups must be one key a row, {y.shape}; got {keys.shape}.")
    distinct, codes = np.unique(keys, return_inverse=True)
    count = len(distinct)
    ties = _count_ties(y, s, w, codes)
    positives = np.bincount(ties.codes, ties.positives, minlength=count)
    negatives = np.bincount(ties.codes, ties.negatives, minlength=count)
    # Ties are in order of group, so the negatives of earlier groups are a prefix to take off.
    earlier = np.cumsum(negatives) - negatives
    below = np.cumsum(ties.negatives) - ties.negatives - earlier[ties.codes]
    won = np.bincount(ties.codes, ties.positives * (below + 0.5 * ties.negatives), minlength=count)
    pairs = positives * negatives
    values = np.full(count, np.nan)
    np.divide(won, pairs, out=values, where=pairs > 0)
    return GroupAUC(groups=distinct, auc=values, mass=positives + negatives)


def gauc(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    name: str = "gauc",
) -> float:
    """The mean AUC over groups, weighted by impressions (Zhu et al., KDD 2017).

    Groups, such as users or requests, that hold one class have no AUC and are left out of
    the mean and of its weights; `group_auc` gives each group's value and how many counted.

    Returns:
        A float in `[0, 1]`, or NaN with a warning where no group has both classes.

    Example:
        >>> gauc([0, 1, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5], ["a", "a", "b", "b", "c"])
        0.5
    """
    result = group_auc(labels, scores, groups, weights)
    if not result.counted:
        logging.warning("%s is nan: none of %d groups has both classes.", name, len(result.groups))
    return result.mean()


def auc_standard_error(labels: ArrayLike, scores: ArrayLike, *, name: str = "auc") -> float:
    """The standard error of `auc` over independent rows (DeLong et al., Biometrics 1988).

    One sort, as for the value itself (the idea of Sun and Xu, 2014). Rows of one user are
    not independent, and the true error is then larger.

    Returns:
        A float, or NaN with a warning where a class has fewer than two rows.

    Raises:
        ValueError: A label is not 0 or 1: the formula counts rows.
    """
    y, s, w = checked(labels, scores, None)
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("auc_standard_error needs labels of 0 and 1; got soft labels.")
    ties = _count_ties(y, s, w)
    positives, negatives = ties.positives.sum(), ties.negatives.sum()
    if min(positives, negatives) < 2:
        _warn_one_class(f"standard error of {name}", positives, negatives)
        return float("nan")
    below = np.cumsum(ties.negatives) - 0.5 * ties.negatives
    above = positives - np.cumsum(ties.positives) + 0.5 * ties.positives
    won_by_positive, won_by_negative = below / negatives, above / positives
    mean = np.dot(ties.positives, won_by_positive) / positives
    spread_1 = np.dot(ties.positives, (won_by_positive - mean) ** 2) / (positives - 1)
    spread_0 = np.dot(ties.negatives, (won_by_negative - mean) ** 2) / (negatives - 1)
    return float(np.sqrt(spread_1 / positives + spread_0 / negatives))


class LogitHistogram:
    """AUC from counts in equal bins of the logit, for data that pass by in parts.

    Two rows of one bin count as tied, so the value is off by at most half the share of pairs
    that fall into one bin. `error_bound` is that share, known from the counts themselves:
    logits outside `[low, high]` go to the end bins and are in the bound too.

    Args:
        bins: Number of bins, at least 65,536; fewer resolve rare positives too coarsely.
        low: Logit at which the first bin starts.
        high: Logit at which the last bin ends.

    Raises:
        ValueError: Fewer bins than that, or `low` not below `high`.

    Example:
        >>> histogram = LogitHistogram()
        >>> histogram.update([0, 1, 0, 1], [-3.0, -1.0, -1.0, 2.0])
        >>> histogram.result()
        0.875
    """

    def __init__(self, *, bins: int = 65_536, low: float = -20.0, high: float = 20.0) -> None:
        if bins < 65_536:
            raise ValueError(f"bins must be at least 65536; got {bins}.")
        if not low < high:
            raise ValueError(f"low must be below high; got low={low}, high={high}.")
        self.bins = bins
        self.low = low
        self.high = high
        self.positives = np.zeros(bins)
        self.negatives = np.zeros(bins)

    def update(
        self, labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None
    ) -> None:
        """Adds rows; arguments as in `auc`, with logits for scores."""
        y, x, w = checked(labels, logits, weights)
        place = (np.clip(x, self.low, self.high) - self.low) * (self.bins / (self.high - self.low))
        index = np.minimum(place.astype(np.int64), self.bins - 1)
        self.positives += np.bincount(index, w * y, minlength=self.bins)
        self.negatives += np.bincount(index, w * (1 - y), minlength=self.bins)

    def merge(self, other: "LogitHistogram") -> None:
        """Adds the counts of another histogram with the same bins."""
        mine, theirs = (self.bins, self.low, self.high), (other.bins, other.low, other.high)
        if mine != theirs:
            raise ValueError(f"(bins, low, high) must agree; got {mine} and {theirs}.")
        self.positives += other.positives
        self.negatives += other.negatives

    def result(self, *, name: str = "auc") -> float:
        """The AUC so far, or NaN with a warning where one class is missing."""
        positives, negatives = self.positives.sum(), self.negatives.sum()
        if not (positives > 0 and negatives > 0):
            _warn_one_class(name, positives, negatives)
            return float("nan")
        below = np.cumsum(self.negatives) - 0.5 * self.negatives
        return float(np.dot(self.positives, below) / (positives * negatives))

    def error_bound(self) -> float:
        """The most by which `result` can differ from `auc` of the same rows."""
        pairs = self.positives.sum() * self.negatives.sum()
        if not pairs > 0:
            return float("nan")
        return float(0.5 * np.dot(self.positives, self.negatives) / pairs)


def checked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, *, real: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, scores and weights as float64 `[n]`, after refusing what is no metric's.

    Args:
        labels: `[n]`, in `[0, 1]` unless `real`.
        scores: `[n]`, not NaN.
        weights: `[n]`, finite and not negative; ones where not given.
        real: Whether labels are any finite number instead.
    """
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or not y.shape == s.shape == w.shape:
        raise ValueError(
            "labels, scores and weights must be vectors of one length; got shapes "
            f"{y.shape}, {s.shape} and {w.shape}."
        )
    if not np.isfinite(y).all() or (not real and ((y < 0) | (y > 1)).any()):
        wanted = "finite" if real else "in [0, 1]"
        raise ValueError(f"labels must be {wanted}; got {_range(y)}.")
    if np.isnan(s).any():
        raise ValueError(f"scores must be numbers; got {_range(s)}.")
    if not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights must be finite and not negative; got {_range(w)}.")
    return y, s, w


class _Ties(NamedTuple):
    """Weights of positives and negatives at each distinct score, in ascending order."""

    positives: np.ndarray
    negatives: np.ndarray
    codes: np.ndarray


def _count_ties(
    y: np.ndarray, s: np.ndarray, w: np.ndarray, codes: np.ndarray | None = None
) -> _Ties:
    """Sums the weights of rows with one score, within each code where codes are given."""
    order = np.argsort(s) if codes is None else np.lexsort((s, codes))
    s, y, w = s[order], y[order], w[order]
    change = s[1:] != s[:-1]
    if codes is not None:
        codes = codes[order]
        change |= codes[1:] != codes[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(s), 1), bool), change]))
    if not len(starts):
        return _Ties(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    positives = np.add.reduceat(w * y, starts)
    negatives = np.add.reduceat(w * (1 - y), starts)
    return _Ties(positives, negatives, starts if codes is None else codes[starts])


def _range(values: np.ndarray) -> str:
    bad = int((~np.isfinite(values)).sum())
    finite = values[np.isfinite(values)]
    seen = f"values from {finite.min():g} to {finite.max():g}" if len(finite) else "no number"
    return f"{seen}, {bad} of {len(values)} not finite"


def _warn_one_class(name: str, positives: float, negatives: float) -> None:
    logging.warning(
        "%s is nan: it needs both classes, and positives weigh %g, negatives %g.",
        name,
        positives,
        negatives,
    )
