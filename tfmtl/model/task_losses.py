"""Each trained task's loss of its own rows, from the heads' outputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.down_sampling import DownSampling
from tfmtl.declare.problem import ProblemSpec
from tfmtl.losses.base import ExampleLoss
from tfmtl.losses.per_example import masked_mean
from tfmtl.metrics.packed import Predicted, packed_metrics
from tfmtl.model.heads import Heads, Outputs


def batch_losses(
    heads: Heads,
    losses: Mapping[str, ExampleLoss],
    outputs: Outputs,
    labels: tf.Tensor,
    weights: tf.Tensor,
    *,
    reduction: str = "masked",
    down_sampling: DownSampling | None = None,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Each trained task's loss of a batch, its mean over the rows on which it is observed.

    Args:
        heads: Which tasks are trained, and on whose labels.
        losses: The declared loss of each trained task.
        outputs: What the heads return.
        labels: `[batch, tasks]`.
        weights: `[batch, tasks]`; 0 where a task is not observed.
        reduction: `masked` or `batch`; see `masked_mean`.
        down_sampling: What the losses correct for; see `tfmtl.declare.down_sampling`.

    Returns:
        One scalar per trained task, and whether the batch has a row on which the task is
        observed, boolean `[trained tasks]`.
    """
    per_task, observed = [], []
    for name in heads.trained:
        index = heads.problem.task_names.index(heads.labels_of(name))
        output, task_weights = outputs[name], weights[:, index]
        if down_sampling is not None:
            if name in down_sampling.offsets:
                output = {**output, "logit": output["logit"] + down_sampling.offsets[name]}
            elif name in down_sampling.weighted:
                task_weights *= row_weights(heads.problem, down_sampling, labels)
        loss = example_loss(heads, losses[name], name, output, labels[:, index])
        mask = task_weights > 0
        per_task.append(masked_mean(loss, mask, task_weights, reduction=reduction))
        observed.append(tf.reduce_any(mask))
    return per_task, tf.stack(observed)


def row_weights(problem: ProblemSpec, down_sampling: DownSampling, labels: Any) -> Any:
    """How many rows each kept row stands for, `[batch]`.

    Args:
        problem: The declaration.
        down_sampling: The rates.
        labels: `[batch, tasks]`, a tensor or an array.
    """
    positive = labels[:, problem.task_names.index(down_sampling.task)]
    of_positives, of_negatives = 1 / down_sampling.positive_rate, 1 / down_sampling.negative_rate
    return of_negatives + positive * (of_positives - of_negatives)


def example_loss(
    heads: Heads,
    loss: ExampleLoss,
    name: str,
    output: Mapping[str, tf.Tensor],
    labels: tf.Tensor,
) -> tf.Tensor:
    """A task's loss of each row, `[batch]`, with its class weights.

    Args:
        heads: The heads.
        loss: The task's declared loss.
        name: A trained task.
        output: What the heads return of the task.
        labels: `[batch]`, in the label's own unit.
    """
    if heads.problem.task(name).kind == "regression":
        labels = heads.standardized(name, labels)
    weights = heads.class_weights(name, labels)
    losses = loss(labels, output)
    return losses if weights is None else weights * losses


def exact_metrics(
    heads: Heads, losses: Mapping[str, ExampleLoss], rows: Predicted
) -> dict[str, float]:
    """Every task's metrics over all rows, and `loss`, the mean of the trained tasks' losses.

    Args:
        heads: The heads.
        losses: The declared loss of each trained task.
        rows: Labels and predictions.
    """
    problem = heads.problem
    metrics = packed_metrics(problem, rows)
    every = [
        _mean_loss(heads, losses[name], name, metrics, *rows.of(problem, name))
        for name in heads.trained
    ]
    defined = [loss for loss in every if not np.isnan(loss)]
    metrics["loss"] = float(np.mean(defined)) if defined else float("nan")
    return metrics


def _mean_loss(
    heads: Heads,
    loss: ExampleLoss,
    name: str,
    metrics: Mapping[str, float],
    labels: Any,
    predictions: Any,
) -> float:
    task = heads.problem.task(name)
    if task.kind == "binary":
        return metrics[heads.problem.metric_name(task, "log_loss")]
    if not len(labels):
        return float("nan")
    # The task's own loss: with a robust loss, outliers must not choose the epoch either.
    output = {"logit": heads.standardized(name, predictions)}
    return float(np.mean(example_loss(heads, loss, name, output, labels), dtype=np.float64))
