"""Raw columns as dense tensors, with one missing value per type.

A missing text is empty, a missing integer is the least int64, and a missing number is NaN.
"""

from collections.abc import Mapping

import tensorflow as tf

from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec, Task

NO_INTEGER = int(tf.int64.min)
DTYPES = {"string": tf.string, "int64": tf.int64, "float32": tf.float32}
ABSENT = {"string": "", "int64": NO_INTEGER, "float32": float("nan")}

Tensors = Mapping[str, tf.Tensor | tf.SparseTensor | tf.RaggedTensor]


def example_spec(columns: Mapping[str, Column]) -> dict[str, tf.io.VarLenFeature]:
    """Parsing spec of `columns` in a tf.Example; an absent feature is a missing value."""
    return {name: tf.io.VarLenFeature(DTYPES[c.dtype]) for name, c in columns.items()}


def dense(column: Column, values: tf.Tensor | tf.SparseTensor | tf.RaggedTensor) -> tf.Tensor:
    """Returns `[batch]` for a scalar column and `[batch, max_values]` for a list.

    A longer list is cut off; a shorter one is padded with the missing value. A list that is
    `whole` is only padded, to the longest of the batch.

    Args:
        column: The column's declaration.
        values: `[batch]` or `[batch, n]`, dense, sparse or ragged.
    """
    absent = tf.constant(ABSENT[column.dtype], DTYPES[column.dtype])
    if column.whole:
        return _padded(values, absent)
    width = column.max_values or 1
    if isinstance(values, tf.SparseTensor):
        keep = values.indices[:, 1] < width
        values = tf.sparse.retain(values, keep)
        rows = values.dense_shape[0]
        filled = tf.fill(tf.stack([rows, tf.cast(width, tf.int64)]), absent)
        values = tf.tensor_scatter_nd_update(filled, values.indices, values.values)
    elif isinstance(values, tf.RaggedTensor):
        values = values.to_tensor(absent, shape=[None, width])
    else:
        values = tf.convert_to_tensor(values, DTYPES[column.dtype])
        if values.shape.rank == 1 and not column.max_values:
            return values
        if values.shape.rank == 1:
            values = values[:, tf.newaxis]
        values = values[:, :width]
        missing = width - tf.shape(values)[1]
        values = tf.pad(values, [[0, 0], [0, missing]], constant_values=absent)
    values = tf.ensure_shape(values, [None, width])
    return values if column.max_values else values[:, 0]


def _padded(values: tf.Tensor | tf.SparseTensor | tf.RaggedTensor, absent: tf.Tensor) -> tf.Tensor:
    """Lists of any length as `[batch, longest]`."""
    if isinstance(values, tf.SparseTensor):
        filled = tf.fill(values.dense_shape, absent)
        values = tf.tensor_scatter_nd_update(filled, values.indices, values.values)
    elif isinstance(values, tf.RaggedTensor):
        values = values.to_tensor(absent)
    else:
        values = tf.convert_to_tensor(values, absent.dtype)
        if values.shape.rank == 1:
            values = values[:, tf.newaxis]
    return tf.ensure_shape(values, [None, None])


def dense_columns(columns: Mapping[str, Column], raw: Tensors) -> dict[str, tf.Tensor]:
    """Applies `dense` to those of `columns` that `raw` holds."""
    return {name: dense(c, raw[name]) for name, c in columns.items() if name in raw}


def task_labels(problem: ProblemSpec, raw: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and weights per task, from dense raw columns.

    Returns:
        `labels` and `weights`, float32 `[batch, tasks]`. Where the task is not observed (outside
        its sample space, or its label is missing), both are 0.
    """
    labels = {task.name: _label_without_orphans(problem, task, raw) for task in problem.tasks}
    return _on_sample_spaces(problem, raw, labels)


def pseudo_labels(
    problem: ProblemSpec, raw: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pseudo-labels and their weights, as `task_labels`, on rows without a label.

    A row has a weight here or in `task_labels`, never in both.
    """
    none = tf.fill(tf.shape(raw[problem.tasks[0].label]), float("nan"))
    labels = {}
    for task in problem.tasks:
        labels[task.name] = none
        if task.pseudo_label is not None:
            missing = tf.math.is_nan(_label(task, raw))
            labels[task.name] = tf.where(missing, raw[task.pseudo_label], none)
    filled, weights = _on_sample_spaces(problem, raw, labels)
    return filled, weights * tf.constant([task.pseudo_weight for task in problem.tasks])


def _on_sample_spaces(
    problem: ProblemSpec, raw: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and weights `[batch, tasks]`, both 0 where a task is not observed."""
    binary = {task.label: _label(task, raw) for task in problem.tasks if task.kind == "binary"}
    filled, weights = [], []
    for task in problem.tasks:
        label = labels[task.name]
        weight = tf.where(tf.math.is_nan(label), 0.0, 1.0)
        if task.weight is not None:
            weight *= raw[task.weight]
        if task.observed_if is not None:
            space = (
                binary[task.observed_if] if task.observed_if in binary else raw[task.observed_if]
            )
            weight *= tf.cast(space > 0.5, tf.float32)
        filled.append(tf.where(weight > 0, label, 0.0))
        weights.append(tf.where(weight > 0, weight, 0.0))
    return tf.stack(filled, axis=1), tf.stack(weights, axis=1)


def _label_without_orphans(
    problem: ProblemSpec, task: Task, raw: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """A task's label; a conversion without a click is treated as `orphans` declares."""
    label, before = _label(task, raw), problem.label_before(task)
    if before is None:
        return label
    clicks = next(t for t in problem.tasks if t.label == before and t.kind == "binary")
    # Where the click is missing, the conversion keeps its value.
    return tf.where((_label(clicks, raw) <= 0.5) & (label > 0.5), 0.0, label)


def _label(task: Task, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """A task's label `[batch]`, NaN where it is missing or does not count."""
    value = raw[task.label]
    if task.positive is not None:
        value = tf.where(value == "", float("nan"), tf.cast(value == task.positive, tf.float32))
    if task.labelled_if is not None:
        value = tf.where(raw[task.labelled_if] > 0.5, value, float("nan"))
    return value
