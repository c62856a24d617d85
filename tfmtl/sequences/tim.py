"""Temporal Interest Module: when an event was decides with the candidate (Zhou et al., 2024)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.registry import register
from tfmtl.sequences.base import (
    Events,
    Positions,
    SequencePooling,
    masked_softmax,
    weighted_sum,
)


@register("sequence_pooling", "tim")
@keras.saving.register_keras_serializable(package="tfmtl")
class TIM(SequencePooling):
    """`u = [Σ αᵢ(ẽᵢ ⊙ t̃) ; Σ αᵢ xᵢ]` with `α = softmaxᵢ(ẽᵢ·t̃ / √Dm)`.

    `ẽᵢ = eᵢ + pᵢ` and `t̃ = t + p₀`: learned vectors of age and place are added to the events and
    one to the target, so that encoding, attention and result all depend on target and time (TIN,
    arXiv 2308.08487; the module of arXiv 2403.00793).

    Args:
        encodings: What `pᵢ` is the sum of: `place`, `age`, or both; by default both where there are
            times, else the place.

    Raises:
        SpecError: An encoding is unknown, or there is none.
    """

    reads_target: ClassVar[bool] = True

    def __init__(self, *, encodings: tuple[str, ...] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encodings = None if encodings is None else tuple(encodings)
        if self.encodings is not None and (
            not self.encodings or not set(self.encodings) <= {"place", "age"}
        ):
            raise SpecError(f"tim: encodings={encodings} must be of 'place' and 'age'.")

    def build(self, shapes: Mapping[str, Any]) -> None:
        dim = shapes["matched"][-1]
        default = ("age", "place") if "ages" in shapes else ("place",)
        self.positions = [
            Positions(p, dim, name=p) for p in dict.fromkeys(self.encodings or default)
        ]
        for each in self.positions:
            each.build(shapes)
        self.target_position = self.add_weight(
            name="bias_target",
            shape=[dim],
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        mask, matched = events["mask"], events["matched"]
        encoded = matched + sum(p(events) for p in self.positions)
        target = events["target"] + self.target_position
        scores = tf.squeeze(tf.matmul(encoded, target[:, :, tf.newaxis]), axis=2)
        weights = masked_softmax(scores / matched.shape[-1] ** 0.5, mask)
        # The target is the same for all events, so it is multiplied once, after the sum.
        pooled = weighted_sum(weights, encoded) * target
        if not events["others"].shape[-1]:
            return pooled
        return tf.concat([pooled, weighted_sum(weights, events["others"])], axis=1)
