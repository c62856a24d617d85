"""What a model says of packed rows, and every task's exact metrics over them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.metrics.tasks import task_metrics

Packed = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Predictions of `N` packed rows next to their true labels, for `K` tasks.

    Attributes:
        predictions: `[N]` by task.
        labels: `[N, K]`.
        weights: `[N, K]`; 0 where a task is not observed, and of pseudo-labels, which are for
            training.
        groups: `[N]`, the request (or user) of a row; `None` where none is declared.
    """

    predictions: Mapping[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None

    def of(self, problem: ProblemSpec, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of the rows on which a task is observed."""
        index = problem.task_names.index(task)
        seen = self.weights[:, index] > 0
        return self.labels[seen, index], self.predictions[task][seen]


def predict_packed(
    predict: Callable[[Packed], Mapping[str, tf.Tensor]], batches: Iterable[Packed]
) -> Predicted:
    """Runs a model over packed rows.

    Args:
        predict: Packed tensors to `{task: [batch]}`.
        batches: Packed tensors with labels.

    Raises:
        DataError: There are no rows, or they have no labels.
    """
    parts: dict[str, list[np.ndarray]] = {}
    tasks: list[str] = []
    for packed in batches:
        outputs = predict(packed)
        tasks = list(outputs)
        for task, values in outputs.items():
            parts.setdefault(f"task/{task}", []).append(values.numpy())
        for name in (LABELS, WEIGHTS, PSEUDO, GROUP):
            if name in packed:
                parts.setdefault(name, []).append(packed[name].numpy())
    if LABELS not in parts:
        what = "there are no labels among the packed rows" if parts else "there are no rows"
        raise DataError(f"{what}; nothing can be measured.")
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    weights = joined[WEIGHTS]
    if PSEUDO in joined:
        weights = np.where(joined[PSEUDO] > 0, 0.0, weights)
    predictions = {task: joined[f"task/{task}"] for task in tasks}
    return Predicted(predictions, joined[LABELS], weights, joined.get(GROUP))


def packed_metrics(problem: ProblemSpec, rows: Predicted) -> dict[str, float]:
    """Every predicted task's metrics on its own space, by full name.

    Args:
        problem: The declaration.
        rows: What was predicted.

    Returns:
        `{"ctr/auc@imp": …, "mean_auc": …}`; `mean_auc`, where there are served binary tasks, is
        over those of them that have both classes.
    """
    metrics: dict[str, float] = {}
    aucs = []
    for index, task in enumerate(problem.tasks):
        if task.name not in rows.predictions:
            continue
        seen = rows.weights[:, index] > 0
        found = task_metrics(
            task.kind,
            rows.labels[seen, index],
            rows.predictions[task.name][seen],
            groups=None if rows.groups is None else rows.groups[seen],
            task=task.name,
            space=problem.space_of(task),
        )
        for metric, value in found.items():
            metrics[problem.metric_name(task, metric)] = value
        if task.kind == "binary" and task.served and np.isfinite(found["auc"]):
            aucs.append(found["auc"])
    if any(task.kind == "binary" for task in problem.served):
        metrics["mean_auc"] = float(np.mean(aucs)) if aucs else float("nan")
    return metrics
