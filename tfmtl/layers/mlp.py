"""The block of dense layers that towers, bottoms and gates are made of."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.saving.register_keras_serializable(package="tfmtl")
class MLP(keras.layers.Layer):
    """`Dense → BatchNormalization → activation → Dropout`, once per width.

    Maps `[..., in]` to `[..., units[-1]]`; the last layer is activated, normalised and dropped
    like the others.

    Args:
        units: Width of each layer; none gives the identity.
        dropout: Share of each layer's outputs dropped in training.
        batch_norm: Whether each layer normalises its outputs over the batch.
        activation: Name of a Keras activation, after every layer.

    Raises:
        ValueError: A width is not positive, or `dropout` is outside `[0, 1)`.

    Example:
        >>> MLP((16, 8), dropout=0.2)(tf.ones([2, 5])).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        units: Sequence[int],
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_block("MLP", units, dropout)
        self.units = tuple(units)
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        # Built here, so that the weights exist before the first call and checkpoints restore.
        # Flat lists: Keras' own format does not look for weights in a list of lists.
        shape = tuple(input_shape)
        self.dense, self.norms, self.drops = [], [], []
        for i, width in enumerate(self.units):
            dense = keras.layers.Dense(width, name=f"dense_{i}")
            with tf.name_scope(dense.name):
                dense.build(shape)
            shape = (*shape[:-1], width)
            self.dense.append(dense)
            if self.batch_norm:
                norm = keras.layers.BatchNormalization(name=f"batch_norm_{i}")
                with tf.name_scope(norm.name):
                    norm.build(shape)
                self.norms.append(norm)
            if self.dropout:
                self.drops.append(keras.layers.Dropout(self.dropout, name=f"dropout_{i}"))
        self.activate = keras.activations.get(self.activation)
        super().build(input_shape)

    def call(self, inputs, training=False):
        h = inputs
        for i, dense in enumerate(self.dense):
            h = dense(h)
            if self.batch_norm:
                h = self.norms[i](h, training=training)
            h = self.activate(h)
            if self.dropout:
                h = self.drops[i](h, training=training)
        return h

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        return (*shape[:-1], self.units[-1]) if self.units else shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "units": list(self.units),
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "activation": self.activation,
        }


def check_block(owner: str, units: Sequence[int], dropout: float) -> None:
    """Refuses widths and dropout shares that no block can have.

    Args:
        owner: What the error names.
        units: Widths of the layers.
        dropout: Share dropped.

    Raises:
        ValueError: A width is not positive, or `dropout` is outside `[0, 1)`.
    """
    if any(width < 1 for width in units):
        raise ValueError(f"{owner}: units are widths of at least 1; got {tuple(units)}.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{owner}: dropout is a share in [0, 1); got {dropout}.")
