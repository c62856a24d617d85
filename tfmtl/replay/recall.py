"""Hard and soft recall, and total-value divergence, of an early stage on a replay log.

The golden set of a request is the K ads that the final stage values most among *all* that were
retrieved; the early stage picks K of its own (Wang et al., AdKDD 2023, §3.3).

Rules for what the paper leaves open (our choice):

* Equal values rank by rising ad, in both stages.
* A request with fewer than K ads passes them all: its K is its size, and its recall 1 whatever
  the early values are. Requests with K ads or fewer are counted (`Recall.whole`). Where every
  request has fewer than K, there is nothing to measure, and that is an error.
* A total value below 0 adds nothing to soft recall, above or below the line: an auction would
  not show the ad.
* A request whose golden set is worth nothing has no soft recall. It is left out of the mean and
  counted (`Recall.skipped`).
* *Macro* is the mean over requests, the headline; *micro* is the ratio of sums, in which
  requests count by their value.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import ArrayLike, NDArray

from tfmtl.errors import DataError
from tfmtl.metrics.bootstrap import Ratio
from tfmtl.replay.log import Floats, Ints, ReplayLog


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Recall:
    """Recall of `R` requests at each of `m` Ks.

    Attributes:
        ks: The Ks, rising.
        requests: `[R]`, the requests, sorted.
        overlap: `[R, m]`, ads in both the picked and the golden set.
        depth: `[R, m]`, ads in each of the two: K, or the request's size where that is less.
        picked: `[R, m]`, final total value of the picked ads, negative ones as 0.
        golden: `[R, m]`, the same of the golden set.
        whole: `[m]`, requests with K ads or fewer, whose recall is 1 by rule.
        skipped: `[m]`, requests without a soft recall, as their golden set is worth nothing.
    """

    ks: tuple[int, ...]
    requests: NDArray[Any]
    overlap: Ints
    depth: Ints
    picked: Floats
    golden: Floats
    whole: Ints
    skipped: Ints

    @property
    def hard(self) -> Floats:
        """`[R, m]`, the share of the golden set that was picked."""
        return self.overlap / self.depth

    @property
    def soft(self) -> Floats:
        """`[R, m]`, the share of the golden set's value that was picked; NaN where it is 0."""
        out = np.full(self.golden.shape, np.nan)
        recall: NDArray[np.float64] = np.divide(
            self.picked, self.golden, out=out, where=self.golden > 0
        )
        return recall

    @property
    def regret(self) -> Floats:
        """`[R, m]`, the value of the golden set that was not picked, in total value's unit."""
        return self.golden - self.picked

    def ratios(self) -> dict[str, Ratio]:
        """What each metric is a ratio of, for values and intervals: of `[R, m]` each."""
        return {
            "soft_recall": Ratio.mean_of(self.soft),
            "hard_recall": Ratio.mean_of(self.hard),
            "soft_recall_micro": Ratio(self.picked, self.golden),
            "hard_recall_micro": Ratio(self.overlap.astype(float), self.depth.astype(float)),
            "value_regret": Ratio.mean_of(self.regret),
        }

    def values(self) -> dict[str, Floats]:
        """`[m]` values by metric; NaN where no request counts."""
        return {name: ratio.value for name, ratio in self.ratios().items()}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """A log as an early stage ranks it; made by `rank`, so that many metrics sort once.

    Attributes:
        log: The replay log.
        value: `[n]`, the early total values, sorted as `log.order` says.
        place: `[n]`, their 0-based ranks inside the requests, in that order.
    """

    log: ReplayLog
    value: Floats
    place: Ints


def rank(log: ReplayLog, early_value: ArrayLike) -> Ranking:
    """Ranks a log's ads by an early stage's total values, `[n]` in the rows' own order.

    Raises:
        DataError: The length differs, or a value is missing. Infinite ones rank.
    """
    value = log.sorted(early_value)
    return Ranking(log=log, value=value, place=log.places_of(value))


def recall_at(log: ReplayLog, early_value: ArrayLike | Ranking, ks: Iterable[int] | int) -> Recall:
    """Hard and soft recall of an early stage at one K or several.

    One pass serves all Ks.

    Args:
        log: The replay log.
        early_value: `[n]`, the early stage's total value of each row of the log, in the rows'
            own order; or a `rank`ing.
        ks: How many ads go on to the final stage.

    Raises:
        ValueError: A K is not a positive integer.
        DataError: Every request has fewer than K ads, or an early value is missing.

    Example:
        >>> log = ReplayLog(request=[1, 1, 1, 1], ad=[1, 2, 3, 4], final_value=[4, 3, 2, 1])
        >>> recall = recall_at(log, [0.9, 0.1, 0.8, 0.2], [2, 4])
        >>> recall.hard
        array([[0.5, 1. ]])
        >>> recall.picked, recall.golden  # Ads 1 and 3 for ads 1 and 2; then all.
        (array([[ 6., 10.]]), array([[ 7., 10.]]))
    """
    ranking = _ranking(log, early_value)
    ks = checked_ks(log, ks)
    depth = np.minimum(np.array(ks), log.sizes[:, None])
    # An ad is in both sets exactly where the worse of its two places is.
    overlap = _sums(log, np.maximum(ranking.place, log.final_place), ks).astype(np.int64)
    worth = np.maximum(np.asarray(log.final_value)[log.order], 0.0)
    picked = _sums(log, ranking.place, ks, worth)
    golden = _sums(log, log.final_place, ks, worth)
    # Sums of the same ads in another order differ by rounding; recall does not.
    picked = np.where(overlap == depth, golden, np.minimum(picked, golden))
    skipped = (golden <= 0).sum(axis=0)
    for k, count in zip(ks, skipped, strict=True):
        if count == len(log.requests):
            logging.warning("soft recall at %d is nan: no golden set has a positive value.", k)
    return Recall(
        ks=ks,
        requests=log.requests,
        overlap=overlap,
        depth=depth,
        picked=picked,
        golden=golden,
        whole=(log.sizes[:, None] <= np.array(ks)).sum(axis=0),
        skipped=skipped,
    )


def tvd(log: ReplayLog, early_value: ArrayLike | Ranking, k: int) -> float:
    """Total-value divergence, `Σ|final − early| / Σ|final|` (Wang et al., AdKDD 2023, §4).

    Over this early stage's own candidates: the K ads per request that it passes to the final
    stage. It depends on the scale, where recall depends on the order alone: an early value of twice
    the final one has recall 1 and divergence 1.

    Returns:
        A float, or NaN with a warning where the candidates' final values are all 0.

    Example:
        >>> log = ReplayLog(request=[1, 1], ad=[1, 2], final_value=[4.0, 1.0])
        >>> tvd(log, [3.0, 0.0], 1)
        0.25
    """
    divergence = float(divergence_at(log, early_value, k).value[0])
    if np.isnan(divergence):
        logging.warning("tvd at %d is nan: all candidates have a final value of 0.", k)
    return divergence


def divergence_at(
    log: ReplayLog, early_value: ArrayLike | Ranking, ks: Iterable[int] | int
) -> Ratio:
    """What `tvd` is a ratio of: `Σ|final − early|` and `Σ|final|` by request, `[R, m]` each.

    Raises:
        DataError: The early value of a candidate is infinite; else as in `recall_at`.
    """
    ranking = _ranking(log, early_value)
    ks = checked_ks(log, ks)
    final = np.asarray(log.final_value)[log.order]
    candidates = ranking.place < ks[-1]
    infinite = candidates & np.isinf(ranking.value)
    if infinite.any():
        raise DataError(
            f"the early value of {int(infinite.sum()):,} ads that pass to the final stage is "
            "infinite; divergence needs total values, not scores that only rank."
        )
    apart = np.abs(np.where(candidates, final - ranking.value, 0.0))
    return Ratio(_sums(log, ranking.place, ks, apart), _sums(log, ranking.place, ks, np.abs(final)))


def cqs_error(
    log: ReplayLog,
    early_value: ArrayLike | Ranking,
    early_cqs: ArrayLike,
    k: int,
    *,
    std: float,
) -> float:
    """Mean squared error of the quality score over an early stage's own candidates.

    Args:
        log: The replay log, with `final_cqs`.
        early_value: As in `recall_at`; says which ads are candidates.
        early_cqs: `[n]`, the early stage's score of each row, in the final one's unit.
        k: How many ads go on to the final stage.
        std: Standard deviation of the score in training; the error is in its squares, so that
            models fitted on the same data compare across scales.

    Raises:
        DataError: The log has no `final_cqs`.
        ValueError: `std` is not positive.
    """
    return float(cqs_error_at(log, early_value, early_cqs, k, std=std).value[0])


def cqs_error_at(
    log: ReplayLog,
    early_value: ArrayLike | Ranking,
    early_cqs: ArrayLike,
    ks: Iterable[int] | int,
    *,
    std: float,
) -> Ratio:
    """What `cqs_error` is a ratio of: squared errors and rows by request, `[R, m]` each."""
    if log.final_cqs is None:
        raise DataError("the replay log has no final_cqs, so an early score has no error.")
    if not 0 < std < np.inf:
        raise ValueError(f"std={std}; the score's standard deviation in training is positive.")
    ranking = _ranking(log, early_value)
    ks = checked_ks(log, ks)
    early = log.sorted(early_cqs, "early_cqs")
    squares = ((early - np.asarray(log.final_cqs)[log.order]) / std) ** 2
    rows = np.minimum(np.array(ks), log.sizes[:, None]).astype(float)
    return Ratio(_sums(log, ranking.place, ks, squares), rows)


def checked_ks(log: ReplayLog, ks: Iterable[int] | int) -> tuple[int, ...]:
    """The distinct Ks, rising.

    Raises:
        ValueError: There is none, or one is not a positive integer.
        DataError: Every request of the log has fewer ads than one of them.
    """
    given = tuple(ks) if isinstance(ks, Iterable) else (ks,)
    wrong = [k for k in given if isinstance(k, bool) or int(k) != k or k < 1]
    if wrong or not given:
        raise ValueError(f"K is a number of ads, an integer of at least 1; got {wrong or 'none'}.")
    chosen = tuple(sorted({int(k) for k in given}))
    most = int(log.sizes.max())
    if chosen[-1] > most:
        raise DataError(
            f"K={chosen[-1]}, but all {len(log.sizes):,} requests of the replay log have fewer "
            f"ads, {most} at most: every early stage would have recall 1. Give a smaller K."
        )
    return chosen


def _ranking(log: ReplayLog, early_value: ArrayLike | Ranking) -> Ranking:
    return early_value if isinstance(early_value, Ranking) else rank(log, early_value)


def _sums(
    log: ReplayLog, place: Ints, ks: tuple[int, ...], weights: Floats | None = None
) -> Floats:
    """Sums over the rows of each request that are placed before each K, `[R, m]`."""
    bucket = np.searchsorted(np.array(ks), place, side="right")
    inside = np.flatnonzero(bucket < len(ks))
    cell = log.codes[inside] * len(ks) + bucket[inside]
    chosen = None if weights is None else weights[inside]
    sums = np.bincount(cell, chosen, minlength=len(log.sizes) * len(ks))
    return np.cumsum(sums.reshape(-1, len(ks)), axis=1, dtype=np.float64)
