"""Labels and sample spaces of Arrow batches, by the rules of `tfmtl.features.raw` for tensors."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task


def numbers(array: pa.Array) -> NDArray[Any]:
    """A scalar column as float64 `[rows]`, missing values as NaN."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    values: NDArray[Any] = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def label_values(task: Task, rows: pa.RecordBatch | pa.Table) -> NDArray[Any]:
    """Labels of a task, float64 `[rows]`: 0 and 1 where `positive` is given, unknown as NaN."""
    column = rows.column(rows.schema.names.index(task.label))
    if task.positive is not None:
        column = pc.equal(column, task.positive).cast(pa.float32())
    values = numbers(column)
    if task.labelled_if is not None:
        known = numbers(rows.column(rows.schema.names.index(task.labelled_if))) > 0.5
        values = np.where(known, values, np.nan)
    return values


def task_values(problem: ProblemSpec, task: Task, rows: pa.RecordBatch | pa.Table) -> NDArray[Any]:
    """`label_values`, with conversions without a click as `ProblemSpec.orphans` declares."""
    values, before = label_values(task, rows), problem.label_before(task)
    if before is None:
        return values
    owner = next(t for t in problem.tasks if t.label == before and t.kind == "binary")
    return np.where((label_values(owner, rows) <= 0.5) & (values > 0.5), 0.0, values)


def positive(problem: ProblemSpec, label: str, rows: pa.RecordBatch | pa.Table) -> NDArray[Any]:
    """Rows where a label or an indicator is positive: a regression's above 0, any other above ½."""
    if label in problem.indicators:
        return numbers(rows.column(rows.schema.names.index(label))) > 0.5
    owners = [task for task in problem.tasks if task.label == label]
    binary = [task for task in owners if task.kind == "binary"]
    return label_values((binary or owners)[0], rows) > (0.5 if binary else 0.0)


def observed(
    problem: ProblemSpec, task: Task, rows: pa.RecordBatch | pa.Table, values: NDArray[Any]
) -> NDArray[Any]:
    """Which rows count for a task, bool `[rows]`: in its space, labelled, with a weight > 0.

    Args:
        problem: The task's problem.
        task: The task.
        rows: The rows.
        values: The task's `label_values`.
    """
    counted: NDArray[Any] = ~np.isnan(values)
    if task.weight is not None:
        counted = counted & (numbers(rows.column(rows.schema.names.index(task.weight))) > 0)
    counted &= in_space(problem, task, rows)
    return counted


def in_space(problem: ProblemSpec, task: Task, rows: pa.RecordBatch | pa.Table) -> NDArray[Any]:
    """Rows on which `observed_if` is positive, bool `[rows]`; all without one."""
    if task.observed_if is None:
        return np.ones(rows.num_rows, bool)
    return positive(problem, task.observed_if, rows)


def without(problem: ProblemSpec, first: str, second: str, rows: pa.RecordBatch) -> NDArray[Any]:
    """Rows where label `second` is positive and label `first` is not, bool `[rows]`."""
    alone: NDArray[Any] = positive(problem, second, rows) & ~positive(problem, first, rows)
    return alone


def rows_to_keep(problem: ProblemSpec, rows: pa.RecordBatch) -> NDArray[Any] | None:
    """Rows that `problem.drop_if` leaves, bool `[rows]`; `None` where it drops none of these."""
    if problem.drop_if is None:
        return None
    dropped = without(problem, *problem.drop_if, rows)
    return ~dropped if dropped.any() else None
