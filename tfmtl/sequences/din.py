"""Deep Interest Network: how much each event concerns the candidate (Zhou et al., KDD 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.registry import register
from tfmtl.sequences.base import (
    Events,
    SequencePooling,
    check_at_least,
    joined,
    masked_softmax,
    weighted_sum,
)

SCORES = ("softmax", "sigmoid", "none")


@register("sequence_pooling", "din")
@keras.saving.register_keras_serializable(package="tfmtl")
class DIN(SequencePooling):
    """`Σ mᵢ s(aᵢ) vᵢ` with `aᵢ = MLP([e, t, e − t, e ⊙ t, x])`, a number for each event.

    `e` are the columns that are `of` a feature, `t` the row's own values of these features, and `x`
    the other columns (arXiv 1706.06978; for the outer product of its figure stand `e ⊙ t` and
    `e − t`, as in public code). The first layer is computed in parts, which equals the layer over
    the concatenation: the part of `t` once a row, and no tensor of `4·Dm` numbers for each event.

    Args:
        units: Widths of the layers below the score; none for a linear score.
        score: `softmax` of `a / √Dm`, our default; `none` as the paper has it, where weights keep
            the intensity of an interest; `sigmoid`. With small embeddings raw scores begin near 0,
            and a sum weighted by them learns slowly, so that the bias of `none` begins at 1.

    Raises:
        SpecError: The score is unknown, or a width is below 1.
    """

    reads_target: ClassVar[bool] = True

    def __init__(
        self, *, units: Sequence[int] = (36,), score: str = "softmax", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if score not in SCORES:
            raise SpecError(f"din: score={score!r} is none of {list(SCORES)}.")
        self.units, self.score = tuple(units), score
        check_at_least("din", **{f"units[{i}]": u for i, u in enumerate(self.units)})

    def build(self, shapes: Mapping[str, Any]) -> None:
        self.matched_dim, self.other_dim = shapes["matched"][-1], shapes["others"][-1]
        widths = (4 * self.matched_dim + self.other_dim, *self.units, 1)
        self.kernels = [
            self.add_weight(name=f"kernel_{i}", shape=widths[i : i + 2])
            for i in range(len(widths) - 1)
        ]
        self.biases = [
            self.add_weight(name=f"bias_{i}", shape=[width], initializer="zeros")
            for i, width in enumerate(self.units)
        ]
        start = "ones" if self.score == "none" else "zeros"
        self.biases.append(self.add_weight(name="bias_score", shape=[1], initializer=start))
        self.slopes = [
            self.add_weight(
                name=f"bias_slope_{i}",
                shape=[width],
                initializer=keras.initializers.Constant(0.25),
            )
            for i, width in enumerate(self.units)
        ]
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        mask = events["mask"]
        scores = self.scores(events)
        if self.score == "softmax":
            weights = masked_softmax(scores / self.matched_dim**0.5, mask)
        else:
            scores = tf.sigmoid(scores) if self.score == "sigmoid" else scores
            weights = tf.where(mask, scores, tf.zeros_like(scores))
        return weighted_sum(weights, joined(events))

    def scores(self, events: Events) -> tf.Tensor:
        """The score of each event, `[batch, L]`; anything where there is none."""
        matched, others, target = events["matched"], events["others"], events["target"]
        of_event, of_target, difference, product, of_others = tf.split(
            self.kernels[0], [self.matched_dim] * 4 + [self.other_dim]
        )
        # `e(We + Wd) + (e ⊙ t)Wp` is one product with a kernel of the row's own.
        of_row = of_event + difference + target[:, :, tf.newaxis] * product
        hidden = tf.matmul(matched, of_row)
        if self.other_dim:
            hidden += _each(others, of_others)
        hidden += (tf.matmul(target, of_target - difference) + self.biases[0])[:, tf.newaxis]
        for kernel, bias, slope in zip(self.kernels[1:], self.biases[1:], self.slopes, strict=True):
            positive = tf.nn.relu(hidden)
            activated = positive + slope * (hidden - positive)
            hidden = _each(activated, kernel) + bias
        return tf.squeeze(hidden, axis=-1)


def _each(values: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`[batch, L, out]`, as one product for all events."""
    _, length, width = values.shape
    flat = tf.matmul(tf.reshape(values, [-1, width]), kernel)
    return tf.reshape(flat, [-1, length, kernel.shape[-1]])
