"""Tables and pictures of a search: its network and its history."""

import csv
import os
from collections.abc import Callable, Sequence
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.curves import Row, draw_directions, draw_selection, draw_skips
from tfmtl.automtl.pictures import draw_architecture

TABLES: dict[str, tuple[str, ...]] = {
    "skip_counts.csv": ("epoch", "n_skip", "n_blocks"),
    "beta_heatmap.csv": ("epoch", "task", "expert", "weight"),
    "gradient_direction.csv": ("epoch", "block", "operation", "expert", "difference", "stopped"),
}
"""Files and their columns. Epochs count from 1. `weight` is the softmax of β. `difference` is the
mean of the epoch's tests, empty if there were none. `expert` is empty for an interaction."""


def write_tables(directory: str, history: Sequence[Row]) -> list[str]:
    """Writes the tables for which the history has rows into a folder.

    For networks that were drawn at random there are no epochs, and so no tables.

    Args:
        directory: The folder; made if it does not exist.
        history: One row per epoch; see `tfmtl.automtl.curves.Row`.

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
    """Draws the network, and one picture for each table that has rows, into a folder.

    Args:
        directory: The folder; made if it does not exist.
        architecture: The network.
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


def _skips(row: Row) -> list[tuple[Any, ...]]:
    return [(row["epoch"] + 1, row["n_skip"], row["n_blocks"])]


def _selection(row: Row) -> list[tuple[Any, ...]]:
    return [
        (row["epoch"] + 1, task, expert, f"{weight:.6f}")
        for task, weights in row["selection"].items()
        for expert, weight in enumerate(weights)
    ]


def _directions(row: Row) -> list[tuple[Any, ...]]:
    stopped = set(row["frozen"])
    lines: list[tuple[Any, ...]] = []
    for name, difference in row["difference"].items():
        block, label, *expert = name.split("/")
        mean = "" if difference is None else f"{difference:.6f}"
        lines.append(
            (row["epoch"] + 1, block, label, *(expert or [""]), mean, int(name in stopped))
        )
    return lines


# Per table: the key that a row must have, a row's lines in the table, and the picture of all rows.
PARTS: tuple[
    tuple[str, Callable[[Row], list[tuple[Any, ...]]], Callable[[Sequence[Row]], Any]], ...
] = (
    ("n_skip", _skips, lambda rows: draw_skips({"search": rows})),
    ("selection", _selection, draw_selection),
    ("difference", _directions, draw_directions),
)
