"""Least and most values of metrics: as declared, and by default.

Every task has a bound overall: the one that `Evaluation.bounds` declares for it, or else the value
of knowing nothing (our choice): AUC of at least 0.5 for a binary task, and R² of at least 0 for a
regression, which is that of predicting the mean. In slices only `slice_bounds` apply.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics.metric import Metric, metrics_of
from tfmtl.metrics.sliced import split_name


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


def bounds(
    problem: ProblemSpec, evaluation: Evaluation
) -> tuple[tuple[Bound, ...], tuple[Bound, ...]]:
    """The bounds that hold overall, with a default for tasks that declare none, and in slices.

    Raises:
        SpecError: A bound names no metric, or gives a number where a range is needed.
    """
    grouped = problem.request_id or problem.user_id
    known = {
        problem.metric_name(task, metric.name): metric
        for task in problem.served
        for metric in metrics_of(task, counts=True)
        if grouped or not metric.needs_groups
    }
    overall, slices = (
        [
            bound_of(known_metric(known, name, field=field), name, value, field=field)
            for name, value in bounded.items()
        ]
        for field, bounded in (
            ("evaluation.bounds", evaluation.bounds),
            ("evaluation.slice_bounds", evaluation.slice_bounds),
        )
    )
    declared = {split_name(bound.metric)[0] for bound in overall}
    for task in problem.served:
        if task.name in declared:
            continue
        for metric in metrics_of(task):
            if metric.default_bound is not None:
                name = problem.metric_name(task, metric.name)
                overall.append(bound_of(metric, name, metric.default_bound))
    return tuple(overall), tuple(slices)


def bound_of(metric: Metric[...], name: str, value: Any, *, field: str = "bounds") -> Bound:
    """A declared bound: a number bounds a metric from its worse side, a pair from both.

    Args:
        metric: Its direction says which side of a number is worse.
        name: Full name.
        value: A number, or a pair of least and most value with `None` for an open side.
        field: Where it was declared, for the message.

    Raises:
        SpecError: It is neither, the pair is turned round, or a number is given for a metric that
            is best at a value.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        lower, upper = value
    elif isinstance(value, int | float) and metric.directed:
        lower, upper = (None, value) if metric.lower_is_better else (value, None)
    else:
        also = "; a number would be right too" if metric.directed else ""
        raise SpecError(
            f"{field}[{name!r}] is {value!r}; {metric.name} needs a pair of least and most "
            f"value, such as (0.8, 1.25), with None for an open side{also}."
        )
    if lower is not None and upper is not None and lower > upper:
        raise SpecError(f"{field}[{name!r}]: {lower} lies above {upper}.")
    return Bound(metric=name, lower=lower, upper=upper)


def known_metric(known: Mapping[str, Metric[...]], name: str, *, field: str) -> Metric[...]:
    """The metric that a bound names.

    Raises:
        SpecError: There is none of that name.
    """
    if name not in known:
        raise SpecError(
            f"{field}: there is no metric {name!r}.{did_you_mean(name, known)} "
            f"Metrics are {list(known)}."
        )
    return known[name]
