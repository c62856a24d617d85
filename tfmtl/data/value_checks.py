"""Checks of single values: infinite, cut off, out of range, too close together or far off."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.labels import label_values, numbers
from tfmtl.data.report import Report
from tfmtl.data.spellings import Spellings
from tfmtl.data.splits import columns_to_read
from tfmtl.data.tallies import Extremes, Oddities
from tfmtl.data.types import ABSENT
from tfmtl.declare.features import Categorical, Column, Numerical
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Split

FEWEST_STEPS = 1000
FAR_OUT = 1e6


class ValueChecks:
    """Checks the values of feature columns, and the sizes of regression labels.

    Args:
        problem: Features and tasks.
        split: Its column is read too.
        report: Receives errors and warnings.
        oddities: Receives values that are infinite, cut off or out of range.
    """

    def __init__(
        self, problem: ProblemSpec, split: Split, report: Report, oddities: Oddities
    ) -> None:
        self.problem, self.report, self.oddities = problem, report, oddities
        self._columns = problem.feature_columns()
        self._identities = [
            f
            for f in problem.features
            if isinstance(f, Categorical) and f.encoding["name"] == "identity"
        ]
        # Per identity feature: the values outside its range, and all values.
        self._outside = {f.name: np.zeros(2, np.int64) for f in self._identities}
        self._spellings = {
            name: Spellings()
            for name, column in columns_to_read(problem, split).items()
            if column.dtype == "string" and not column.max_values
        }
        self._extremes = {
            f.column: Extremes() for f in problem.features if isinstance(f, Numerical)
        }
        self._label_extremes = {t.name: Extremes() for t in problem.tasks if t.kind == "regression"}

    def update(self, batch: pa.RecordBatch, row_numbers: NDArray[Any]) -> None:
        """Takes in rows with their row numbers."""
        for task_name, extremes in self._label_extremes.items():
            values = label_values(self.problem.task(task_name), batch)
            extremes.add(values[np.isfinite(values)])
        for name, column in self._columns.items():
            self._check_column(name, column, batch, row_numbers)
        for name, spellings in self._spellings.items():
            spellings.update(batch.column(batch.schema.names.index(name)))
        for feature in self._identities:
            self._check_identity(feature, batch, row_numbers)

    def finish(self) -> None:
        """Adds what only all rows together show to the report."""
        for name, spellings in self._spellings.items():
            line = spellings.line()
            if line is not None:
                self.report.warnings.append(f"column {name!r}: {line}")
        for feature in self._identities:
            self._judge_identity(feature)
        for name, extremes in self._extremes.items():
            self._judge_precision(name, extremes)
        for name, extremes in self._label_extremes.items():
            self._judge_largest_label(name, extremes)

    def _check_column(
        self, name: str, column: Column, batch: pa.RecordBatch, row_numbers: NDArray[Any]
    ) -> None:
        array = batch.column(batch.schema.names.index(name))
        where = f"column {name!r}"
        if column.whole:
            return
        if column.max_values:
            lengths = pc.fill_null(pc.list_value_length(array), 0)
            cut = lengths.to_numpy(zero_copy_only=False) > column.max_values
            what = f"lists are longer than max_values={column.max_values} and are cut off"
            self.oddities.note("warning", where, what, cut, row_numbers)
        elif column.dtype == "float32":
            values = numbers(array)
            infinite = np.isinf(values)
            self.oddities.note("error", where, "values are infinite", infinite, row_numbers, values)
            if name in self._extremes:
                self._extremes[name].add(values[np.isfinite(values)])

    def _check_identity(
        self, feature: Categorical, batch: pa.RecordBatch, row_numbers: NDArray[Any]
    ) -> None:
        array = batch.column(batch.schema.names.index(feature.column))
        row = np.arange(len(array))
        if feature.max_values:
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            row, array = np.repeat(row, lengths), array.flatten()
        known = array.is_valid().to_numpy(zero_copy_only=False)
        ids = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        known &= ids != ABSENT["int64"]
        size = feature.encoding["size"]
        outside = known & ((ids < 0) | (ids >= size))
        self._outside[feature.name] += (int(outside.sum()), int(known.sum()))
        what = f"values lie outside 0 … {size - 1} and are all the one unknown id"
        where = f"column {feature.column!r} of feature {feature.name!r}"
        self.oddities.note("warning", where, what, outside, row_numbers[row], ids)

    def _judge_identity(self, feature: Categorical) -> None:
        size = feature.encoding["size"]
        outside, known = self._outside[feature.name]
        if known and outside == known:
            self.report.errors.append(
                f"feature {feature.name!r}: all {known:,} values of column "
                f"{feature.column!r} lie outside 0 … {size - 1}, so that each is the "
                "one unknown id. encoding='vocabulary' or 'hash' reads any integers."
            )

    def _judge_precision(self, name: str, extremes: Extremes) -> None:
        steps = extremes.steps()
        if steps is not None and steps < FEWEST_STEPS:
            self.report.warnings.append(
                f"column {name!r}: values from {extremes.least:.10g} to {extremes.most:.10g} are "
                f"only {steps:,.0f} steps of float32 apart, which keeps 7 digits. Give the "
                "difference to a fixed value, such as the seconds since midnight or the age "
                "in hours."
            )

    def _judge_largest_label(self, task_name: str, extremes: Extremes) -> None:
        if extremes.times_the_rest() > FAR_OUT:
            label = self.problem.task(task_name).label
            self.report.warnings.append(
                f"label {label!r} of task {task_name!r}: one value, {extremes.largest():g}, is "
                f"{extremes.times_the_rest():,.0f} times the mean size of the others, and will "
                "rule loss and error. Check it, or cut it off."
            )
