"""Keras' Adam, with one kernel per variable."""

import tensorflow as tf
import tf_keras as keras


@keras.saving.register_keras_serializable(package="tfmtl")
class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, whose dense update is one pass over a variable instead of a dozen.

    The equations, the arguments and the slots are those of Keras, so that checkpoints of the two
    are the same. With `amsgrad`, and for a gradient that is `tf.IndexedSlices`, Keras' own update
    is used.

    Args:
        **kwargs: As `keras.optimizers.Adam`.

    Example:
        >>> weight = tf.Variable([1.0, 1.0])
        >>> _ = Adam(learning_rate=0.5).apply_gradients([(tf.constant([3.0, -2.0]), weight)])
        >>> weight.numpy().round(3).tolist()
        [0.5, 1.5]
    """

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Applies one gradient."""
        adaptive = getattr(self, "adaptive_epsilon", False)
        if self.amsgrad or adaptive or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = (tf.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            use_locking=True,
        )
