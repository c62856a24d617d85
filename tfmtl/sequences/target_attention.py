"""Attention of several heads from the candidate to the events (Chang et al., TWIN, KDD 2023)."""

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
)


@register("sequence_pooling", "target_attention")
@keras.saving.register_keras_serializable(package="tfmtl")
class TargetAttention(SequencePooling):
    """`[head₁ … head_h] W_O` with `head = Σᵢ softmaxᵢ(q·kᵢ/√d_h) wᵢ`, `[batch, Dm + Dx]`.

    `q = t W_Q` of the row's own values, `kᵢ = vᵢ W_K` and `wᵢ = vᵢ W_V` of the events (the
    attention of TWIN, arXiv 2302.02352, without its cross features). Keys and values are never
    made: `q·kᵢ = vᵢ·(W_K q)`, and `W_V` is applied to the weighted sum, once a row. That is equal,
    and costs `2·h·L·Dv` instead of `2·L·Dv·d`.

    Args:
        heads: Heads, `h`; `d` is `Dm + Dx` rounded up to a multiple of them.
        position: What is added to the events' vectors: a learned vector of their `place` or `age`,
            or `none`; by default the age where there are times, else the place.

    Raises:
        SpecError: `heads` is below 1, or the position is unknown.
    """

    reads_target: ClassVar[bool] = True
    keeps_columns: ClassVar[bool] = False

    def __init__(self, *, heads: int = 4, position: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least("target_attention", heads=heads)
        check_position("target_attention", position)
        self.heads, self.position = heads, position

    def build(self, shapes: Mapping[str, Any]) -> None:
        target = shapes["matched"][-1]
        values = target + shapes["others"][-1]
        self.head_dim = -(-values // self.heads)
        width = self.head_dim * self.heads
        self.query_kernel = self.add_weight(name="query_kernel", shape=[target, width])
        self.key_kernel = self.add_weight(name="key_kernel", shape=[values, width])
        self.value_kernel = self.add_weight(name="value_kernel", shape=[values, width])
        self.output_kernel = self.add_weight(name="output_kernel", shape=[width, values])
        self.positions = positions_of(self.position, values, shapes)
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"]
        places = None
        if self.positions is not None and self.positions.by_age:
            values += self.positions(events)
        elif self.positions is not None:
            # The same for all rows, so that nothing is added to every event.
            places = self.positions.table
        query = tf.reshape(
            tf.matmul(events["target"], self.query_kernel), [-1, self.heads, self.head_dim]
        )
        keys = tf.reshape(self.key_kernel, [-1, self.heads, self.head_dim])
        asked = tf.einsum("bhd,vhd->bhv", query, keys)
        scores = tf.matmul(asked, values, transpose_b=True)
        if places is not None:
            scores += tf.einsum("bhv,lv->bhl", asked, places)
        weights = masked_softmax(scores / self.head_dim**0.5, mask[:, tf.newaxis])
        pooled = tf.matmul(weights, values)
        if places is not None:
            pooled += tf.einsum("bhl,lv->bhv", weights, places)
        of_values = tf.reshape(self.value_kernel, [-1, self.heads, self.head_dim])
        heads = tf.einsum("bhv,vhd->bhd", pooled, of_values)
        flat = tf.reshape(heads, [-1, self.heads * self.head_dim])
        return tf.matmul(flat, self.output_kernel)
