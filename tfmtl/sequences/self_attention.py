"""Poolings that weigh events by each other, without the candidate."""

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.registry import register
from tfmtl.sequences.base import (
    Events,
    SequencePooling,
    check_at_least,
    check_position,
    joined,
    masked_softmax,
    positions_of,
    weighted_sum,
    zeroed,
)


@register("sequence_pooling", "attentive")
@keras.saving.register_keras_serializable(package="tfmtl")
class AttentiveEvents(SequencePooling):
    """`Σ αᵢvᵢ` with `α = softmaxᵢ(w₂·tanh((vᵢ + pᵢ)W₁))`: a learned query (Lin et al., ICLR 2017).

    Args:
        position: As in `target_attention`; it is read by the weights alone.

    Raises:
        SpecError: The position is unknown.
    """

    def __init__(self, *, position: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_position("attentive", position)
        self.position = position

    def build(self, shapes: Mapping[str, Any]) -> None:
        width = shapes["matched"][-1] + shapes["others"][-1]
        self.kernel = self.add_weight(name="kernel", shape=[width, width])
        self.score_kernel = self.add_weight(name="score_kernel", shape=[width, 1])
        self.positions = positions_of(self.position, width, shapes)
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"]
        keys = values if self.positions is None else values + self.positions(events)
        hidden = tf.tanh(tf.tensordot(keys, self.kernel, 1))
        scores = tf.squeeze(tf.tensordot(hidden, self.score_kernel, 1), axis=-1)
        return weighted_sum(masked_softmax(scores, mask), values)


@register("sequence_pooling", "self_attention")
@keras.saving.register_keras_serializable(package="tfmtl")
class SelfAttentionOfEvents(SequencePooling):
    """The mean over events of `LN(x + MHSA(x))`, `x = v + p`, `[batch, Dm + Dx]`.

    Attention of several heads among the events, a residual and layer norm; without the candidate,
    so that a user's tower has it too.

    Args:
        heads: Heads; their width is that of the events divided by them, rounded up.
        position: As in `target_attention`.

    Raises:
        SpecError: `heads` is below 1, or the position is unknown.
    """

    keeps_columns: ClassVar[bool] = False

    def __init__(self, *, heads: int = 2, position: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least("self_attention", heads=heads)
        check_position("self_attention", position)
        self.heads, self.position = heads, position

    def build(self, shapes: Mapping[str, Any]) -> None:
        width = shapes["matched"][-1] + shapes["others"][-1]
        self.attention = Attention(self.heads, width, name="attention")
        self.attention.build(width)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.norm.build([None, None, width])
        self.positions = positions_of(self.position, width, shapes)
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"]
        if self.positions is not None:
            values += self.positions(events)
        values = zeroed(values, mask)
        hidden = zeroed(self.norm(values + self.attention(values, mask)), mask)
        count = tf.reduce_sum(tf.cast(mask, hidden.dtype), axis=1, keepdims=True)
        return tf.math.divide_no_nan(tf.reduce_sum(hidden, axis=1), count)


class Attention(keras.layers.Layer):
    """Attention among tokens `[batch, n, width]` of which a mask `[batch, n]` says which exist.

    Queries, keys and values have no biases.

    Args:
        heads: Heads.
        width: Width of the tokens.
    """

    def __init__(self, heads: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.width = heads, width
        self.head_dim = -(-width // heads)

    def build(self, input_shape: Any) -> None:
        inner = self.heads * self.head_dim
        self.kernels = [
            self.add_weight(name=f"{name}_kernel", shape=[self.width, inner])
            for name in ("query", "key", "value")
        ]
        self.output_kernel = self.add_weight(name="output_kernel", shape=[inner, self.width])
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, mask: tf.Tensor, only_first: bool = False) -> tf.Tensor:
        """Returns `[batch, n, width]`, or `[batch, 1, width]`, the first token's output alone."""
        asking = tokens[:, :1] if only_first else tokens
        count = asking.shape[1]
        query, key, value = (
            self._heads(of, kernel)
            for of, kernel in zip((asking, tokens, tokens), self.kernels, strict=True)
        )
        scores = tf.matmul(query, key, transpose_b=True) / self.head_dim**0.5
        weights = masked_softmax(scores, mask[:, tf.newaxis, tf.newaxis])
        heads = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        out = tf.matmul(tf.reshape(heads, [-1, self.heads * self.head_dim]), self.output_kernel)
        return tf.reshape(out, [-1, count, self.width])

    def _heads(self, tokens: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """`[batch, heads, n, head_dim]`."""
        flat = tf.matmul(tf.reshape(tokens, [-1, self.width]), kernel)
        shaped = tf.reshape(flat, [-1, tokens.shape[1], self.heads, self.head_dim])
        return tf.transpose(shaped, [0, 2, 1, 3])
