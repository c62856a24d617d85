"""Behavior Sequence Transformer: the candidate as one more token (Chen et al., DLP-KDD 2019)."""

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
    positions_of,
    zeroed,
)
from tfmtl.sequences.self_attention import Attention


@register("sequence_pooling", "bst")
@keras.saving.register_keras_serializable(package="tfmtl")
class BST(SequencePooling):
    """A transformer layer over events and candidate; the candidate's output, `[batch, Dm + Dx]`.

    `x = v + p`, `S = LN(x + MHSA(x))`, `F = LN(S + LeakyReLU(S W₁ + b₁) W₂ + b₂)` (arXiv
    1905.06874, from memory). The paper concatenates the outputs of all tokens, of which there are
    always 20; ours is the candidate's alone, so that the width does not depend on `L`. Its eight
    heads are two here, and there is no dropout.

    Args:
        heads: Heads of the attention.
        units: Width of the hidden layer `W₁`; four times the tokens' width if not given.
        position: As in `target_attention`; the paper has the age.

    Raises:
        SpecError: A number is below 1, or the position is unknown.
    """

    reads_target: ClassVar[bool] = True
    keeps_columns: ClassVar[bool] = False

    def __init__(
        self,
        *,
        heads: int = 2,
        units: int | None = None,
        position: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least("bst", heads=heads, units=1 if units is None else units)
        check_position("bst", position)
        self.heads, self.units, self.position = heads, units, position

    def build(self, shapes: Mapping[str, Any]) -> None:
        self.others = shapes["others"][-1]
        width = shapes["matched"][-1] + self.others
        units = self.units or 4 * width
        self.attention = Attention(self.heads, width, name="attention")
        self.attention.build(width)
        self.norms = [keras.layers.LayerNormalization(name=f"norm_{i}") for i in range(2)]
        for norm in self.norms:
            norm.build([None, width])
        self.kernel_in = self.add_weight(name="kernel_in", shape=[width, units])
        self.bias_in = self.add_weight(name="bias_in", shape=[units], initializer="zeros")
        self.kernel_out = self.add_weight(name="kernel_out", shape=[units, width])
        self.bias_out = self.add_weight(name="bias_out", shape=[width], initializer="zeros")
        self.positions = positions_of(self.position, width, shapes)
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"]
        if self.positions is not None:
            values += self.positions(events)
        values = zeroed(values, mask)
        # The candidate has no action or the like, hence zeros in the other columns.
        target = tf.pad(events["target"], [[0, 0], [0, self.others]])
        tokens = tf.concat([target[:, tf.newaxis], values], axis=1)
        exist = tf.concat([tf.ones_like(mask[:, :1]), mask], axis=1)
        # Only the candidate's output is read, so only it goes through what follows.
        attended = self.attention(tokens, exist, only_first=True)[:, 0]
        hidden = self.norms[0](target + attended)
        inner = tf.nn.leaky_relu(tf.matmul(hidden, self.kernel_in) + self.bias_in, 0.01)
        return self.norms[1](hidden + tf.matmul(inner, self.kernel_out) + self.bias_out)
