"""How consistent an early stage is with the final one: every metric, with intervals, by slice."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.metrics.bootstrap import Interval, PairedInterval, Ratio, intervals, paired_intervals
from tfmtl.metrics.sliced import Slice, slice_name
from tfmtl.plain import finite
from tfmtl.replay.columns import item, sorted_codes
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import Ranking, cqs_error_at, divergence_at, rank, recall_at
from tfmtl.text import aligned

# Metric, heading and how it is written, in the table's order.
COLUMNS = (
    ("soft_recall", "soft recall", ".4f"),
    ("hard_recall", "hard recall", ".4f"),
    ("soft_recall_micro", "soft recall, micro", ".4f"),
    ("tvd", "TVD", ".4f"),
    ("cqs_error", "CQS error", ".4f"),
    ("value_regret", "value regret", ".4g"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceConsistency:
    """What was measured on some of a log's requests.

    Args:
        requests: How many there are.
        rows: Their ads.
        whole: Requests with K ads or fewer, by K; their recall is 1 by rule.
        skipped: Requests whose golden set is worth nothing, by K; they have no soft recall.
        metrics: Intervals by name and K, such as `soft_recall@20`; NaN where not defined, as
            recall is where every request has fewer than K ads.
    """

    requests: int
    rows: int
    whole: Mapping[int, int]
    skipped: Mapping[int, int]
    metrics: Mapping[str, Interval]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency:
    """How consistent an early stage is with the final one on a replay log.

    Args:
        ks: The Ks, rising.
        slices: What was measured, by slice; `()` is all requests.
        also: Numbers measured elsewhere that belong beside these, by full name: the normalized
            entropy of impressions (`ctr/ne@imp`), or cost a request.
        samples: Resamples of requests behind the intervals.
        seed: Of the resamples.
        level: Share of resamples inside an interval.
    """

    ks: tuple[int, ...]
    slices: Mapping[Slice, SliceConsistency]
    also: Mapping[str, float]
    samples: int
    seed: int
    level: float

    @property
    def overall(self) -> SliceConsistency:
        """Of all requests."""
        return self.slices[()]

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal report; undefined values are null."""
        plain = dataclasses.asdict(self)
        plain["slices"] = [
            {"slice": [list(part) for part in key], **dataclasses.asdict(part)}
            for key, part in self.slices.items()
        ]
        return finite(plain)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Consistency":
        """The report that `to_json` wrote, also after JSON has made its keys text."""
        slices = {}
        for part in plain["slices"]:
            key = tuple((c, v) for c, v in part["slice"])
            slices[key] = SliceConsistency(
                requests=part["requests"],
                rows=part["rows"],
                whole={int(k): count for k, count in part["whole"].items()},
                skipped={int(k): count for k, count in part["skipped"].items()},
                metrics={
                    name: Interval(**{end: _number(v) for end, v in interval.items()})
                    for name, interval in part["metrics"].items()
                },
            )
        also = {name: _number(value) for name, value in plain["also"].items()}
        return cls(
            ks=tuple(plain["ks"]),
            slices=slices,
            also=also,
            samples=plain["samples"],
            seed=plain["seed"],
            level=plain["level"],
        )


def consistency_report(
    log: ReplayLog,
    early_value: ArrayLike | Ranking,
    ks: Iterable[int] | int,
    *,
    early_cqs: ArrayLike | None = None,
    cqs_std: float | None = None,
    slices: Iterable[str | Sequence[str]] | None = None,
    also: Mapping[str, float] | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Consistency:
    """Measures an early stage on a replay log, overall and by slice.

    All intervals of a slice come from the same resamples of its requests.

    Args:
        log: The replay log.
        early_value: `[n]`, the early stage's total value of each row of the log; or a `rank`ing.
        ks: How many ads go on to the final stage; one or several.
        early_cqs: `[n]`, its consolidated quality score, for `cqs_error`.
        cqs_std: The score's standard deviation in training; needed with `early_cqs`.
        slices: Slice columns of the log, or groups of them; by default each column alone.
        also: Numbers to keep beside these; see `Consistency`.
        samples: Resamples of requests.
        seed: Of the resamples.
        level: Share of resamples inside an interval.

    Raises:
        DataError: The scores do not fit the log; see `tfmtl.replay.recall`.
        ValueError: `early_cqs` comes without `cqs_std`, or the other way round.
    """
    if (early_cqs is None) != (cqs_std is None):
        raise ValueError(
            "early_cqs and cqs_std go together: the error is in units of the standard deviation."
        )
    ranking = early_value if isinstance(early_value, Ranking) else rank(log, early_value)
    recall = recall_at(log, ranking, ks)
    ratios = recall.ratios() | {"tvd": divergence_at(log, ranking, recall.ks)}
    if early_cqs is not None and cqs_std is not None:
        ratios["cqs_error"] = cqs_error_at(log, ranking, early_cqs, recall.ks, std=cqs_std)
    names = [f"{name}@{k}" for name in ratios for k in recall.ks]
    of_sets = np.repeat([name in recall.ratios() for name in ratios], len(recall.ks))
    depths = np.tile(recall.ks, len(ratios))
    numerator, denominator = _side_by_side(ratios.values())
    whole = log.sizes[:, None] <= np.array(recall.ks)
    measured: dict[Slice, SliceConsistency] = {}
    for key, chosen in _slices(log, slices):
        parts = Ratio(numerator[chosen], denominator[chosen])
        # Where no request of a slice has K ads, its picked set says nothing of the early stage.
        void = of_sets & (log.sizes[chosen].max() < depths)
        parts.numerator[:, void] = parts.denominator[:, void] = 0.0
        found = intervals(parts, samples=samples, seed=seed, level=level)
        measured[key] = SliceConsistency(
            requests=len(chosen),
            rows=int(log.sizes[chosen].sum()),
            whole=_counts(recall.ks, whole[chosen]),
            skipped=_counts(recall.ks, recall.golden[chosen] <= 0),
            metrics=dict(zip(names, found, strict=True)),
        )
    return Consistency(
        ks=recall.ks,
        slices=measured,
        also=dict(also or {}),
        samples=samples,
        seed=seed,
        level=level,
    )


def compare(
    log: ReplayLog,
    first: ArrayLike | Ranking,
    second: ArrayLike | Ranking,
    ks: Iterable[int] | int,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedInterval]:
    """How far a second early stage differs from a first, on the same requests.

    Args:
        log: The replay log.
        first: The early total values compared with, as in `consistency_report`.
        second: The other ones.
        ks: How many ads go on to the final stage.
        samples: Resamples of requests, shared by both.
        seed: Of the resamples.
        level: Share of resamples inside an interval.

    Returns:
        Paired intervals by name and K, such as `soft_recall@20`.
    """
    both = []
    for values in (first, second):
        ranking = values if isinstance(values, Ranking) else rank(log, values)
        recall = recall_at(log, ranking, ks)
        both.append(recall.ratios() | {"tvd": divergence_at(log, ranking, recall.ks)})
    names = [f"{name}@{k}" for name in both[0] for k in recall.ks]
    parts = [_side_by_side(ratios.values()) for ratios in both]
    pairs = paired_intervals(*parts, samples=samples, seed=seed, level=level)
    return dict(zip(names, pairs, strict=True))


def format_consistency(report: Consistency, *, columns: Sequence[str] = ()) -> str:
    """The report as lines of text: a line for each slice and K.

    Args:
        report: What to show.
        columns: Shows the slices by these columns only; none shows all.
    """
    shown = [c for c in COLUMNS if f"{c[0]}@{report.ks[0]}" in report.overall.metrics]
    lines = [["slice", "K", "requests", *(heading for _, heading, _ in shown), "whole", "skipped"]]
    for key, part in report.slices.items():
        if key and columns and tuple(c for c, _ in key) != tuple(columns):
            continue
        for k in report.ks:
            cells = [format(part.metrics[f"{name}@{k}"], spec) for name, _, spec in shown]
            first = [slice_name(key), f"{k}", f"{part.requests:,}"]
            lines.append([*first, *cells, f"{part.whole[k]:,}", f"{part.skipped[k]:,}"])
    also = [f"{name} {value:.4g}" for name, value in report.also.items()]
    return "\n".join([*aligned(lines), *also])


def _slices(
    log: ReplayLog, slices: Iterable[str | Sequence[str]] | None
) -> Iterator[tuple[Slice, NDArray]]:
    yield (), np.arange(len(log.requests))
    for columns in log.slices if slices is None else slices:
        columns = (columns,) if isinstance(columns, str) else tuple(columns)
        coded = [sorted_codes(log.slice_values(name), name) for name in columns]
        shape = tuple(len(values) for _, values in coded)
        cells, inverse = np.unique(
            np.ravel_multi_index([codes for codes, _ in coded], shape), return_inverse=True
        )
        for i, place in enumerate(zip(*np.unravel_index(cells, shape), strict=True)):
            key = tuple(
                (name, _plain(item(values[at])))
                for name, (_, values), at in zip(columns, coded, place, strict=True)
            )
            yield key, np.flatnonzero(inverse == i)


def _plain(value: Any) -> str | int | float:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float) else str(value)


def _side_by_side(ratios: Iterable[Ratio]) -> Ratio:
    return Ratio(*(np.hstack(parts) for parts in zip(*ratios, strict=True)))


def _counts(ks: tuple[int, ...], chosen: NDArray[np.bool_]) -> dict[int, int]:
    return {k: int(count) for k, count in zip(ks, chosen.sum(axis=0), strict=True)}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
