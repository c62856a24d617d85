"""The mean, the sum and the largest of the events: poolings without weights."""

from typing import ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.registry import register
from tfmtl.sequences.base import Events, SequencePooling, joined, weighted_sum


@register("sequence_pooling", "mean")
@keras.saving.register_keras_serializable(package="tfmtl")
class MeanOfEvents(SequencePooling):
    """The mean of the events, `Σ mᵢvᵢ / Σ mᵢ`; zero without events."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        values = joined(events)
        weights = tf.cast(events["mask"], values.dtype)
        count = tf.reduce_sum(weights, axis=1, keepdims=True)
        return weighted_sum(tf.math.divide_no_nan(weights, count), values)


@register("sequence_pooling", "sum")
@keras.saving.register_keras_serializable(package="tfmtl")
class SumOfEvents(SequencePooling):
    """The sum of the events, `Σ mᵢvᵢ`."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        values = joined(events)
        return weighted_sum(tf.cast(events["mask"], values.dtype), values)


@register("sequence_pooling", "max")
@keras.saving.register_keras_serializable(package="tfmtl")
class MaxOfEvents(SequencePooling):
    """The largest number of any event, per dimension; zero without events."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"][:, :, tf.newaxis]
        largest = tf.reduce_max(tf.where(mask, values, values.dtype.min), axis=1)
        return tf.where(tf.reduce_any(mask, axis=1), largest, tf.zeros_like(largest))
