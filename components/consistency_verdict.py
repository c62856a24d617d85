"""Whether an early stage's consistency with the final one lets a model be blessed.

Bounds and the fall are judged by the values themselves; the sentences give their intervals too.
"""

import math
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.experiment import Replay
from tfmtl.evaluation.blessing import ROUNDING, Reason, Verdict
from tfmtl.evaluation.bounds import Bound, bound_of, known_metric
from tfmtl.metrics.bootstrap import Interval, PairedInterval
from tfmtl.replay.report import Consistency, replay_metrics

# Name of the reason that the RankingEvaluator, which gives its own reasons, refused the model.
REFUSED = "blessing"


def bounds(replay: Replay, *, with_cqs: bool = True) -> tuple[Bound, ...]:
    """What `Replay.bounds` asks for.

    Args:
        replay: The declaration.
        with_cqs: Whether the error of the quality score is measured.

    Raises:
        SpecError: A bound names no metric, or is no number and no pair.
    """
    known = {
        f"{name}@{k}": metric
        for name, metric in replay_metrics().items()
        if with_cqs or name != "cqs_error"
        for k in sorted({replay.k, *replay.ks})
    }
    field = "replay.bounds"
    return tuple(
        bound_of(known_metric(known, name, field=field), name, value, field=field)
        for name, value in replay.bounds.items()
    )


def judge(
    candidate: Consistency | None,
    difference: Mapping[str, PairedInterval] | None,
    replay: Replay,
    *,
    refused: bool = False,
    without_baseline: str = "There is no earlier blessed model to compare with.",
) -> Verdict:
    """Judges a model by its consistency and how that differs from the last blessed one's.

    Args:
        candidate: Of the model; `None` where its total values are not finite.
        difference: The model minus the last blessed one, on the same requests.
        replay: Bounds and margin.
        refused: Whether another evaluator has refused the model already.
        without_baseline: The note that says why `difference` is `None`.
    """
    reasons, notes, checks = [], [], 0
    if refused:
        checks += 1
        reasons.append(_reason(REFUSED, math.nan, "the RankingEvaluator did not bless the model"))
    if candidate is None:
        sentence = "the model's total values of the replay log are not all finite"
        reasons.append(_reason("early_value", math.nan, sentence))
        return _verdict(reasons, [], checks + 1)
    unmeasured = Interval(math.nan, math.nan, math.nan)
    metric = f"soft_recall@{replay.k}"
    if math.isnan(candidate.overall.metrics.get(metric, unmeasured).value):
        sentence = f"{metric} is undefined: no golden set of the replay log is worth anything"
        reasons.append(_reason(metric, math.nan, sentence))
        checks += 1
    for bound in bounds(replay):
        checks += 1
        reason = _breaks(bound, candidate.overall.metrics.get(bound.metric, unmeasured))
        reasons += [reason] if reason else []
    if difference is None:
        notes.append(without_baseline)
    else:
        checks += 1
        reason = _falls(metric, candidate, difference[metric].difference, replay.max_fall)
        reasons += [reason] if reason else []
    return _verdict(reasons, [*notes, *_counted(candidate, replay.k)], checks)


def _verdict(reasons: list[Reason], notes: list[str], checks: int) -> Verdict:
    return Verdict(
        blessed=not reasons, reasons=tuple(reasons), notes=tuple(notes), checks=checks, skipped=0
    )


def _reason(metric: str, value: float, sentence: str, **known: Any) -> Reason:
    return Reason(metric=metric, slice=(), value=value, sentence=sentence, **known)


def _breaks(bound: Bound, interval: Interval) -> Reason | None:
    if bound.holds(interval.value):
        return None
    if math.isnan(interval.value):
        sentence = f"{bound.metric} is undefined, so its bound cannot hold"
    else:
        below = bound.lower is not None and interval.value < bound.lower
        side, limit = ("below", bound.lower) if below else ("above", bound.upper)
        sentence = f"{bound.metric} is {interval:.4f}, {side} its bound {limit:.4f}"
    return _reason(bound.metric, interval.value, sentence, bound=bound)


def _falls(metric: str, candidate: Consistency, difference: Interval, most: float) -> Reason | None:
    value = candidate.overall.metrics[metric].value
    # Undefined on one log is undefined for both models.
    if math.isnan(difference.value) or -difference.value <= most + ROUNDING:
        return None
    before = value - difference.value
    fall = Interval(-difference.value, -difference.high, -difference.low)
    sentence = (
        f"{metric} is {value:.4f}: it fell by {fall:.4f} against the last blessed model "
        f"({before:.4f}), more than {most:g}"
    )
    return _reason(metric, value, sentence, baseline=before, max_fall=most)


def _counted(candidate: Consistency, k: int) -> list[str]:
    overall, notes = candidate.overall, []
    if overall.whole[k]:
        notes.append(
            f"{overall.whole[k]:,} of {overall.requests:,} replayed requests have {k} ads or "
            "fewer; their recall is 1 by rule."
        )
    if overall.skipped[k]:
        notes.append(
            f"{overall.skipped[k]:,} of {overall.requests:,} replayed requests have a golden set "
            "that is worth nothing, and no soft recall."
        )
    return notes
