"""A model's predictions of packed rows, and every task's exact metrics over them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.metrics.metric import metrics_of
from tfmtl.metrics.predicted import Predicted
from tfmtl.metrics.tasks import task_metrics

__all__ = ["Packed", "Predicted", "packed_metrics", "predict_packed"]

Packed = Mapping[str, tf.Tensor]


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
    parts: dict[str, list[NDArray[Any]]] = {}
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
    observed = joined[WEIGHTS] > 0
    if PSEUDO in joined:
        observed &= ~(joined[PSEUDO] > 0)
    return Predicted(
        labels=joined[LABELS],
        observed=observed,
        predictions={task: joined[f"task/{task}"] for task in tasks},
        groups=joined.get(GROUP),
    )


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
    for task in problem.tasks:
        if task.name not in rows.predictions:
            continue
        labels, predictions, groups = rows.rows_of(problem, task)
        values = task_metrics(
            task.kind,
            labels,
            predictions,
            groups=groups,
            task=task.name,
            space=problem.space_of(task),
            metrics=metrics_of(task),
        )
        metrics |= {problem.metric_name(task, name): value for name, value in values.items()}
        if task.kind == "binary" and task.served and np.isfinite(values["auc"]):
            aucs.append(values["auc"])
    if any(task.kind == "binary" for task in problem.served):
        metrics["mean_auc"] = float(np.mean(aucs)) if aucs else float("nan")
    return metrics
