"""Whether a model may be pushed: absolute bounds, and no fall against the last blessed model.

The bounds are those of `tfmtl.evaluation.bounds`. `max_fall` and `max_slice_fall` compare the AUC
of binary tasks alone: a fall of AUC means the same for every task. A rise of an error is in the
label's unit, so a regression is judged by its bound alone.

A slice decides on a task where it has `min_slice_rows` rows of the task's own space. TensorFlow
Model Analysis can validate sliced metrics too, but cannot say that: its least slice size counts
all rows of a slice, whatever the task observes, and a task that has no metric there fails.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec
from tfmtl.evaluation.bounds import Bound, bounds
from tfmtl.metrics.sliced import Slice, SlicedMetrics, slice_name, split_name

# In floating point 0.625 - 0.620 is 0.0050000000000000044, and not a fall by more than 0.005.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a model was not blessed.

    Args:
        metric: Full name, such as `cvr/auc@click`.
        slice: Where; `()` is overall.
        value: The candidate's value.
        bound: The bound that does not hold, unless the metric fell.
        baseline: The last blessed model's value, where the metric fell.
        max_fall: How far it may fall, where it fell further.
        sentence: The reason in words.
    """

    metric: str
    slice: Slice
    value: float
    sentence: str
    bound: Bound | None = None
    baseline: float | None = None
    max_fall: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a model is blessed, and why.

    Args:
        blessed: Whether it may be pushed.
        reasons: Why it is not; empty where it is blessed.
        notes: What was not compared, in sentences.
        checks: How many bounds and falls were checked.
        skipped: How many were not, for lack of rows or of both classes.
    """

    blessed: bool
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    checks: int
    skipped: int

    def describe(self) -> str:
        """The verdict in a few lines of text."""
        if self.blessed:
            first = f"Blessed: all {self.checks} checks hold."
        else:
            first = f"Not blessed: {len(self.reasons)} of {self.checks} checks fail."
        return "\n".join([first, *(f"- {r.sentence}." for r in self.reasons), *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain data; undefined values are null."""
        plain = dataclasses.asdict(self)
        for reason in plain["reasons"]:
            for name in ("value", "baseline"):
                if reason[name] is not None and not math.isfinite(reason[name]):
                    reason[name] = None
        return plain


def bless(
    candidate: SlicedMetrics,
    baseline: SlicedMetrics | None,
    problem: ProblemSpec,
    evaluation: Evaluation,
    *,
    without_baseline: str = "There is no earlier blessed model to compare with.",
) -> Verdict:
    """Judges a model by its metrics and those of the last blessed one on the same rows.

    Args:
        candidate: Metrics of the model.
        baseline: Metrics of the last blessed model; tasks it lacks are not compared.
        problem: The declaration both were measured by.
        evaluation: The bounds and margins.
        without_baseline: The note that says why `baseline` is `None`.

    Raises:
        SpecError: A bound names no metric, or gives a number where a range is needed.
    """
    reasons: list[Reason] = []
    checks = few = one_class = 0
    everywhere, in_slices = bounds(problem, evaluation)
    for key, metrics in candidate.slices.items():
        for bound in in_slices if key else everywhere:
            if key and _too_few(problem, evaluation, metrics, bound.metric):
                few += 1
                continue
            checks += 1
            reason = _breaks(bound, key, metrics)
            reasons += [reason] if reason else []
        if baseline is None:
            continue
        max_fall = evaluation.max_slice_fall if key else evaluation.max_fall
        for metric, before in _comparable(problem, baseline, key):
            if key and _too_few(problem, evaluation, metrics, metric):
                few += 1
            elif _one_class(problem, metrics, metric):
                one_class += 1
            else:
                checks += 1
                reason = _falls(metric, key, metrics[metric], before, max_fall)
                reasons += [reason] if reason else []
    notes = [without_baseline] if baseline is None else _lacking(problem, baseline)
    if few:
        notes.append(
            f"{few} checks in slices with fewer than {evaluation.min_slice_rows:,} rows of the "
            "task do not decide."
        )
    if one_class:
        notes.append(f"{one_class} comparisons have labels of one class only and do not decide.")
    return Verdict(
        blessed=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
        checks=checks,
        skipped=few + one_class,
    )


def _too_few(
    problem: ProblemSpec, evaluation: Evaluation, metrics: Mapping[str, float], metric: str
) -> bool:
    rows = problem.metric_name(split_name(metric)[0], "rows")
    return metrics.get(rows, 0) < evaluation.min_slice_rows


def _one_class(problem: ProblemSpec, metrics: Mapping[str, float], metric: str) -> bool:
    # Where the labels leave AUC undefined, no model can fall.
    task = split_name(metric)[0]
    rows = metrics[problem.metric_name(task, "rows")]
    positives = metrics[problem.metric_name(task, "positives")]
    return math.isnan(metrics[metric]) and positives in (0, rows)


def _comparable(
    problem: ProblemSpec, baseline: SlicedMetrics, key: Slice
) -> Iterator[tuple[str, float]]:
    before = baseline.slices.get(key, {})
    for task in problem.served:
        metric = problem.metric_name(task, "auc")
        if task.kind == "binary" and metric in before:
            yield metric, before[metric]


def _where(metric: str, key: Slice, value: float) -> str:
    is_ = "is undefined" if math.isnan(value) else f"is {value:.4f}"
    return f"{metric} {is_}" + (f" in {slice_name(key)}" if key else "")


def _breaks(bound: Bound, key: Slice, metrics: Mapping[str, float]) -> Reason | None:
    value = metrics.get(bound.metric, math.nan)
    if bound.holds(value):
        return None
    where = _where(bound.metric, key, value)
    if math.isnan(value):
        sides = [bound.lower, bound.upper]
        stated = " to ".join(f"{s:.4f}" for s in sides if s is not None)
        sentence = f"{where}, so its bound {stated} cannot hold"
    elif bound.lower is not None and value < bound.lower:
        sentence = f"{where}, below its bound {bound.lower:.4f}"
    else:
        sentence = f"{where}, above its bound {bound.upper:.4f}"
    return Reason(metric=bound.metric, slice=key, value=value, bound=bound, sentence=sentence)


def _falls(metric: str, key: Slice, value: float, before: float, most: float) -> Reason | None:
    if math.isnan(before) or before - value <= most + ROUNDING:
        return None
    where = _where(metric, key, value)
    if math.isnan(value):
        sentence = f"{where}; the last blessed model has {before:.4f}"
    else:
        sentence = (
            f"{where}: it fell by {before - value:.4f} against the last blessed model "
            f"({before:.4f}), more than {most:g}"
        )
    return Reason(
        metric=metric, slice=key, value=value, baseline=before, max_fall=most, sentence=sentence
    )


def _lacking(problem: ProblemSpec, baseline: SlicedMetrics) -> list[str]:
    return [
        f"Task {task.name} is not compared: the last blessed model lacks it."
        for task in problem.served
        if problem.metric_name(task, "rows") not in baseline.overall
    ]
