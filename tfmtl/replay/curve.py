"""Recall against K, of several early stages in one figure."""

from collections.abc import Mapping, Sequence

from tfmtl.errors import DataError
from tfmtl.metrics.sliced import Slice, slice_name
from tfmtl.replay.report import Consistency

DRAWN = (("soft_recall", "soft recall"), ("hard_recall", "hard recall"))


def draw(arms: Mapping[str, Consistency], *, slice_: Slice = ()):
    """A figure of soft and of hard recall against K, with their intervals as bands.

    Args:
        arms: Reports by the name of the early stage; their Ks may differ.
        slice_: Which slice of each; all requests by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: There is no report, or one lacks the slice.
    """
    # Loaded here: who only measures needs no plotting library.
    from matplotlib.figure import Figure

    if not arms:
        raise DataError("there is no early stage to draw; give one report at least.")
    for name, report in arms.items():
        if slice_ not in report.slices:
            known: Sequence[str] = [slice_name(key) for key in report.slices]
            raise DataError(
                f"the report of {name!r} has no slice {slice_name(slice_)!r}; it has {known}."
            )
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, len(DRAWN), sharex=True, sharey=True)
    for axis, (metric, heading) in zip(axes, DRAWN, strict=True):
        for name, report in arms.items():
            found = [report.slices[slice_].metrics[f"{metric}@{k}"] for k in report.ks]
            (line,) = axis.plot(
                report.ks, [i.value for i in found], marker="o", markersize=3, label=name
            )
            axis.fill_between(
                report.ks,
                [i.low for i in found],
                [i.high for i in found],
                color=line.get_color(),
                alpha=0.2,
                linewidth=0,
            )
        axis.set(xlabel="K, ads passed to the final stage", title=heading)
        axis.grid(alpha=0.3)
    first = next(iter(arms.values()))
    axes[0].set_ylabel(f"mean over {first.slices[slice_].requests:,} requests")
    axes[-1].legend(title=f"band: {first.level:.0%} interval", loc="lower right")
    return figure
