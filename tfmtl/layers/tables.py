"""Embedding tables: their rows at the start, and the vectors of a list as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.layout import Slots
from tfmtl.layers.grouped import GroupedDense

PAD_ROWS = 1
"""Row 0 of every table pads short lists; it is zero, and a zero gradient keeps it so."""


@dataclasses.dataclass(frozen=True)
class Group:
    """One table and the features whose rows it holds.

    Attributes:
        name: The table's name.
        slots: Where the features' ids lie in the packed tensor.
        columns: Those columns; `None` for all of them.
        offsets: The first row of each column's feature.
        projection: What maps the table's width to that of the fields, if it is another.
        rows: Rows of one copy, without padding.
    """

    name: str
    slots: Sequence[Slots]
    columns: Sequence[int] | None
    offsets: Sequence[int]
    projection: tf.Variable | GroupedDense | None
    rows: int


class RowInitializer(keras.initializers.Initializer):
    """Normal rows, but zeros in the padding row and in each feature's `unknown` row.

    Args:
        starts: Each feature's first row, that of unknown values.
        stddev: Standard deviation of the other rows.
        seed: Seed of the rows; Keras' own by default.
    """

    def __init__(self, starts: Sequence[int], stddev: float, seed: int | None = None) -> None:
        self.starts, self.stddev, self.seed = starts, stddev, seed

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        rows = keras.initializers.RandomNormal(stddev=self.stddev, seed=self.seed)(shape, dtype)
        zero = tf.constant([0, *self.starts])
        return tf.tensor_scatter_nd_update(
            rows, zero[:, tf.newaxis], tf.zeros([len(zero.numpy()), shape[1]], rows.dtype)
        )


def pooled(vectors: tf.Tensor, weights: tf.Tensor, pooling: str) -> tf.Tensor:
    """A list's vectors as one, `[batch, 1, dim]`.

    Args:
        vectors: `[batch, values, dim]`.
        weights: `[batch, values]`; 0 where a list is shorter.
        pooling: `mean`, `sum` or `max`.
    """
    weights = weights[:, :, tf.newaxis]
    if pooling == "max":
        lowest = tf.where(weights > 0, vectors, vectors.dtype.min)
        largest = tf.reduce_max(lowest, axis=1, keepdims=True)
        return tf.where(tf.reduce_max(weights, axis=1, keepdims=True) > 0, largest, 0.0)
    total = tf.reduce_sum(weights * vectors, axis=1, keepdims=True)
    if pooling == "sum":
        return total
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))
