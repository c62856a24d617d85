"""Whether a model may be pushed: absolute bounds, and no fall against the last blessed model.

Every task holds a bound, overall: what `Evaluation.bounds` declares for it, else that it is no
worse than knowing nothing (our choice): AUC of at least 0.5 for a binary task, R² of at least 0
for a regression, which the labels' mean has. In slices only what `slice_bounds` declares is
bounded. `max_fall` and `max_slice_fall` compare the AUC of
binary tasks alone: an AUC's fall means the same for every task, an error's rise is in the
label's unit, so a regression is held by its bound.

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
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics.sliced import Slice, SlicedMetrics, slice_name, split_name

HIGHER_IS_BETTER = ("rows", "positives", "auc", "gauc", "r2")
LOWER_IS_BETTER = ("log_loss", "ne", "ece", "mae", "mse", "rmse")
MEASURED = {
    "binary": ("rows", "positives", "auc", "gauc", "log_loss", "ne", "calibration", "ece", "mae"),
    "regression": ("rows", "mae", "mse", "rmse", "r2", "bias", "calibration"),
}
# 0.625 - 0.620 is 0.0050000000000000044, which is no fall by more than 0.005.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """Least and most values of a metric; `None` leaves a side open."""

    metric: str
    lower: float | None = None
    upper: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        least = -math.inf if self.lower is None else self.lower
        most = math.inf if self.upper is None else self.upper
        return least <= value <= most


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
        reasons: What speaks against it; none where it is blessed.
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


def bounds(
    problem: ProblemSpec, evaluation: Evaluation
) -> tuple[tuple[Bound, ...], tuple[Bound, ...]]:
    """The bounds that hold overall, with a default for tasks that declare none, and in slices.

    Raises:
        SpecError: A bound names no metric, or gives a number where a range is needed.
    """
    grouped = problem.request_id or problem.user_id
    known = [
        problem.metric_name(task, metric)
        for task in problem.served
        for metric in MEASURED[task.kind]
        if grouped or metric != "gauc"
    ]
    overall = [_bound("bounds", name, value, known) for name, value in evaluation.bounds.items()]
    slices = [
        _bound("slice_bounds", name, value, known)
        for name, value in evaluation.slice_bounds.items()
    ]
    declared = {split_name(bound.metric)[0] for bound in overall}
    for task in problem.served:
        if task.name not in declared and task.kind == "binary":
            overall.append(Bound(metric=problem.metric_name(task, "auc"), lower=0.5))
        elif task.name not in declared:
            overall.append(Bound(metric=problem.metric_name(task, "r2"), lower=0.0))
    return tuple(overall), tuple(slices)


def _bound(field: str, name: str, value: Any, known: list[str]) -> Bound:
    if name not in known:
        raise SpecError(
            f"evaluation.{field}: there is no metric {name!r}.{did_you_mean(name, known)} "
            f"Metrics are {known}."
        )
    metric = split_name(name)[1]
    if isinstance(value, tuple | list) and len(value) == 2:
        lower, upper = value
    elif isinstance(value, int | float) and metric in HIGHER_IS_BETTER:
        lower, upper = value, None
    elif isinstance(value, int | float) and metric in LOWER_IS_BETTER:
        lower, upper = None, value
    else:
        raise SpecError(
            f"evaluation.{field}[{name!r}] is {value!r}; {metric} needs a pair of least and most "
            "value, such as (0.8, 1.25), with None for an open side."
        )
    if lower is not None and upper is not None and lower > upper:
        raise SpecError(f"evaluation.{field}[{name!r}]: {lower} lies above {upper}.")
    return Bound(metric=name, lower=lower, upper=upper)


def _too_few(
    problem: ProblemSpec, evaluation: Evaluation, metrics: Mapping[str, float], metric: str
) -> bool:
    rows = problem.metric_name(split_name(metric)[0], "rows")
    return metrics.get(rows, 0) < evaluation.min_slice_rows


def _one_class(problem: ProblemSpec, metrics: Mapping[str, float], metric: str) -> bool:
    # Where the labels leave AUC undefined, no model can have fallen.
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
