"""Dropout from one random byte per value, which costs a fifth of Keras' one random float."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

WORD = 4
"""Bytes of a random word: the kernel makes words, and each is used as so many bytes."""


def kept(values: tf.Tensor, share: float) -> tf.Tensor:
    """Which values dropout keeps: bool, shaped as `values`; each False with probability `share`.

    A value is dropped if its random byte is below `256 · share`. That is not a whole number in
    general, so it is rounded up or down at random for each row: the probability is then exact, and
    two values of a row are dependent by less than 2⁻¹⁸ in covariance (our choice).

    Args:
        values: `[..., width]`, of which the width is known.
        share: Share dropped, in `[0, 1)`.
    """
    width = values.shape[-1]
    words = -(-width // WORD)
    rows = tf.shape(values)[:-1]
    # The stateful draw is repeatable under `set_random_seed`, as Keras' own is; the stateless
    # kernel makes the bytes, because the stateful one has no integers of full range.
    seed = tf.random.uniform([2], maxval=np.iinfo(np.int32).max, dtype=tf.int32)
    drawn = tf.random.stateless_uniform(
        tf.concat([rows, [words]], axis=0), seed, minval=None, maxval=None, dtype=tf.uint32
    )
    drawn = tf.reshape(tf.bitcast(drawn, tf.uint8), tf.concat([rows, [words * WORD]], axis=0))
    rounding = tf.random.stateless_uniform(tf.concat([rows, [1]], axis=0), seed + [0, 1])
    drawn = drawn if words * WORD == width else drawn[..., :width]
    if 256 * share > 255:
        # A threshold of 256 is no byte.
        return drawn > tf.cast(256 * share - 1 + rounding, tf.uint8)
    return drawn >= tf.cast(256 * share + rounding, tf.uint8)


def dropout(values: tf.Tensor, share: float) -> tf.Tensor:
    """`values` with a share of them zero and the others divided by `1 - share`.

    Args:
        values: `[..., width]`, of which the width is known.
        share: Share dropped, in `[0, 1)`.
    """
    if not share:
        return values
    return tf.where(kept(values, share), values * (1 / (1 - share)), tf.zeros([], values.dtype))


def rectified_dropout(values: tf.Tensor, share: float) -> tf.Tensor:
    """`(1 - share) · dropout(relu(values), share)`: the same, without the division.

    The result is a rectifier's output, which is zero where a value was dropped, and the gradient
    of a rectifier is zero where its output is. So the mask needs no gradient of its own, which
    saves one pass over the values.

    Args:
        values: `[..., width]`, of which the width is known.
        share: Share dropped, in `[0, 1)`.
    """
    if not share:
        return tf.nn.relu(values)
    mask = kept(values, share)

    @tf.custom_gradient
    def masked(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.where(mask, values, tf.zeros([], values.dtype)), lambda gradient: gradient

    return tf.nn.relu(masked(values))


@keras.saving.register_keras_serializable(package="tfmtl")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with cheaper masks; the arguments, without noise shape and seed.

    Args:
        rate: Share dropped in training, in `[0, 1)`.

    Example:
        >>> bool(tf.reduce_all(Dropout(0.2)(tf.ones([2, 3])) == 1))
        True
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return dropout(inputs, self.rate) if training else inputs

    def rectified(
        self, inputs: tf.Tensor, norm: keras.layers.Layer | None = None, training: bool = False
    ) -> tf.Tensor:
        """Returns `dropout(relu(norm(inputs)))` in fewer passes over the values.

        Args:
            inputs: `[..., width]`.
            norm: A `BatchNorm`; the division of dropout is then part of its scale.
            training: Whether this is a step of training.
        """
        if not (training and self.rate):
            return tf.nn.relu(inputs if norm is None else norm(inputs, training=training))
        gain = 1 / (1 - self.rate)
        scaled = inputs * gain if norm is None else norm(inputs, training=training, gain=gain)
        return rectified_dropout(scaled, self.rate)
