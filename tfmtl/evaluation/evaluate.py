"""Metrics of every task in its own space, overall and per slice, exact and vectorised.

Predictions and labels of all rows stay in memory as float32 (9 bytes per row and task), so that
AUC is an exact rank statistic in every slice: a histogram of the probabilities with 10,000
bins loses 0.003 AUC at conversion rates. Slices are cut by one sort per slicing; no Python
code runs per row.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.evaluation.scored_rows import Predict, Rows, collect, slicings
from tfmtl.metrics.auc import auc
from tfmtl.metrics.checks import quietly
from tfmtl.metrics.metric import metrics_of
from tfmtl.metrics.predicted import Index
from tfmtl.metrics.sliced import Slice, SlicedMetrics, format_table
from tfmtl.metrics.tasks import task_metrics

__all__ = [
    "Predict",
    "Rows",
    "Slice",
    "SlicedMetrics",
    "collect",
    "evaluate",
    "format_table",
    "measure",
    "slicings",
]

# Nobody reads more slices than this; a column with more values is probably an id.
MAX_SLICES = 1000


def evaluate(
    predict: Predict,
    dataset: Iterable[tf.Tensor],
    problem: ProblemSpec,
    evaluation: Evaluation,
) -> SlicedMetrics:
    """Metrics of a model on a data set: `measure` of what `collect` returns.

    Args:
        predict: Maps serialised tf.Examples, string `[B]`, to `{task: [B]}` or `[B, 1]`.
        dataset: Batches of serialised tf.Examples, string `[B]`.
        problem: The declaration; tasks are measured in their own spaces.
        evaluation: Names the slices.

    Raises:
        DataError: The data set is empty, a slice column is not in it, or `predict` lacks a task.
    """
    return measure(collect(predict, dataset, problem, evaluation), problem, evaluation)


def measure(rows: Rows, problem: ProblemSpec, evaluation: Evaluation) -> SlicedMetrics:
    """Metrics of collected rows, overall and per slice.

    Per task the metrics of `tfmtl.metrics.metric.metrics_of`, with the counts of its rows; for a
    conversion funnel also the diagnostic `cvrhead/auc@imp`, which is the conversion head's AUC of
    conversions among all rows.
    """
    slices: dict[Slice, dict[str, float]] = {(): _measure(rows, problem, slice(None))}
    # A slice of one class is ordinary; its metrics are NaN, and a warning each would bury others.
    with quietly():
        for columns in slicings(problem, evaluation):
            for key, index in _cut(rows, columns):
                slices[key] = _measure(rows, problem, index)
    return SlicedMetrics(slices=slices)


def _cut(rows: Rows, columns: tuple[str, ...]) -> Iterator[tuple[Slice, NDArray[np.int64]]]:
    joint = np.zeros(len(rows.labels), np.int64)
    for column in columns:
        joint = joint * len(rows.values[column]) + rows.codes[column]
    joint_codes, codes, counts = np.unique(joint, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(counts)
    keep = np.arange(len(joint_codes))
    if len(joint_codes) > MAX_SLICES:
        logging.warning(
            "Slicing by %s gives %d slices; the %d largest are kept.",
            "+".join(columns),
            len(joint_codes),
            MAX_SLICES,
        )
        keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_SLICES])
    cut = []
    for i in keep:
        code, parts = int(joint_codes[i]), []
        for column in reversed(columns):
            code, value = divmod(code, len(rows.values[column]))
            parts.append((column, rows.values[column][value]))
        cut.append((tuple(reversed(parts)), order[ends[i] - counts[i] : ends[i]]))
    # Numbers before text, each ascending: the order of the data has no meaning.
    cut.sort(key=lambda item: [(isinstance(v, str), v) for _, v in item[0]])
    return iter(cut)


def _measure(rows: Rows, problem: ProblemSpec, index: Index) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for task in problem.tasks:
        if task.name in rows.predictions:
            values = _of_task(rows, problem, task, index)
            metrics |= {problem.metric_name(task, name): value for name, value in values.items()}
    return metrics | _conversion_head(rows, problem, index)


def _of_task(rows: Rows, problem: ProblemSpec, task: Task, index: Index) -> dict[str, float]:
    labels, predictions, groups = rows.rows_of(problem, task, index)
    broken = ~np.isfinite(predictions)
    if broken.any():
        logging.warning("%d predictions of %s are not finite.", broken.sum(), task.name)
        # One broken prediction leaves the task without metrics; the counts of rows remain.
        predictions = np.zeros_like(predictions)
    measured = metrics_of(task, counts=True)
    values = task_metrics(
        task.kind,
        labels,
        predictions,
        groups=groups,
        task=task.name,
        space=problem.space_of(task),
        metrics=measured,
    )
    if broken.any():
        values |= {m.name: math.nan for m in measured if m.name in values and not m.counts}
    return values


def _conversion_head(rows: Rows, problem: ProblemSpec, index: Index) -> dict[str, float]:
    funnel = problem.funnel()
    if funnel is None or funnel[1] not in rows.predictions:
        return {}
    _, cvr, ctcvr = funnel
    name = f"{cvr}head/auc@{problem.space}"
    k = problem.task_names.index(ctcvr)
    observed = rows.observed[index, k]
    predictions = rows.predictions[cvr][index][observed]
    if np.isnan(predictions).any():
        return {name: math.nan}
    return {name: auc(rows.labels[index, k][observed], predictions, name=name)}
