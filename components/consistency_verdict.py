"""Whether an early stage's consistency with the final one lets a model be blessed.

Bounds and the fall are judged by the values themselves; their intervals stand in the sentences.
"""

import math
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.experiment import Replay
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.evaluation.blessing import ROUNDING, Bound, Reason, Verdict
from tfmtl.metrics.bootstrap import Interval, PairedInterval
from tfmtl.replay.report import Consistency

RECALLS = ("soft_recall", "hard_recall", "soft_recall_micro", "hard_recall_micro")
ERRORS = ("tvd", "cqs_error", "value_regret")
# The name of the reason where the other evaluator, which tells its own, said no.
REFUSED = "blessing"


def bounds(replay: Replay, *, with_cqs: bool = True) -> tuple[Bound, ...]:
    """What `Replay.bounds` asks for.

    Args:
        replay: The declaration.
        with_cqs: Whether the error of the quality score is measured.

    Raises:
        SpecError: A bound names no metric, or is no number and no pair.
    """
    metrics = [m for m in (*RECALLS, *ERRORS) if with_cqs or m != "cqs_error"]
    known = [f"{metric}@{k}" for metric in metrics for k in sorted({replay.k, *replay.ks})]
    return tuple(_bound(name, value, known) for name, value in replay.bounds.items())


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
        refused: Whether another evaluator has said no already.
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


def _bound(name: str, value: Any, known: list[str]) -> Bound:
    if name not in known:
        raise SpecError(
            f"replay.bounds: there is no metric {name!r}.{did_you_mean(name, known)} Metrics are "
            f"{known}."
        )
    lower = upper = None
    if isinstance(value, tuple | list) and len(value) == 2:
        lower, upper = value
    elif isinstance(value, int | float) and name.partition("@")[0] in RECALLS:
        lower = value
    elif isinstance(value, int | float):
        upper = value
    else:
        raise SpecError(
            f"replay.bounds[{name!r}] is {value!r}; a number would be right, or a pair of least "
            "and most value, with None for an open side."
        )
    if lower is not None and upper is not None and lower > upper:
        raise SpecError(f"replay.bounds[{name!r}]: {lower} lies above {upper}.")
    return Bound(metric=name, lower=lower, upper=upper)


def _breaks(bound: Bound, found: Interval) -> Reason | None:
    if bound.holds(found.value):
        return None
    if math.isnan(found.value):
        sentence = f"{bound.metric} is undefined, so its bound cannot hold"
    else:
        below = bound.lower is not None and found.value < bound.lower
        side, limit = ("below", bound.lower) if below else ("above", bound.upper)
        sentence = f"{bound.metric} is {found:.4f}, {side} its bound {limit:.4f}"
    return _reason(bound.metric, found.value, sentence, bound=bound)


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
