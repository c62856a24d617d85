"""What is kept of a search: the network and how it came about, as files that people read."""

import csv
import os
from collections.abc import Callable, Sequence

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.curves import Row, draw_directions, draw_selection, draw_skips
from tfmtl.automtl.pictures import draw_architecture

TABLES: dict[str, tuple[str, ...]] = {
    "skip_counts.csv": ("epoch", "n_skip", "n_blocks"),
    "beta_heatmap.csv": ("epoch", "task", "expert", "weight"),
    "gradient_direction.csv": ("epoch", "block", "operation", "expert", "difference", "stopped"),
}
"""Files and their columns. Epochs count from 1. `weight` is the softmax of β; `difference` the
mean of the epoch's tests, empty where there were none; `expert` empty of an interaction."""


def write_tables(directory: str, history: Sequence[Row]) -> list[str]:
    """Writes a search's tables into a folder, those that the history has rows for.

    Networks that were drawn at random have no epochs, and none of them.

    Args:
        directory: The folder; made if it is not there.
        history: By epoch; see `tfmtl.automtl.curves.Row`.

    Returns:
        The files' paths.
    """
    os.makedirs(directory, exist_ok=True)
    written = []
    for (name, columns), (key, tabled, _) in zip(TABLES.items(), PARTS, strict=True):
        if rows := _with(history, key):
            path = os.path.join(directory, name)
            with open(path, "w", encoding="utf-8", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(columns)
                table.writerows(line for row in rows for line in tabled(row))
            written.append(path)
    return written


def write_pictures(directory: str, architecture: Architecture, history: Sequence[Row]) -> list[str]:
    """Draws the network, and a picture beside each table that there is, into a folder.

    Args:
        directory: The folder; made if it is not there.
        architecture: What was found.
        history: As for `write_tables`.

    Returns:
        The files' paths.
    """
    os.makedirs(directory, exist_ok=True)
    figures = {"architecture.png": draw_architecture(architecture)}
    for name, (key, _, drawn) in zip(TABLES, PARTS, strict=True):
        if rows := _with(history, key):
            figures[name.replace(".csv", ".png")] = drawn(rows)
    written = []
    for name, figure in figures.items():
        path = os.path.join(directory, name)
        figure.savefig(path, dpi=150)
        written.append(path)
    return written


def _with(history: Sequence[Row], key: str) -> list[Row]:
    return [row for row in history if "epoch" in row and row.get(key) not in (None, {})]


def _skips(row):
    return [(row["epoch"] + 1, row["n_skip"], row["n_blocks"])]


def _selection(row):
    return [
        (row["epoch"] + 1, task, expert, f"{weight:.6f}")
        for task, weights in row["selection"].items()
        for expert, weight in enumerate(weights)
    ]


def _directions(row):
    stopped = set(row["frozen"])
    lines = []
    for name, difference in row["difference"].items():
        block, label, *expert = name.split("/")
        mean = "" if difference is None else f"{difference:.6f}"
        lines.append(
            (row["epoch"] + 1, block, label, *(expert or [""]), mean, int(name in stopped))
        )
    return lines


# By table: what it asks of a row, the table's lines of a row, and the picture of all rows.
PARTS: tuple[tuple[str, Callable, Callable], ...] = (
    ("n_skip", _skips, lambda rows: draw_skips({"search": rows})),
    ("selection", _selection, draw_selection),
    ("difference", _directions, draw_directions),
)
