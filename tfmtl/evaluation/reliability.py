"""Reliability diagrams: how often it happened, against how often the model said it would."""

import numpy as np

from tfmtl.declare.problem import ProblemSpec
from tfmtl.evaluation.evaluate import Rows


def reliability(
    labels: np.ndarray, predictions: np.ndarray, *, bins: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, mean label and its standard error in bins of equally many rows.

    Equally filled bins (our choice) show where the rows are: at a click rate of 2 % all of them
    would fall into the first of 20 equally wide ones.

    Args:
        labels: `[N]`, in [0, 1].
        predictions: Probabilities `[N]`.
        bins: Most bins; fewer where there are fewer rows.

    Returns:
        Three arrays `[bins]`, by rising prediction.
    """
    order = np.argsort(predictions, kind="stable")
    edges = np.linspace(0, len(order), min(bins, len(order)) + 1).astype(np.int64)
    counts = np.diff(edges)
    said = np.add.reduceat(predictions[order].astype(np.float64), edges[:-1]) / counts
    happened = np.add.reduceat(labels[order].astype(np.float64), edges[:-1]) / counts
    return said, happened, np.sqrt(happened * (1 - happened) / counts)


def draw(rows: Rows, problem: ProblemSpec):
    """A figure with one diagram per binary task, each in its own space.

    Bars are one standard error; axes are logarithmic, since rates differ by orders of
    magnitude.

    Args:
        rows: What `tfmtl.evaluation.evaluate.collect` returned.
        problem: The declaration.

    Returns:
        A `matplotlib.figure.Figure`, or `None` where no binary task has a row.
    """
    # Loaded here: who only trains or serves needs no plotting library.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    drawn = [
        (task, rows.observed[:, k], rows.labels[:, k], rows.predictions[task.name])
        for k, task in enumerate(problem.tasks)
        if task.kind == "binary" and task.name in rows.predictions and rows.observed[:, k].any()
    ]
    if not drawn:
        return None
    figure = Figure(figsize=(4 * len(drawn), 4), layout="constrained")
    for axes, (task, observed, labels, predictions) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True
    ):
        said, happened, error = reliability(labels[observed], predictions[observed])
        shown = (said > 0) & (happened > 0)
        axes.errorbar(said[shown], happened[shown], yerr=error[shown], fmt="o-", markersize=3)
        if shown.any():
            ends = [min(said[shown].min(), happened[shown].min()), 1.0]
            ends[1] = max(said[shown].max(), happened[shown].max())
            axes.plot(ends, ends, color="gray", linewidth=1)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="predicted",
            ylabel="observed",
            title=f"{task.name}@{problem.space_of(task)} ({observed.sum():,} rows)",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
    return figure
