"""One `MLP` per group of rows."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.dropout import Dropout
from tfmtl.layers.grouped import GroupedDense, Tiles
from tfmtl.layers.mlp import layer_shares
from tfmtl.layers.partitioned_norm import PartitionedNorm


@keras.saving.register_keras_serializable(package="tfmtl")
class GroupedMLP(Arguments, keras.layers.Layer):
    """One `MLP` per group: `GroupedDense → PartitionedNorm → ReLU → Dropout`, once per width.

    Maps `[batch, in]` and the `Tiles` of the rows to `[batch, units[-1]]`. Groups share nothing.

    Args:
        groups: How many groups there are.
        units: Width of each layer; none gives the identity.
        dropout: Share of each layer's outputs dropped in training.
        batch_norm: Whether each layer normalises its outputs, by its group's rows.

    Raises:
        ValueError: A width is not positive, or the share is outside `[0, 1)`.

    Example:
        >>> from tfmtl.layers.grouped import tiles_of
        >>> GroupedMLP(3, (16, 8))(tf.ones([2, 5]), tiles_of(tf.constant([0, 2]))).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        groups: int,
        units: Sequence[int],
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layer_shares(self.name, units, dropout)
        self.groups, self.units = groups, tuple(units)
        self.dropout, self.batch_norm = dropout, batch_norm

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        self.dense, self.norms, self.drops = [], [], []
        for i, width in enumerate(self.units):
            dense = GroupedDense(self.groups, width, name=f"dense_{i}")
            with tf.name_scope(dense.name):
                dense.build(shape)
            shape = (*shape[:-1], width)
            self.dense.append(dense)
            if self.batch_norm:
                norm = PartitionedNorm(self.groups, shared=False, name=f"batch_norm_{i}")
                with tf.name_scope(norm.name):
                    norm.build(shape)
                self.norms.append(norm)
            self.drops.append(Dropout(self.dropout, name=f"dropout_{i}"))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, tiles: Tiles, training: bool = False) -> tf.Tensor:
        h = inputs
        for i, dense in enumerate(self.dense):
            h = dense(h, tiles)
            if self.batch_norm:
                h = self.norms[i](h, tiles, training=training)
            h = self.drops[i].rectified(h, training=training)
        return h

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        return (*shape[:-1], self.units[-1]) if self.units else shape
