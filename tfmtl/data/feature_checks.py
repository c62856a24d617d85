"""Checks of features as a whole: columns without values, and features that reveal a label."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.leaks import EqualColumns, strongest_features
from tfmtl.data.report import Report
from tfmtl.data.sampling import RowSample
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Split

GIVEN_AWAY = 0.999


class FeatureChecks:
    """Finds columns that are empty in a split, and features that equal or predict a label.

    Args:
        problem: Features, labels and tasks.
        split: How the rows were split.
        report: Receives counts, errors and warnings.
        sample_rows: Size of the sample of training rows on which single features are judged.
    """

    def __init__(
        self, problem: ProblemSpec, split: Split, report: Report, *, sample_rows: int
    ) -> None:
        self.problem, self.split, self.report = problem, split, report
        self._sample = RowSample(sample_rows)
        self._equal = EqualColumns(problem)
        self._filled = {
            name: np.zeros(len(split.names), np.int64) for name in problem.feature_columns()
        }

    def update(
        self, batch: pa.RecordBatch, split_ids: NDArray[Any], row_numbers: NDArray[Any]
    ) -> None:
        """Takes in rows with their splits and their row numbers."""
        self._equal.update(batch)
        for name, counts in self._filled.items():
            array = batch.column(batch.schema.names.index(name))
            if array.null_count < len(array):
                splits = split_ids
                if array.null_count:
                    splits = split_ids[array.is_valid().to_numpy(zero_copy_only=False)]
                counts += np.bincount(splits, minlength=len(self.split.names))
        train = split_ids == 0
        rows = batch if train.all() else batch.filter(pa.array(train))
        self._sample.add(rows, row_numbers[train])

    def finish(self) -> None:
        """Adds empty columns and features that reveal a label to the report."""
        feature_of: dict[str, str] = {}
        for feature in self.problem.features:
            for column in feature.columns():
                feature_of.setdefault(column.name, feature.name)
        self._judge_empty_columns(feature_of)
        equal = self._judge_equal_columns(feature_of)
        self._judge_strong_features(equal)

    def _judge_empty_columns(self, feature_of: dict[str, str]) -> None:
        report = self.report
        for name, filled in self._filled.items():
            report.missing[name] = report.rows[self.split.names[0]] - int(filled[0])
            for index, split in enumerate(self.split.names):
                if report.rows[split] and not filled[index]:
                    (report.errors if index == 0 else report.warnings).append(
                        f"feature {feature_of[name]!r} has no value in any of "
                        f"{report.rows[split]:,} rows of {split}: column {name!r} is empty. "
                        "Remove it, or fill it in."
                    )

    def _judge_equal_columns(self, feature_of: dict[str, str]) -> set[str]:
        # Reports features that equal a label, and returns their names.
        equal: set[str] = set()
        rows = sum(self.report.rows.values())
        if not rows:
            return equal
        for name, label in self._equal.pairs:
            if not self._filled[name].sum():
                continue
            equal.add(feature_of[name])
            self.report.errors.append(
                f"feature {feature_of[name]!r} equals label {label!r} in all {rows:,} rows "
                f"(column {name!r}): it is the answer. Remove the feature."
            )
        return equal

    def _judge_strong_features(self, reported: set[str]) -> None:
        rows = self._sample.table()
        if rows is None:
            return
        for feature, task, auc in strongest_features(self.problem, rows, limit=GIVEN_AWAY):
            if feature not in reported:
                self.report.errors.append(
                    f"feature {feature!r} alone gives task {task!r} an AUC of {auc:.5f} on "
                    f"its own rows (@{self.problem.space_of(task)}): it is probably known only "
                    "after the outcome. Remove the feature."
                )
