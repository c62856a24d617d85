"""A mean in which older events count less, by a learned power of their age."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.columns import FIRST
from tfmtl.errors import SpecError
from tfmtl.registry import register
from tfmtl.sequences.base import Events, SequencePooling, joined, masked_softmax, weighted_sum


@register("sequence_pooling", "decay")
@keras.saving.register_keras_serializable(package="tfmtl")
class Decay(SequencePooling):
    """The mean of the events with weights `2^(−r·b)`, `b` the bucket of the event's age.

    A bucket is the logarithm of the age, so a weight is a power of the age: `(1 + age)^(−r)`. The
    rate `r = softplus(ρ)` is learned. Without times `b = log₂(1 + place)`, of the newest event 0.
    Our choice: a power law forgets like interests do, and needs no half-life in seconds.

    Args:
        rate: The rate at the start.

    Raises:
        SpecError: `rate` is not above 0.
    """

    def __init__(self, *, rate: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rate <= 0:
            raise SpecError(f"decay: rate={rate} must be above 0.")
        self.rate = rate

    def build(self, shapes: Any) -> None:
        # The inverse of softplus.
        start = float(tf.math.log(tf.math.expm1(tf.constant(self.rate, tf.float64))))
        self.raw_rate = self.add_weight(
            name="bias_rate", shape=[], initializer=keras.initializers.Constant(start)
        )
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"]
        if "ages" in events:
            steps = tf.cast(tf.maximum(events["ages"] - FIRST, 0), values.dtype)
        else:
            places = tf.range(mask.shape[1], dtype=values.dtype)
            steps = tf.math.log1p(places)[tf.newaxis] / tf.math.log(tf.constant(2.0, values.dtype))
        scores = -tf.math.log(2.0) * tf.nn.softplus(self.raw_rate) * steps
        weights = masked_softmax(tf.broadcast_to(scores, tf.shape(mask)), mask)
        return weighted_sum(weights, values)
