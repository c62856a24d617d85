"""A cold start's curves as one figure."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfmtl.errors import DataError
from tfmtl.few_shot.report import ColdStart, shown_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_cold_start(
    report: ColdStart, path: str | None = None, *, metrics: Sequence[str] | None = None
) -> "Figure":
    """A figure with an axis for each metric: its value by rows adapted to, a line for each model.

    Bands are the intervals of the values. Models are compared on the same rows, so that two
    whose bands overlap may well differ; see the report's `difference`.

    Args:
        report: The report of `cold_start`.
        path: Where the figure is written, in the format of its ending; nowhere without it.
        metrics: Full names, in order; by default those that the report's text shows: the tasks'
            AUCs, log losses and calibrations, or errors and biases, and what a task asks for.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: There is no metric to draw.
        SpecError: The report has no such metric.
    """
    # Loaded here: who only measures needs no plotting library.
    from matplotlib.figure import Figure

    drawn = shown_metrics(report.metrics) if metrics is None else list(metrics)
    if not drawn:
        raise DataError(f"there is no metric to draw; the report has {list(report.metrics)}.")
    columns = min(len(drawn), 4)
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(4.0 * columns, 3.3 * rows), layout="constrained")
    # Evenly spaced: a few rows more matter most where there are few.
    places = range(len(report.ks))
    for at, metric in enumerate(drawn):
        axis = figure.add_subplot(rows, columns, at + 1)
        for model in report.models:
            curve = [shots.value for shots in report.curve(metric, model)]
            (line,) = axis.plot(
                places, [i.value for i in curve], marker="o", markersize=3, label=model
            )
            axis.fill_between(
                places,
                [i.low for i in curve],
                [i.high for i in curve],
                color=line.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        axis.set_xticks(places, [str(k) for k in report.ks])
        axis.set(xlabel="k, rows of each group adapted to", title=metric)
        axis.grid(alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(report.models),
        title=f"band: {report.level:.0%} interval over groups",
    )
    if path is not None:
        figure.savefig(path)
    return figure
