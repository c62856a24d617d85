"""The report of daily runs: one table and one figure over all days."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from pipeline.report import serving_commands
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.metrics.metric import metric_of
from tfmtl.metrics.sliced import Slice, SlicedMetrics
from tfmtl.text import aligned

CURVES_FILE = "days.png"
COLUMNS = {"binary": ("auc", "calibration"), "regression": ("r2", "mae")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoneDay:
    """The result of the run of one new day.

    Args:
        name: Name of the day.
        trained_on: The days of the training window, in words.
        metrics: Metrics on the whole new day.
        blessed: Whether the model was blessed.
        pushed: Folder of the pushed SavedModel; `None` if it was not blessed.
        model: Folder of the trained SavedModel.
        request: Path of a JSON file with an example request.
        seconds: Duration of the run; of its last part, if it was interrupted before.
    """

    name: str
    trained_on: str
    metrics: SlicedMetrics
    blessed: bool
    pushed: str | None
    model: str
    request: str
    seconds: float

    def to_plain(self) -> dict[str, Any]:
        """Plain data, from which `from_plain` creates an equal day."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "metrics": json.loads(self.metrics.to_json())}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DoneDay":
        """The day from the plain data of `to_plain`."""
        return cls(**{**plain, "metrics": SlicedMetrics.from_json(json.dumps(plain["metrics"]))})


def table(days: Sequence[DoneDay], problem: ProblemSpec) -> str:
    """One line per day: all tasks overall, the sparsest task per scene, verdict and version."""
    tasks = _measured(days, problem)
    narrow, scenes = _narrowest(tasks, problem), _scenes(days, problem)
    head = ["day"]
    for task in tasks:
        name = f"{task.name}@{problem.space_of(task)}"
        first, *others = (metric_of(column).heading for column in COLUMNS[task.kind])
        head += [f"{name} {first}", *others]
    if narrow is not None:
        head += [f"in {value}" for value in _values(scenes)]
    lines = [[*head, "blessed", "pushed", "seconds"]]
    for day in days:
        cells = [day.name]
        for task in tasks:
            cells += [
                _cell(day, (), problem.metric_name(task, column), metric_of(column).format)
                for column in COLUMNS[task.kind]
            ]
        if narrow is not None:
            name = problem.metric_name(narrow, "auc")
            cells += [_cell(day, key, name, ".4f") for key in scenes]
        version = os.path.basename(day.pushed) if day.pushed else "-"
        cells += ["yes" if day.blessed else "no", version, f"{day.seconds:,.0f}"]
        lines.append(cells)
    notes = []
    if narrow is not None and scenes:
        listed = ", ".join(f"in {value}" for value in _values(scenes))
        notes = [f"{listed}: AUC of {narrow.name}@{problem.space_of(narrow)} in that scene."]
    return "\n".join([*aligned(lines), *notes])


def draw(days: Sequence[DoneDay], problem: ProblemSpec) -> Any:
    """A figure of each binary task's AUC by day, overall and by scene.

    A hollow point is a day whose model was not blessed.

    Args:
        days: The days in order.
        problem: The declaration of the tasks.

    Returns:
        A `matplotlib.figure.Figure`, or `None` if there is no binary task.
    """
    # Imported here, because the table does not need the plotting library.
    from matplotlib.figure import Figure

    tasks = [task for task in _measured(days, problem) if task.kind == "binary"]
    if not tasks:
        return None
    figure = Figure(figsize=(4.2 * len(tasks), 4), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharex=True, squeeze=False)[0]
    at = range(len(days))
    for axis, task in zip(axes, tasks, strict=True):
        name = problem.metric_name(task, "auc")
        for key in ((), *_scenes(days, problem)):
            values = [_value(day, key, name) for day in days]
            label = key[0][1] if key else "all scenes"
            (line,) = axis.plot(at, values, label=label, color=None if key else "black")
            for blessed, face in ((True, line.get_color()), (False, "white")):
                chosen = [i for i in at if days[i].blessed == blessed]
                axis.plot(
                    chosen,
                    [values[i] for i in chosen],
                    "o",
                    color=line.get_color(),
                    markerfacecolor=face,
                    markersize=5,
                )
        axis.set(title=f"{task.name}@{problem.space_of(task)}", xlabel="tested on")
        axis.set_xticks([*at], [day.name for day in days], rotation=45 if len(days) > 6 else 0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("AUC")
    hollow = any(not day.blessed for day in days)
    axes[-1].legend(title="hollow: not blessed" if hollow else None)
    return figure


def next_commands(days: Sequence[DoneDay], name: str) -> str:
    """Commands to serve the model that was pushed last, or a note that there is none.

    Args:
        days: The days in order.
        name: Name of the served model.
    """
    pushed = [day for day in days if day.pushed is not None]
    if not pushed:
        return "No day's model was blessed, so none is served."
    last = pushed[-1]
    return "\n".join(["", "Next:", *serving_commands(str(last.pushed), last.request, name)])


def _measured(days: Sequence[DoneDay], problem: ProblemSpec) -> list[Task]:
    return [
        task
        for task in problem.served
        if any(problem.metric_name(task, "rows") in day.metrics.overall for day in days)
    ]


def _narrowest(tasks: Sequence[Task], problem: ProblemSpec) -> Task | None:
    # A rate after a click has the fewest rows, so its AUC per scene varies most.
    binary = [task for task in tasks if task.kind == "binary" and problem.scene is not None]
    return next((task for task in binary if task.observed_if is not None), next(iter(binary), None))


def _scenes(days: Sequence[DoneDay], problem: ProblemSpec) -> list[Slice]:
    slices = {
        key for day in days for key in day.metrics.slices if [c for c, _ in key] == [problem.scene]
    }
    return sorted(slices, key=str)


def _values(scenes: Sequence[Slice]) -> list[str]:
    return [str(value) for ((_, value),) in scenes]


def _value(day: DoneDay, key: Slice, name: str) -> float:
    return day.metrics.slices.get(key, {}).get(name, math.nan)


def _cell(day: DoneDay, key: Slice, name: str, spec: str) -> str:
    value = _value(day, key, name)
    return "-" if math.isnan(value) else format(value, spec)
