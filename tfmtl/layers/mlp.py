"""The block of dense layers that towers, bottoms and gates are made of."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.batch_norm import BatchNorm
from tfmtl.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="tfmtl")
class MLP(Arguments, keras.layers.Layer):
    """`Dense → BatchNormalization → activation → Dropout`, once per width.

    Maps `[..., in]` to `[..., units[-1]]`; the last layer is activated, normalised and dropped
    like the others.

    Args:
        units: Width of each layer; none gives the identity.
        dropout: Share of each layer's outputs dropped in training; one for all layers, or one
            per layer.
        batch_norm: Whether each layer normalises its outputs over the batch.
        activation: Name of a Keras activation, after every layer.

    Raises:
        ValueError: A width is not positive, a share is outside `[0, 1)`, or there are not as
            many shares as layers.

    Example:
        >>> MLP((16, 8), dropout=0.2)(tf.ones([2, 5])).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        units: Sequence[int],
        *,
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._shares = layer_shares(self.name, units, dropout)
        self.units = tuple(units)
        self.dropout = tuple(dropout) if isinstance(dropout, Sequence) else dropout
        self.batch_norm = batch_norm
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        # Built here, so that the weights exist before the first call and checkpoints restore.
        # Flat lists: Keras' own format does not look for weights in a list of lists.
        shape = tuple(input_shape)
        self.dense, self.norms, self.drops = [], [], []
        for i, (width, share) in enumerate(zip(self.units, self._shares, strict=True)):
            dense = keras.layers.Dense(width, name=f"dense_{i}")
            with tf.name_scope(dense.name):
                dense.build(shape)
            shape = (*shape[:-1], width)
            self.dense.append(dense)
            if self.batch_norm:
                norm = BatchNorm(name=f"batch_norm_{i}")
                with tf.name_scope(norm.name):
                    norm.build(shape)
                self.norms.append(norm)
            self.drops.append(Dropout(share, name=f"dropout_{i}"))
        self.activate = keras.activations.get(self.activation)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        h = inputs
        for i, dense in enumerate(self.dense):
            h = dense(h)
            norm = self.norms[i] if self.batch_norm else None
            if self.activation == "relu":
                h = self.drops[i].rectified(h, norm, training=training)
                continue
            h = h if norm is None else norm(h, training=training)
            h = self.drops[i](self.activate(h), training=training)
        return h

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        return (*shape[:-1], self.units[-1]) if self.units else shape


def layer_shares(
    owner: str, units: Sequence[int], dropout: float | Sequence[float]
) -> tuple[float, ...]:
    """Returns the share that each layer of a block drops.

    Args:
        owner: What the error names.
        units: Widths of the layers.
        dropout: Share dropped, one for all layers or one per layer.

    Raises:
        ValueError: A width is not positive, a share is outside `[0, 1)`, or there are not as
            many shares as layers.
    """
    if any(width < 1 for width in units):
        raise ValueError(f"{owner}: units are widths of at least 1; got {tuple(units)}.")
    shares = tuple(dropout) if isinstance(dropout, Sequence) else (dropout,) * len(units)
    if not all(0.0 <= share < 1.0 for share in shares):
        raise ValueError(f"{owner}: dropout is a share in [0, 1); got {dropout}.")
    if len(shares) != len(units):
        raise ValueError(
            f"{owner}: dropout={shares} has {len(shares)} shares for {len(units)} layers; give "
            "one for all, or one per layer."
        )
    return shares
