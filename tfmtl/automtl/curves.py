"""Pictures of a search's history, per epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmtl.errors import DataError

Row = Mapping[str, Any]
"""One epoch: `epoch` from 0, `n_skip` of `n_blocks`, `selection` `{task: weights of all experts}`,
`difference` `{operation: mean, or None if it was not tested}`, and `frozen`, the operations whose
weights are stopped. The name of an operation is `block/label/expert`."""


def draw_selection(history: Sequence[Row]) -> Any:
    """Heat maps of the weights that each task gives each expert, over the epochs.

    Args:
        history: One row per epoch.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: No row has weights of experts.
    """
    from matplotlib.figure import Figure

    history = _rows(history, "selection")
    tasks = list(history[0]["selection"])
    figure = Figure(
        figsize=(2.6 * len(tasks) + 1.2, 0.25 * len(history) + 2.0), layout="constrained"
    )
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    weights = np.array([[row["selection"][task] for task in tasks] for row in history])
    # Equal weights are at most at the middle of the scale, so that small differences look small.
    most = max(weights.max(), 2 / weights.shape[-1])
    for k, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        image = axis.imshow(weights[:, k], vmin=0.0, vmax=most, cmap="viridis", aspect="auto")
        axis.set(title=task, xlabel="expert", xticks=range(weights.shape[-1]))
    axes[0].set_yticks(range(len(history)), [row["epoch"] + 1 for row in history])
    axes[0].set_ylabel("epoch")
    figure.colorbar(image, ax=list(axes), label="softmax(β)")
    return figure


def draw_skips(histories: Mapping[str, Sequence[Row]]) -> Any:
    """Lines of the number of blocks that are skips, over the epochs, of one or more searches.

    Args:
        histories: The history of each search, by the search's name.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: No row has a count.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    axis = figure.add_subplot()
    blocks = 0
    for name, history in histories.items():
        rows = _rows(history, "n_skip")
        epochs = [row["epoch"] + 1 for row in rows]
        axis.plot(epochs, [row["n_skip"] for row in rows], marker="o", markersize=4, label=name)
        blocks = max(blocks, *(row["n_blocks"] for row in rows))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel=f"skip connections of {blocks} blocks", ylim=(-0.5, None))
    axis.grid(alpha=0.3)
    if len(histories) > 1:
        axis.legend(fontsize="small")
    return figure


def draw_directions(history: Sequence[Row]) -> Any:
    """The difference of training and validation gradients, and the share of stopped operations.

    Differences are means over the blocks and experts with the operation; white if none was tested.

    Args:
        history: One row per epoch.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: No gradients were compared.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history = _rows(history, "difference")
    names = list(history[0]["difference"])
    kinds = list(dict.fromkeys(map(_kind_and_label, names)))
    means = np.full([len(kinds), len(history)], np.nan)
    for i, which in enumerate(kinds):
        for j, row in enumerate(history):
            values = [row["difference"][name] for name in names if _kind_and_label(name) == which]
            tested = [value for value in values if value is not None]
            means[i, j] = np.mean(tested) if tested else np.nan
    figure = Figure(figsize=(9.0, 0.2 * len(kinds) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    # (1 − cos)/2 is at most 1, and 1 − cos at most 2.
    most = 2.0 if np.nanmax(means, initial=0.0) > 1.0 else 1.0
    image = left.imshow(means, vmin=0.0, vmax=most, cmap="coolwarm", aspect="auto")
    left.set_yticks(range(len(kinds)), [f"{kind}: {label}" for kind, label in kinds], fontsize=7)
    left.set_xticks(range(len(history)), [row["epoch"] + 1 for row in history])
    left.set(xlabel="epoch", title="difference of directions")
    figure.colorbar(image, ax=left)
    epochs = [row["epoch"] + 1 for row in history]
    for kind in dict.fromkeys(kind for kind, _ in kinds):
        of_kind = {name for name in names if _kind_and_label(name)[0] == kind}
        shares = [100 * len(of_kind & set(row["frozen"])) / len(of_kind) for row in history]
        right.plot(epochs, shares, marker="o", markersize=4, label=kind)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="epoch", ylabel="% of operations", ylim=(-3, 103), title="stopped")
    right.grid(alpha=0.3)
    right.legend(fontsize="small", loc="upper left")
    return figure


def _rows(history: Sequence[Row], key: str) -> list[Row]:
    rows = [row for row in history if row.get(key) not in (None, {})]
    if not rows:
        raise DataError(f"no row of the history has {key!r}; there is nothing to draw.")
    return rows


def _kind_and_label(name: str) -> tuple[str, str]:
    block, label, *_ = name.split("/")
    return block.split("_")[0], label
