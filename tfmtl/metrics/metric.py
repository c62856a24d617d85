"""What a metric is: one declaration, from which all that shows or judges its values follows.

The tables, the bounds of a blessing, `Training(monitor=…)`, searches, the reports of transfer and
cold start and the names of TensorFlow Model Analysis all read it here.

    @tfmtl.register("metric", "brier")
    @tfmtl.metric(best="low", kinds=("binary",), heading="Brier")
    def brier(labels, predictions, weights=None): …
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, ParamSpec, cast

from numpy.typing import ArrayLike

from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.errors import SpecError, did_you_mean

P = ParamSpec("P")
Best = Literal["high", "low"] | float

KINDS = ("binary", "regression")
"""Kinds of task whose rows a metric's function can measure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Generic[P]):
    """A metric, declared once. Called, it is its function.

    Args:
        name: Bare name, the middle of `cvr/auc@click`.
        best: `high` or `low`, or the value at which it is best: 1 of a calibration.
        kinds: What it is measured on: `binary` and `regression` tasks, by `function`; or
            `model`, `replay` and `groups`, where the number is computed elsewhere.
        function: Labels `[n]`, predictions `[n]`, `weights=None` and, where it needs them,
            `groups` to a float; NaN where the metric is not defined. It warns by `name=`, if it
            takes that. `None` where the number is computed elsewhere, as a model's loss is or
            what `train(validate=…)` returns: then the declaration gives its direction.
        standard: Whether it is measured of every task of its kinds, and not only of those that
            ask for it by `binary(metrics=…)`.
        counts: Whether it counts rows. It says nothing of a model, so that only evaluation
            measures it, beside the others.
        heading: In tables; the name if not given.
        format: How its values are written.
        shown: Where it is shown: in tables of `binary` and of `regression` tasks, in the reports
            of a `replay` and of a `cold_start`.
        default_bound: What it must hold where a task declares no bound: the value of knowing
            nothing.
        tfma: Class of TensorFlow Model Analysis that computes the same, where there is one.
        tfma_arguments: Arguments of that class.

    Raises:
        SpecError: A field has no meaning, or the function does not take what it is given.
    """

    name: str
    best: Best
    kinds: tuple[str, ...] = ()
    function: Callable[P, float] | None = None
    standard: bool = False
    counts: bool = False
    heading: str = ""
    format: str = ".4f"
    shown: tuple[str, ...] = ("binary", "regression", "cold_start")
    default_bound: float | None = None
    tfma: str | None = None
    tfma_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or set("/@:") & set(self.name):
            raise SpecError(
                f"metric {self.name!r}: a name is read back from 'task/metric@space', so it has "
                "at least one character and none of '/', '@' and ':'."
            )
        is_value = isinstance(self.best, int | float) and not isinstance(self.best, bool)
        if self.best not in ("high", "low") and not is_value:
            raise SpecError(
                f"metric {self.name!r}: best={self.best!r}; 'high' or 'low' would be right, or the "
                f"value that is best, such as 1.0.{did_you_mean(str(self.best), ('high', 'low'))}"
            )
        try:
            format(0.5, self.format)
        except ValueError:
            raise SpecError(
                f"metric {self.name!r}: format={self.format!r} writes no number; a specification "
                "such as '.4f' would be right."
            ) from None
        if self.function is not None:
            self._check_function(self.function)
        object.__setattr__(self, "heading", self.heading or self.name)
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "shown", tuple(self.shown))

    def _check_function(self, function: Callable[..., float]) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise SpecError(
                f"metric {self.name!r}: kinds={self.kinds!r}, and its function measures some of "
                f"{list(KINDS)}.{did_you_mean(str(unknown[0]), KINDS) if unknown else ''}"
            )
        parameters = list(inspect.signature(function).parameters.values())
        others = {p.name for p in parameters[2:]}
        unfilled = {p.name for p in parameters[2:] if p.default is p.empty} - {"weights", "groups"}
        if len(parameters) < 3 or "weights" not in others or unfilled:
            raise SpecError(
                f"metric {self.name!r}: its function takes {[p.name for p in parameters]}; "
                "(labels, predictions, weights=None) would be right, with groups=… where it needs "
                "them. A row of weight 2 counts as two."
            )
        # A part is found again by where it is defined, and documented as what it wraps.
        for attribute in ("__module__", "__qualname__", "__name__", "__doc__"):
            object.__setattr__(self, attribute, getattr(function, attribute))
        object.__setattr__(self, "__wrapped__", function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> float:
        """What its function returns.

        Raises:
            SpecError: It has none: its numbers are computed elsewhere.
        """
        if self.function is None:
            raise SpecError(f"metric {self.name!r} has no function; its values come from outside.")
        return self.function(*args, **kwargs)

    @property
    def needs_groups(self) -> bool:
        """Whether it compares rows within requests or users."""
        return "groups" in self._parameters

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return {} if self.function is None else inspect.signature(self.function).parameters

    @property
    def directed(self) -> bool:
        """Whether one of two values is better by being higher or lower."""
        return self.best in ("high", "low")

    def measure(
        self,
        labels: ArrayLike,
        predictions: ArrayLike,
        weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        called: str | None = None,
    ) -> float:
        """The value on some rows, whatever of this the function takes.

        Args:
            labels: `[n]`.
            predictions: `[n]`, probabilities, or numbers in the label's unit.
            weights: `[n]`, not negative; without them every row counts once.
            groups: `[n]`, sortable keys such as request ids; not read where not needed.
            called: Full name, for warnings.
        """
        arguments: dict[str, Any] = {"weights": weights}
        if self.needs_groups:
            arguments["groups"] = groups
        if called is not None and "name" in self._parameters:
            arguments["name"] = called
        # The names of the arguments were checked when it was declared.
        function = cast(Callable[..., float], self)
        return float(function(labels, predictions, **arguments))

    def gain(self, before: float, after: float) -> float:
        """How much better the second value is, in the metric's unit: of a loss, how much smaller.

        Raises:
            SpecError: It is best at a value, neither high nor low.
        """
        return before - after if self.lower_is_better else after - before

    @property
    def lower_is_better(self) -> bool:
        """Whether of two values the lower one is better.

        Raises:
            SpecError: It is best at a value, neither high nor low.
        """
        if not self.directed:
            raise SpecError(
                f"a {self.name} is best at {self.best:g}, neither high nor low, so that of two "
                "values neither is known to be better."
            )
        return self.best == "low"


def metric(
    *,
    best: Best,
    kinds: tuple[str, ...],
    name: str | None = None,
    standard: bool = False,
    counts: bool = False,
    heading: str = "",
    format: str = ".4f",
    shown: tuple[str, ...] = ("binary", "regression", "cold_start"),
    default_bound: float | None = None,
    tfma: str | None = None,
    tfma_arguments: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, float]], Metric[P]]:
    """A decorator that makes a metric of a function; arguments as of `Metric`.

    Args:
        best: `high`, `low`, or the value at which it is best.
        kinds: Kinds of task that it measures, `binary` or `regression`.
        name: Bare name; the function's if not given.
        standard: Whether every task of its kinds has it, without asking.
        counts: Whether it counts rows.
        heading: In tables.
        format: How its values are written.
        shown: Where it is shown.
        default_bound: What it must hold where a task declares no bound.
        tfma: Class of TensorFlow Model Analysis that computes the same.
        tfma_arguments: Arguments of that class.

    Example:
        >>> import numpy as np
        >>> @metric(best="low", kinds=("regression",))
        ... def worst_error(labels, predictions, weights=None):
        ...     return float(np.max(np.abs(np.subtract(predictions, labels))))
        >>> worst_error([1.0, 2.0], [1.5, 2.0]), worst_error.name, worst_error.lower_is_better
        (0.5, 'worst_error', True)
    """

    def declare(function: Callable[P, float]) -> Metric[P]:
        return Metric(
            name=name or function.__name__,
            best=best,
            kinds=kinds,
            function=function,
            standard=standard,
            counts=counts,
            heading=heading,
            format=format,
            shown=shown,
            default_bound=default_bound,
            tfma=tfma,
            tfma_arguments=dict(tfma_arguments or {}),
        )

    return declare


def metrics_of(task: Task, *, counts: bool = False) -> tuple[Metric[...], ...]:
    """What is measured of a task: the standard metrics of its kind, and what it asks for.

    Args:
        task: The task.
        counts: Whether the counts of rows come first.
    """
    of_kind = [m for m in registry.parts("metric").values() if m.standard and task.kind in m.kinds]
    asked = [registry.get("metric", reference) for reference in task.metrics]
    standard = sorted(of_kind, key=lambda m: not m.counts)
    return tuple(m for m in (*standard, *asked) if counts or not m.counts)


def metric_of(name: str, problem: ProblemSpec | None = None) -> Metric[...]:
    """The declaration behind a name.

    Args:
        name: Full, as `cvr/auc@click` or `soft_recall@20`, or bare.
        problem: Knows the metrics that its tasks ask for by object, without registration.

    Raises:
        SpecError: No metric has that name.

    Example:
        >>> metric_of("cvr/log_loss@click").best, metric_of("calibration").best
        ('low', 1.0)
    """
    task, _, rest = name.rpartition("/")
    bare = rest.partition("@")[0]
    for declared in problem.tasks if problem is not None else ():
        if declared.name == task:
            for candidate in metrics_of(declared):
                if candidate.name == bare:
                    return candidate
    return cast(Metric[...], registry.get("metric", bare))
