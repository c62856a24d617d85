"""The identity, with which a search leaves a layer out."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.operations.base import Copies
from tfmtl.registry import register


@register("hidden", "skip")
@register("interaction", "skip")
@keras.saving.register_keras_serializable(package="tfmtl")
class Skip(Copies):
    """Returns its input; there is nothing to train (the paper's skip-connection).

    Args:
        num: Accepted so that all operations are made alike; changes nothing.

    Example:
        >>> import tensorflow as tf
        >>> Skip()(tf.constant([[1.0, 2.0]])).numpy().tolist()
        [[1.0, 2.0]]
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return inputs

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)
