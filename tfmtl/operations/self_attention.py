"""Self-attention between fields (Song et al., AutoInt, CIKM 2019)."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.operations.base import Interaction, each_field, fields_and_dim, glorot
from tfmtl.registry import register

PARTS = ("query", "key", "value", "residual")


@register("interaction", "self_attention")
@keras.saving.register_keras_serializable(package="tfmtl")
class SelfAttention(Interaction):
    """One interacting layer: each field made of all fields, by how well they match.

    Maps `E [batch, fields, dim]` to the same shape. For each head, `dim / heads` wide:

        softmax(Q · Kᵀ / √(dim / heads)) · V        Q, K, V = E · W_Q, E · W_K, E · W_V

    and `out = ReLU(heads side by side + E · W_R)`. The original does not divide by the root; as
    everywhere since, it keeps the softmax from saturating with the width.

    Args:
        heads: How many; `dim` is a multiple.

    Raises:
        SpecError: `heads` is below 1, or does not divide `dim`.

    Example:
        >>> SelfAttention(heads=2)(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, *, heads: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1:
            raise SpecError(f"{self.name}: heads={heads} must be at least 1.")
        self.heads = heads

    def build(self, input_shape: Any) -> None:
        _, dim = fields_and_dim(self, input_shape)
        if dim % self.heads:
            raise SpecError(
                f"{self.name}: heads={self.heads} do not divide the fields' width dim={dim}; "
                f"give a multiple of {self.heads} as dim, or fewer heads."
            )
        self.kernels = [
            self.add_weight(name=f"{part}_kernel", shape=(dim, dim), initializer=glorot(dim, dim))
            for part in PARTS
        ]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        query, key, value, residual = (each_field(inputs, kernel) for kernel in self.kernels)
        _, fields, dim = inputs.shape
        width = dim // self.heads
        # Scaled before the product, where there are fewer numbers.
        query, key, value = (
            tf.transpose(tf.reshape(x, [-1, fields, self.heads, width]), [0, 2, 1, 3])
            for x in (query * width**-0.5, key, value)
        )
        weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True))
        heads = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return tf.nn.relu(tf.reshape(heads, [-1, fields, dim]) + residual)
