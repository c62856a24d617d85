"""A transfer report as one figure: gains, gradients' cosines, and what gates use."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfmtl.errors import DataError
from tfmtl.metrics.sliced import split_name
from tfmtl.transfer.gates import GateUse
from tfmtl.transfer.report import HELPED, HURT, Cosines, TaskTransfer, TransferReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {HELPED: "tab:green", HURT: "tab:red"}


def draw_transfer(report: TransferReport) -> "Figure":
    """A figure of the gains with their intervals, and of what else the report has.

    The axes, in this order: gains, one axis per metric, since metrics have units; cosines of every
    two tasks over the epochs; a heat map of expert use per layer of gates. What the report lacks
    has no axes.

    Args:
        report: The report of `negative_transfer`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: The report has no task.
    """
    # Loaded here: who only measures needs no plotting library.
    from matplotlib.figure import Figure

    if not report.tasks:
        raise DataError("there is no task to draw; the report is empty.")
    by_metric: dict[str, list[TaskTransfer]] = {}
    for task in report.tasks.values():
        by_metric.setdefault(split_name(task.metric)[1], []).append(task)
    panels = len(by_metric) + (report.cosines is not None) + len(report.gates)
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    axes = iter([figure.add_subplot(rows, columns, i + 1) for i in range(panels)])
    for metric, tasks in by_metric.items():
        _draw_gains(next(axes), metric, tasks, f"{report.level:.0%} interval over {report.over}")
    if report.cosines is not None:
        _draw_cosines(next(axes), report.cosines)
    for gate in report.gates:
        _draw_use(figure, next(axes), gate)
    return figure


def _draw_gains(axis: "Axes", metric: str, tasks: Sequence[TaskTransfer], interval: str) -> None:
    for place, task in enumerate(tasks):
        gain = task.gain
        colour = COLOURS.get(task.verdict, "tab:grey")
        axis.plot([gain.low, gain.high], [place, place], color=colour, linewidth=2)
        axis.plot([gain.value], [place], marker="o", color=colour)
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(tasks)), [task.metric for task in tasks])
    axis.set_ylim(len(tasks) - 0.5, -0.5)
    axis.set(xlabel=f"gain, {interval}", title=f"{metric}: together against alone")
    axis.grid(alpha=0.3, axis="x")


def _draw_cosines(axis: "Axes", cosines: Cosines) -> None:
    # Loaded here, as above.
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(cosines.epochs) + 1)
    for first, second in itertools.combinations(cosines.tasks, 2):
        axis.plot(
            epochs,
            cosines.of(first, second),
            marker="o",
            markersize=3,
            label=f"{first}, {second}",
        )
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set(
        xlabel="epoch", ylabel="cosine", ylim=(-1.05, 1.05), title="gradients on what is shared"
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def _draw_use(figure: "Figure", axis: "Axes", gate: GateUse) -> None:
    image = axis.imshow(gate.use, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(gate.experts)), gate.experts, rotation=45, ha="right")
    axis.set_yticks(
        range(len(gate.readers)),
        [
            f"{reader}\nevenness {even:.2f}"
            for reader, even in zip(gate.readers, gate.evenness, strict=True)
        ],
    )
    axis.set(title=f"expert use: {gate.gate}")
    figure.colorbar(image, ax=axis, label="mean weight")
