"""Predictions of rows next to what happened."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task

Index = slice | NDArray[np.int64]
ALL = slice(None)


class TaskRows(NamedTuple):
    """The rows on which one task is observed.

    Args:
        labels: `[n]`.
        predictions: `[n]`.
        groups: `[n]`, or `None` where the rows have none.
    """

    labels: NDArray[Any]
    predictions: NDArray[Any]
    groups: NDArray[Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions of `N` rows next to their true labels, for `K` tasks.

    Args:
        labels: `[N, K]`, in the order of the problem's tasks.
        observed: bool `[N, K]`; false outside the task's space, where its label is missing, and
            where it is a pseudo-label, which is for training.
        predictions: `[N]` by task, in the label's unit.
        groups: `[N]`, the request (or user) of a row; `None` where none is declared.
    """

    labels: NDArray[Any]
    observed: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[Any]]
    groups: NDArray[Any] | None

    def of(self, problem: ProblemSpec, task: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Labels and predictions of the rows on which a task is observed."""
        labels, predictions, _ = self.rows_of(problem, problem.task(task))
        return labels, predictions

    def rows_of(self, problem: ProblemSpec, task: Task, index: Index = ALL) -> TaskRows:
        """The rows on which a task is observed, among those of `index`."""
        k = problem.task_names.index(task.name)
        observed = self.observed[index, k]
        return TaskRows(
            self.labels[index, k][observed],
            self.predictions[task.name][index][observed],
            None if self.groups is None else self.groups[index][observed],
        )
