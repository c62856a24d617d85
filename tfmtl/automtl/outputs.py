"""What is kept of a search: the network and how it came about, as files that people read."""

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
"""Files and their columns. Epochs count from 1. `weight` is the softmax of β; `difference` the
mean of the epoch's tests, empty where there were none; `expert` empty of an interaction."""


def write_outputs(directory: str, architecture: Architecture, history: Sequence[Row]) -> list[str]:
    """Writes a search's tables and pictures into a folder.

    `architecture.png` always; `skip_counts`, `beta_heatmap` and `gradient_direction`, each as
    `.csv` and `.png`, where the history has them: networks that were drawn have no epochs.

    Args:
        directory: The folder; made if it is not there.
        architecture: What was found.
        history: By epoch; see `tfmtl.automtl.curves.Row`.

    Returns:
        The files' paths.
    """
    os.makedirs(directory, exist_ok=True)
    written: list[str] = []
    _picture(directory, "architecture.png", draw_architecture(architecture), written)
    parts: tuple[tuple[str, Callable, Callable], ...] = (
        ("n_skip", _skips, lambda rows: draw_skips({"search": rows})),
        ("selection", _selection, draw_selection),
        ("difference", _directions, draw_directions),
    )
    for (name, columns), (key, tabled, drawn) in zip(TABLES.items(), parts, strict=True):
        rows = [row for row in history if "epoch" in row and row.get(key) not in (None, {})]
        if not rows:
            continue
        path = os.path.join(directory, name)
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows(line for row in rows for line in tabled(row))
        written.append(path)
        _picture(directory, name.replace(".csv", ".png"), drawn(rows), written)
    return written


def _picture(directory: str, name: str, figure: Any, written: list[str]) -> None:
    path = os.path.join(directory, name)
    figure.savefig(path, dpi=150)
    written.append(path)


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
