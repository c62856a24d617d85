"""The parts of a task, its loss and its metrics: as a user gives them, and as they are kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfmtl import registry
from tfmtl.declare.checks import check_arguments, shown
from tfmtl.errors import SpecError, did_you_mean

DEFAULT_LOSSES: Mapping[str, str] = {"binary": "cross_entropy", "regression": "squared"}
"""The loss by the kind of the task; declaring a task with it loads no TensorFlow."""

Loss = str | Mapping[str, Any] | Callable[..., Any]
"""A name, a mapping with a `name` and arguments, or a class or function."""


def metric_references(task: str, kind: str, metrics: Any) -> tuple[str, ...]:
    """The names by which a task's metrics are found again, after refusing what is none.

    Args:
        task: The task's name.
        kind: `binary` or `regression`.
        metrics: Registered names, or metrics of a user's own.

    Raises:
        SpecError: One of them is no metric, or not of such tasks.
    """
    if isinstance(metrics, str):
        raise SpecError(
            f"task {task!r}: metrics={metrics!r} is text; a list of metrics would be right, as "
            f"metrics=({metrics!r},)."
        )
    if not isinstance(metrics, Sequence):
        raise SpecError(f"task {task!r}: metrics={shown(metrics)} must be a list of metrics.")
    references = []
    taken: dict[str, str] = {}
    for asked in metrics:
        reference = asked if isinstance(asked, str) else registry.reference("metric", asked)
        metric = registry.get("metric", reference)
        kinds = getattr(metric, "kinds", None)
        if kinds is None:
            raise SpecError(
                f"task {task!r}: {reference!r} is no metric; declare the function as one, by "
                "@tfmtl.metric(best='high', kinds=('binary',))."
            )
        if kind not in kinds:
            fitting = [n for n, m in registry.parts("metric").items() if kind in m.kinds]
            raise SpecError(
                f"task {task!r}: metric {metric.name!r} is not of {kind} tasks; those "
                f"have {sorted(fitting)}.{did_you_mean(metric.name, fitting)}"
            )
        if ":" not in reference and metric.name != reference:
            raise SpecError(
                f"metric {reference!r} is registered under a name that is not its own, "
                f"{metric.name!r}; give both the same, by @tfmtl.metric(name={reference!r})."
            )
        if taken.setdefault(metric.name, reference) != reference or _is_other(metric):
            raise SpecError(
                f"task {task!r}: two of its metrics are called {metric.name!r}; give one of "
                "them another name, by @tfmtl.metric(name=…)."
            )
        if not metric.standard and reference not in references:
            references.append(reference)
    return tuple(references)


def _is_other(metric: Any) -> bool:
    """Whether a metric that is not registered has the name of a registered one."""
    return registry.parts("metric").get(metric.name, metric) is not metric


def loss_config(task: str, kind: str, loss: Loss) -> dict[str, Any]:
    """The configuration of a task's loss, whose name and arguments are known to be right.

    Args:
        task: The task's name.
        kind: `binary` or `regression`.
        loss: As a user gives it.

    Raises:
        SpecError: The loss is unknown, or of another kind of task, or an argument of it is wrong.
    """
    try:
        config = registry.config_of("loss", loss)
        if config == {"name": DEFAULT_LOSSES[kind]}:
            return config
        _check_loss(kind, config)
    except ValueError as error:  # `SpecError` is one, too.
        raise SpecError(f"task {task!r}: {error}") from None
    return config


def _check_loss(kind: str, config: Mapping[str, Any]) -> None:
    name = config["name"]
    if ":" not in name:
        parts = {n: registry.get("loss", n) for n in registry.names("loss")}
        # A function says nothing of the kind of task: it is given labels and logits, or numbers.
        known = [n for n, part in parts.items() if getattr(part, "task_kind", kind) == kind]
        if name not in known:
            raise SpecError(
                f"loss={name!r} is no loss of a {kind} task; those are {known}."
                f"{did_you_mean(name, known)}"
            )
    part = registry.get("loss", name)
    arguments = {argument: value for argument, value in config.items() if argument != "name"}
    if not isinstance(part, type):
        registry.check("loss", config)
        check_arguments("loss.", part, arguments)
        return
    if getattr(part, "task_kind", None) != kind:
        raise SpecError(
            f"loss={name!r} is no loss of a {kind} task: it is a class, and not a subclass of "
            f"tfmtl.losses.{kind.capitalize()}Loss. A function (labels, logits) would do too."
        )
    try:
        registry.build("loss", config)
    except TypeError as error:
        # A constructor that stumbles over a type says so in Python's words.
        check_arguments("loss.", part, arguments)
        raise SpecError(f"loss={dict(config)}: {error}") from error
    check_arguments("loss.", part, arguments)
