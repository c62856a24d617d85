"""Metrics of every task in its own space, overall and per slice, exact and vectorised.

Predictions and labels of all rows stay in memory as float32 (9 bytes a row and task), so that
AUC is an exact rank statistic in every slice: a histogram of the probabilities with 10,000
bins loses 0.003 AUC at conversion rates. Slices are cut by one sort per slicing; no Python
code runs per row.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.evaluation.scored_rows import Predict, Rows, collect, slicings
from tfmtl.metrics.sliced import Slice, SlicedMetrics, format_table
from tfmtl.metrics.tasks import auc, task_metrics

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

# More slices than anyone reads; a column with more values was probably an id.
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

    Per task `rows`, `positives` of a binary one, and what `tfmtl.metrics.tasks.task_metrics`
    returns; for a conversion funnel also the diagnostic `cvrhead/auc@imp`, which is the conversion
    head's AUC of conversions among all rows.
    """
    slices: dict[Slice, dict[str, float]] = {(): _measure(rows, problem, slice(None))}
    with _quietly():
        for columns in slicings(problem, evaluation):
            for key, index in _cut(rows, columns):
                slices[key] = _measure(rows, problem, index)
    return SlicedMetrics(slices=slices)


def _cut(rows: Rows, columns: tuple[str, ...]) -> Iterator[tuple[Slice, np.ndarray]]:
    joint = np.zeros(len(rows.labels), np.int64)
    for column in columns:
        joint = joint * len(rows.values[column]) + rows.codes[column]
    found, codes, counts = np.unique(joint, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(counts)
    keep = np.arange(len(found))
    if len(found) > MAX_SLICES:
        logging.warning(
            "Slicing by %s gives %d slices; the %d largest are kept.",
            "+".join(columns),
            len(found),
            MAX_SLICES,
        )
        keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_SLICES])
    cut = []
    for i in keep:
        code, parts = int(found[i]), []
        for column in reversed(columns):
            code, value = divmod(code, len(rows.values[column]))
            parts.append((column, rows.values[column][value]))
        cut.append((tuple(reversed(parts)), order[ends[i] - counts[i] : ends[i]]))
    # Numbers before text, each ascending: the order of the data is nobody's order.
    cut.sort(key=lambda item: [(isinstance(v, str), v) for _, v in item[0]])
    return iter(cut)


def _measure(rows: Rows, problem: ProblemSpec, index: np.ndarray | slice) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for k, task in enumerate(problem.tasks):
        if task.name not in rows.predictions:
            continue
        observed = rows.observed[index, k]
        labels = rows.labels[index, k][observed]
        predictions = rows.predictions[task.name][index][observed]
        groups = None if rows.groups is None else rows.groups[index][observed]
        found = {"rows": float(len(labels))}
        if task.kind == "binary":
            found["positives"] = float(labels.sum(dtype=np.float64))
        found |= _defined(task, problem.space_of(task), labels, predictions, groups)
        metrics |= {problem.metric_name(task, metric): value for metric, value in found.items()}
    return metrics | _conversion_head(rows, problem, index)


def _defined(
    task: Task, space: str, labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray | None
) -> dict[str, float]:
    broken = ~np.isfinite(predictions)
    if broken.any():
        # Zeros only give the names: one broken prediction makes the whole model unfit.
        logging.warning("%d predictions of %s are not finite.", broken.sum(), task.name)
        predictions = np.zeros_like(predictions)
    found = task_metrics(task.kind, labels, predictions, groups=groups, task=task.name, space=space)
    return dict.fromkeys(found, math.nan) if broken.any() else found


def _conversion_head(
    rows: Rows, problem: ProblemSpec, index: np.ndarray | slice
) -> dict[str, float]:
    funnel = problem.funnel()
    if funnel is None or funnel[1] not in rows.predictions:
        return {}
    _, cvr, ctcvr = funnel
    k = problem.task_names.index(ctcvr)
    name = f"{cvr}head/auc@{problem.space}"
    observed = rows.observed[index, k]
    predictions = rows.predictions[cvr][index][observed]
    if np.isnan(predictions).any():
        return {name: math.nan}
    return {name: auc(rows.labels[index, k][observed], predictions, name=name)}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # A slice of one class is ordinary; its metrics are NaN, and a warning each would bury others.
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
