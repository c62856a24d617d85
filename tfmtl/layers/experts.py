"""Several networks of one shape, as one matrix product per layer."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.batch_norm import BatchNorm
from tfmtl.layers.dropout import Dropout
from tfmtl.layers.mlp import layer_shares


@keras.saving.register_keras_serializable(package="tfmtl")
class ParallelDense(Arguments, keras.layers.Layer):
    """Independent dense layers of one shape as a single product, without an activation.

    Maps `[batch, in]`, which every one of them reads, or `[batch, num, in]`, where each reads
    its own, to `[batch, num, units]`. Each starts as a `keras.layers.Dense` would: Glorot's
    uniform distribution by its own fans, bias zero.

    Args:
        num: How many there are.
        units: Width of each.
        use_bias: Whether each adds a bias.

    Example:
        >>> ParallelDense(3, 4)(tf.ones([2, 5])).shape
        TensorShape([2, 3, 4])
    """

    def __init__(self, num: int, units: int, *, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num, self.units, self.use_bias = num, units, use_bias

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != self.num):
            raise ValueError(
                f"{self.name}: reads [batch, in] or [batch, {self.num}, in]; got {shape}."
            )
        # The fans of one layer: Keras would treat the stack as a convolution's kernel.
        limit = (6.0 / (shape[-1] + self.units)) ** 0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.num, shape[-1], self.units),
            initializer=keras.initializers.RandomUniform(-limit, limit),
        )
        if self.use_bias:
            # Flat: weight decay takes variables with a rank above one for kernels.
            self.bias = self.add_weight(
                name="bias", shape=(self.num * self.units,), initializer="zeros"
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        if inputs.shape.rank == 2:
            # One wide product: a batched one would read the same rows once per dense layer.
            side_by_side = tf.reshape(tf.transpose(kernel, [1, 0, 2]), [-1, self.num * self.units])
            h = tf.matmul(inputs, side_by_side)
            if self.use_bias:
                h = tf.nn.bias_add(h, self.bias)
            return tf.reshape(h, [-1, self.num, self.units])
        h = tf.matmul(tf.transpose(inputs, [1, 0, 2]), kernel)
        if self.use_bias:
            h += tf.reshape(self.bias, [self.num, 1, self.units])
        return tf.transpose(h, [1, 0, 2])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (tuple(input_shape)[0], self.num, self.units)


@keras.saving.register_keras_serializable(package="tfmtl")
class Experts(Arguments, keras.layers.Layer):
    """Experts of one shape, each an `MLP`; all of them as one matrix product per layer.

    Maps `[batch, in]`, or `[batch, num, in]` where each expert reads its own input, to
    `[batch, num, units[-1]]`.

    Args:
        num: How many experts.
        units: Widths of each expert's layers, at least one.
        dropout: Share of each layer's outputs dropped in training, drawn for each expert; one
            for all layers, or one per layer.
        batch_norm: Whether each layer normalises its outputs, each expert by its own moments.

    Raises:
        ValueError: `num` is not positive, there are no `units`, one of them is not positive,
            a share is outside `[0, 1)`, or there are not as many shares as layers.

    Example:
        >>> Experts(3, (16, 8))(tf.ones([2, 5])).shape
        TensorShape([2, 3, 8])
    """

    def __init__(
        self,
        num: int,
        units: Sequence[int],
        *,
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num < 1:
            raise ValueError(f"{self.name}: at least 1 expert; got {num}.")
        if not units:
            raise ValueError(f"{self.name}: an expert has at least one layer; got units=().")
        self._shares = layer_shares(self.name, units, dropout)
        self.num, self.units = num, tuple(units)
        self.dropout = tuple(dropout) if isinstance(dropout, Sequence) else dropout
        self.batch_norm = batch_norm

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        self.dense, self.norms, self.drops = [], [], []
        for i, (width, share) in enumerate(zip(self.units, self._shares, strict=True)):
            dense = ParallelDense(self.num, width, name=f"dense_{i}")
            with tf.name_scope(dense.name):
                dense.build(shape)
            shape = dense.compute_output_shape(shape)
            self.dense.append(dense)
            if self.batch_norm:
                norm = BatchNorm(name=f"batch_norm_{i}")
                with tf.name_scope(norm.name):
                    norm.build((None, self.num * width))
                self.norms.append(norm)
            self.drops.append(Dropout(share, name=f"dropout_{i}"))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        h = inputs
        for i, dense in enumerate(self.dense):
            # Side by side, so that each expert has moments of its own.
            flat = tf.reshape(dense(h), [-1, self.num * dense.units])
            norm = self.norms[i] if self.batch_norm else None
            flat = self.drops[i].rectified(flat, norm, training=training)
            h = tf.reshape(flat, [-1, self.num, dense.units])
        return h

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (tuple(input_shape)[0], self.num, self.units[-1])
