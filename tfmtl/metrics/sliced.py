"""Metrics by slice and full name, as JSON and as one table of text."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec
from tfmtl.metrics.metric import Metric, metrics_of
from tfmtl.text import aligned, printable

MISSING = "(missing)"
"""Name of the slice of rows that have no value."""
Slice = tuple[tuple[str, str | int | float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlicedMetrics:
    """Metrics by slice and full name.

    Args:
        slices: `{slice: {"cvr/auc@click": value}}`. A slice is a tuple of `(column, value)`;
            `()` is all rows. A metric that is not defined (AUC of one class) is NaN.
    """

    slices: Mapping[Slice, Mapping[str, float]]

    @property
    def overall(self) -> Mapping[str, float]:
        """Metrics of all rows."""
        return self.slices[()]

    def table(self) -> list[dict[str, Any]]:
        """One row per slice and task: its `slice`, `task`, `space` and metrics by short name."""
        table: dict[tuple[Slice, str, str], dict[str, Any]] = {}
        for key, metrics in self.slices.items():
            for name, value in metrics.items():
                task, metric, space = split_name(name)
                row = table.setdefault(
                    (key, task, space), {"slice": slice_name(key), "task": task, "space": space}
                )
                row[metric] = value
        return list(table.values())

    def to_json(self) -> str:
        """Text from which `from_json` makes equal metrics; undefined ones are null."""
        plain = [
            {
                "slice": [list(part) for part in key],
                "metrics": {n: v if math.isfinite(v) else None for n, v in metrics.items()},
            }
            for key, metrics in self.slices.items()
        ]
        return json.dumps(plain, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "SlicedMetrics":
        """The metrics that `to_json` wrote."""
        return cls(
            slices={
                tuple((c, v) for c, v in part["slice"]): {
                    n: math.nan if v is None else v for n, v in part["metrics"].items()
                }
                for part in json.loads(text)
            }
        )


def slice_name(key: Slice) -> str:
    """A slice in words, `printable` whatever its value holds.

    Example:
        >>> slice_name((("scene", "search"), ("age", 3)))
        'scene=search, age=3'
        >>> slice_name(())
        'overall'
    """
    return printable(", ".join(f"{column}={value}" for column, value in key)) or "overall"


def split_name(name: str) -> tuple[str, str, str]:
    """Task, metric and space of a full metric name.

    Example:
        >>> split_name("cvr/auc@click")
        ('cvr', 'auc', 'click')
    """
    task, _, rest = name.partition("/")
    metric, _, space = rest.partition("@")
    return task, metric, space


def format_table(
    metrics: SlicedMetrics,
    problem: ProblemSpec | None = None,
    *,
    columns: tuple[str, ...] = (),
) -> str:
    """The metrics as lines of text: each task in its space, overall and per slice.

    A metric has a column where its declaration says so, in the order in which they were measured.

    Args:
        metrics: What to show.
        problem: Knows the metrics of your own that are not registered; without it they have no
            column.
        columns: Shows the slices by these columns only, such as `("scene",)`; none shows all.
    """
    shown = SlicedMetrics(
        slices={
            key: values
            for key, values in metrics.slices.items()
            if not key or not columns or tuple(c for c, _ in key) == tuple(columns)
        }
    )
    table = sorted(shown.table(), key=lambda row: _order(metrics, row))
    blocks = []
    for kind, always in (("binary", "auc"), ("regression", "r2")):
        # A row with AUC alone is a diagnostic, not a task.
        rows = [row for row in table if always in row and "rows" in row]
        if rows:
            blocks.append(_block(_columns(kind, rows, problem), rows))
    return "\n\n".join(blocks)


def _columns(
    kind: str, rows: list[dict[str, Any]], problem: ProblemSpec | None
) -> list[Metric[...]]:
    """The metrics that some row of a block has, and that are shown in it."""
    declared = registry.parts("metric")
    for task in problem.tasks if problem is not None else ():
        declared = {**declared, **{m.name: m for m in metrics_of(task)}}
    measured = dict.fromkeys(name for row in rows for name in row)
    return [declared[n] for n in measured if n in declared and kind in declared[n].shown]


def _order(metrics: SlicedMetrics, row: Mapping[str, Any]) -> int:
    names = list(dict.fromkeys(split_name(name)[0] for name in metrics.overall))
    return names.index(row["task"])


def _block(columns: list[Metric[...]], rows: list[dict[str, Any]]) -> str:
    lines = [["task", "slice", *(metric.heading for metric in columns)]]
    above = None
    for row in rows:
        task = f"{row['task']}@{row['space']}"
        values = [row.get(metric.name, math.nan) for metric in columns]
        cells = [
            "-" if math.isnan(value) else format(value, metric.format)
            for metric, value in zip(columns, values, strict=True)
        ]
        lines.append(["" if task == above else task, row["slice"], *cells])
        above = task
    return "\n".join(line.rstrip() for line in aligned(lines, left=2))
