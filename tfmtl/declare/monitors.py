"""The check of `training.monitor`, which needs the problem."""

from typing import Any

from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean

STANDARD = ("mean_auc", "loss")
"""Measured of every model, so that nothing has to be looked up."""


def check_monitor(monitor: str, problem: ProblemSpec) -> None:
    """Refuses a monitor that is no metric of the problem, or that is better neither way.

    Args:
        monitor: `mean_auc`, `loss`, the full name of a task's metric (`cvr/auc@click`), or the
            registered name of a metric that `train(validate=…)` returns (`soft_recall@20`).
        problem: The declaration.

    Raises:
        SpecError: The task or the metric is unknown, the task is measured on other rows, or the
            metric is best at a value, neither high nor low.
    """
    field = f"training.monitor={monitor!r}"
    if monitor == "mean_auc" and not any(task.kind == "binary" for task in problem.served):
        raise SpecError(
            f"{field} is over served binary tasks, and there is none among "
            f"{[task.name for task in problem.served]}. Use Training(monitor='loss')."
        )
    if monitor in STANDARD:
        return
    task_name, slash, rest = monitor.rpartition("/")
    bare = rest.partition("@")[0]
    if not slash:
        _check_bare(field, monitor, bare, problem)
        return
    try:
        task = problem.task(task_name)
    except SpecError as error:
        raise SpecError(f"{field}: {error}") from None
    metrics = _metrics_of(task)
    if bare not in metrics:
        raise SpecError(
            f"{field}: unknown metric {bare!r}; task {task.name!r} has {list(metrics)}."
            f"{did_you_mean(bare, metrics)}"
        )
    right = problem.metric_name(task, bare)
    if monitor != right:
        raise SpecError(
            f"{field}: the rows of task {task.name!r} are {problem.space_of(task)!r}, so the name "
            f"is {right!r}."
        )
    if not task.served:
        raise SpecError(f"{field}: task {task.name!r} is not served, and so is not measured.")
    check_directed(monitor, metrics[bare])


def _check_bare(field: str, monitor: str, bare: str, problem: ProblemSpec) -> None:
    known = registry.names("metric")
    if bare not in known:
        raise SpecError(
            f"{field}: unknown metric {bare!r}; 'mean_auc', 'loss' or the full name of a metric "
            f"are right, for example {problem.metric_name(problem.tasks[0], 'auc')!r}."
            f"{did_you_mean(bare, known)} Declare which way one of your own is better: "
            f"tfmtl.register('metric', {bare!r})(tfmtl.Metric(name={bare!r}, best='high'))."
        )
    metric = registry.get("metric", bare)
    of_tasks = [task for task in problem.served if task.kind in metric.kinds]
    if of_tasks:
        raise SpecError(
            f"{field}: a metric of tasks has a full name, for example "
            f"{problem.metric_name(of_tasks[0], bare)!r}."
        )
    check_directed(monitor, metric)


def check_directed(monitor: str, metric: Any) -> None:
    """Refuses a metric that is best at a value (calibration at 1) as a monitor.

    Args:
        monitor: The name the user gave.
        metric: The declaration behind that name, a `tfmtl.Metric`.

    Raises:
        SpecError: The metric is best neither high nor low.
    """
    if not metric.directed:
        raise SpecError(
            f"training.monitor={monitor!r}: a {metric.name} is best at {metric.best:g}, neither "
            f"high nor low; monitor {monitor.replace(metric.name, 'log_loss')!r} or "
            f"{monitor.replace(metric.name, 'mse')!r}, which a bad {metric.name} raises."
        )


def _metrics_of(task: Any) -> dict[str, Any]:
    """A task's metrics by bare name: the standard ones of its kind, and those it asks for."""
    standard = [m for m in registry.parts("metric").values() if m.standard and task.kind in m.kinds]
    asked = [registry.get("metric", reference) for reference in task.metrics]
    return {metric.name: metric for metric in (*standard, *asked) if not metric.counts}
