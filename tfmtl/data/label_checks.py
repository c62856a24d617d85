"""Checks of labels, pseudo-labels and weights, and counts of the observed labels per task."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.labels import in_space, label_values, numbers, observed, task_values
from tfmtl.data.report import Report
from tfmtl.data.tallies import Oddities, add_labels, no_labels
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Split
from tfmtl.declare.tasks import Task
from tfmtl.errors import did_you_mean

TEXT_LABELS_SHOWN = 20
LARGEST_LABEL = 1e18


class LabelChecks:
    """Counts the labels per task and split, and reports tasks that nothing can be learned for.

    Args:
        problem: Tasks and indicators.
        split: How the rows were split.
        report: Receives counts, errors and warnings.
        oddities: Receives values that are out of range or missing.
    """

    def __init__(
        self, problem: ProblemSpec, split: Split, report: Report, oddities: Oddities
    ) -> None:
        self.problem, self.split = problem, split
        self.report, self.oddities = report, oddities
        self._text_labels: dict[str, set[str]] = {
            t.label: set() for t in problem.tasks if t.positive is not None
        }
        for task in problem.tasks:
            report.tasks[task.name] = {s: no_labels(task) for s in split.names}

    def update(
        self, batch: pa.RecordBatch, split_ids: NDArray[Any], row_numbers: NDArray[Any]
    ) -> None:
        """Takes in rows with their splits and their row numbers."""
        for name in self.problem.indicators:
            values = numbers(batch.column(batch.schema.names.index(name)))
            bad = (values != 0) & (values != 1)
            what = "values of an indicator are neither 0 nor 1"
            self.oddities.note("error", f"indicator {name!r}", what, bad, row_numbers, values)
        for task in self.problem.tasks:
            self._check_label(task, batch, row_numbers)
            if task.pseudo_label is not None:
                self._check_pseudo_label(task, task.pseudo_label, batch, row_numbers)
            if task.weight is not None:
                self._check_weight(task, task.weight, batch, row_numbers)
            self._collect_text_labels(task, batch)
            values = task_values(self.problem, task, batch)
            chosen = observed(self.problem, task, batch, values)
            for index, split in enumerate(self.split.names):
                counts = self.report.tasks[task.name][split]
                add_labels(counts, task, values[chosen & (split_ids == index)])

    def finish(self) -> None:
        """Adds the tasks without labels, or with one label value only, to the report."""
        for task in self.problem.tasks:
            self._judge_task(task)

    def _check_label(self, task: Task, batch: pa.RecordBatch, row_numbers: NDArray[Any]) -> None:
        values = label_values(task, batch)
        where = f"label {task.label!r} of task {task.name!r}"
        if task.kind == "regression":
            bad, what = np.isinf(values), "values are not finite"
            beyond = np.isfinite(values) & (np.abs(values) > LARGEST_LABEL)
            too_large = f"values are above {LARGEST_LABEL:g}, whose squares float32 cannot hold"
            self.oddities.note("error", where, too_large, beyond, row_numbers, values)
        elif task.soft:
            bad, what = (values < 0) | (values > 1), "values of a soft label lie outside [0, 1]"
        else:
            bad = ~np.isnan(values) & (values != 0) & (values != 1)
            what = "values of a binary label are neither 0 nor 1"
        self.oddities.note("error", where, what, bad, row_numbers, values)
        if task.pseudo_label is None:
            missing = np.isnan(values)
            self.oddities.note("warning", where, "rows have no value", missing, row_numbers)

    def _check_pseudo_label(
        self, task: Task, column: str, batch: pa.RecordBatch, row_numbers: NDArray[Any]
    ) -> None:
        values = label_values(task, batch)
        pseudo = numbers(batch.column(batch.schema.names.index(column)))
        where = f"pseudo_label {column!r} of task {task.name!r}"
        bad = (pseudo < 0) | (pseudo > 1)
        what = "values lie outside [0, 1]"
        self.oddities.note("error", where, what, bad, row_numbers, pseudo)
        neither = in_space(self.problem, task, batch) & np.isnan(values) & np.isnan(pseudo)
        what = "rows of its space have neither a label nor a pseudo-label"
        self.oddities.note("warning", f"task {task.name!r}", what, neither, row_numbers)

    def _check_weight(
        self, task: Task, column: str, batch: pa.RecordBatch, row_numbers: NDArray[Any]
    ) -> None:
        weights = numbers(batch.column(batch.schema.names.index(column)))
        where = f"weight {column!r} of task {task.name!r}"
        wrong = (weights < 0) | np.isinf(weights)
        what = "values are negative or infinite"
        self.oddities.note("error", where, what, wrong, row_numbers, weights)
        missing = np.isnan(weights)
        self.oddities.note("warning", where, "rows have no value", missing, row_numbers)

    def _collect_text_labels(self, task: Task, batch: pa.RecordBatch) -> None:
        values = self._text_labels.get(task.label)
        if values is not None and len(values) < TEXT_LABELS_SHOWN:
            text = batch.column(batch.schema.names.index(task.label))
            values.update(v for v in pc.unique(text).to_pylist() if v is not None)

    def _judge_task(self, task: Task) -> None:
        space = f"@{self.problem.space_of(task)}"
        for split, counts in self.report.tasks[task.name].items():
            if not self.report.rows[split]:
                continue
            first = split == self.split.names[0]
            messages = self.report.errors if first else self.report.warnings
            rows = f"{counts['observed']:,} observed rows ({space}) of {split}"
            if task.kind == "binary":
                for side in ("positives", "negatives"):
                    if not counts[side]:
                        hint = self._hint(task) if side == "positives" else ""
                        messages.append(
                            f"task {task.name!r} has no {side}: label {task.label!r} has none "
                            f"among {rows}.{hint}"
                        )
            elif not counts["observed"]:
                messages.append(f"task {task.name!r} has no label: none of {rows}.")
            elif first and counts["least"] == counts["most"]:
                messages.append(
                    f"task {task.name!r}: label {task.label!r} is {counts['least']:g} in "
                    f"all {rows}."
                )

    def _hint(self, task: Task) -> str:
        if task.positive is None:
            return ""
        values = sorted(self._text_labels[task.label])[:TEXT_LABELS_SHOWN]
        if task.positive in values:
            return ""
        return (
            f" Its values are {values}; positive={task.positive!r} is none of them."
            f"{did_you_mean(task.positive, values)}"
        )
