"""Keras' batch normalisation, in one kernel."""

import tensorflow as tf
import tf_keras as keras


@keras.saving.register_keras_serializable(package="tfmtl")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of `[batch, width]`, by TensorFlow's fused kernel.

    Keras uses that kernel for pictures alone; for vectors its own passes over the values take
    five times as long. Weights, moments and results are the same: the moving variance follows the
    batch's variance divided by the number of rows, as for Keras' vectors, and not by one less, as
    for its pictures.

    Args:
        **kwargs: As `keras.layers.BatchNormalization`.

    Example:
        >>> BatchNorm()(tf.constant([[1.0], [3.0]]), training=True).numpy().round(2).tolist()
        [[-1.0], [1.0]]
    """

    def call(self, inputs: tf.Tensor, training: bool = False, gain: float = 1.0) -> tf.Tensor:
        """Returns the normalised rows, multiplied by `gain`.

        Args:
            inputs: `[batch, width]`; of another rank they are normalised by Keras.
            training: Whether the batch's moments are used and remembered. A frozen layer uses its
                moving ones.
            gain: A positive factor, which costs nothing here.
        """
        if not (training and self.trainable) or inputs.shape.rank != 2:
            normalised = super().call(inputs, training=training)
            return normalised if gain == 1.0 else normalised * gain
        normalised, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]]),
            scale=self.gamma * gain,
            offset=self.beta * gain,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        rows = tf.cast(tf.shape(inputs)[0], variance.dtype)
        for moving, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (1 - 1 / rows)),
        ):
            moving.assign_sub((moving - new) * (1 - self.momentum))
        return tf.reshape(normalised, [-1, inputs.shape[-1]])
