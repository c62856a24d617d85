"""The mean, the sum and the largest of the events: poolings without weights."""

from typing import ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.registry import register
from tfmtl.sequences.base import Events, SequencePooling, joined


@register("sequence_pooling", "mean")
@keras.saving.register_keras_serializable(package="tfmtl")
class MeanOfEvents(SequencePooling):
    """The mean of the events, `Σ mᵢvᵢ / Σ mᵢ`; zero without events."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        values = joined(events)
        count = tf.reduce_sum(tf.cast(events["mask"], values.dtype), axis=1, keepdims=True)
        return tf.math.divide_no_nan(tf.reduce_sum(values, axis=1), count)


@register("sequence_pooling", "sum")
@keras.saving.register_keras_serializable(package="tfmtl")
class SumOfEvents(SequencePooling):
    """The sum of the events, `Σ mᵢvᵢ`."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        return tf.reduce_sum(joined(events), axis=1)


@register("sequence_pooling", "max")
@keras.saving.register_keras_serializable(package="tfmtl")
class MaxOfEvents(SequencePooling):
    """The largest number of any event, per dimension; zero without events."""

    has_weights: ClassVar[bool] = False

    def call(self, events: Events) -> tf.Tensor:
        values, mask = joined(events), events["mask"][:, :, tf.newaxis]
        largest = tf.reduce_max(tf.where(mask, values, values.dtype.min), axis=1)
        return tf.where(tf.reduce_any(mask, axis=1), largest, tf.zeros_like(largest))
