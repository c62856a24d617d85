"""Gating layers (Huang et al., GateNet, 2020): inputs multiplied by gates made of them."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.operations.base import Hidden, Interaction, fields_and_dim, glorot
from tfmtl.registry import register


@register("interaction", "gate_bit")
@keras.saving.register_keras_serializable(package="tfmtl")
class BitGate(Interaction):
    """Each number of a field times its own gate, which is made of the field.

    Maps `[batch, fields, dim]` to the same shape: `out_f = e_f ⊙ σ(e_f · W_f)`, with
    `W_f [dim, dim]` per field.

    Example:
        >>> BitGate()(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def build(self, input_shape: Any) -> None:
        fields, dim = fields_and_dim(self, input_shape)
        self.kernel = self.add_weight(
            name="kernel", shape=(fields, dim, dim), initializer=glorot(dim, dim)
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        by_field = tf.matmul(tf.transpose(inputs, [1, 0, 2]), self.kernel)
        return inputs * tf.sigmoid(tf.transpose(by_field, [1, 0, 2]))


@register("interaction", "gate_vector")
@keras.saving.register_keras_serializable(package="tfmtl")
class VectorGate(Interaction):
    """Each field times one gate, made of the field.

    Maps `[batch, fields, dim]` to the same shape: `out_f = e_f · σ(⟨w_f, e_f⟩)`, with `w_f [dim]`
    per field.

    Example:
        >>> VectorGate()(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def build(self, input_shape: Any) -> None:
        fields, dim = fields_and_dim(self, input_shape)
        self.kernel = self.add_weight(
            name="kernel", shape=(fields, dim), initializer=glorot(dim, 1)
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        gates = tf.sigmoid(tf.reduce_sum(inputs * self.kernel, axis=-1, keepdims=True))
        return inputs * gates


@register("hidden", "gate")
@keras.saving.register_keras_serializable(package="tfmtl")
class HiddenGate(Hidden):
    """Each hidden number times its own gate: `x ⊙ σ(x · W + b)`.

    Maps `[batch, width]` to the same shape, or `[num, batch, width]`; see `Hidden`.

    Args:
        num: Copies side by side; see `Copies`.

    Example:
        >>> HiddenGate(num=3)(tf.ones([3, 2, 8])).shape
        TensorShape([3, 2, 8])
    """

    def build(self, input_shape: Any) -> None:
        width = self.width_of(input_shape)
        self.kernel = self.add_kernel("kernel", (width, width), (width, width))
        self.bias = self.add_vector("bias", width)
        super().build(input_shape)

    def each(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return x * tf.sigmoid(tf.matmul(x, self.kernel) + self.bias[:, tf.newaxis])
