"""Gradient descent that does not change stopped weights at all."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras


class FreezingSGD(keras.optimizers.SGD):
    """SGD with momentum in which parts of a variable can be stopped.

    A stopped part keeps its value and its momentum, bit for bit. A gradient of zero would not be
    enough: momentum would still move the weights, and weight decay is part of the gradient.

    Args:
        stopped: Returns for a variable booleans that broadcast to it; `None` if no part of it can
            be stopped.
        **kwargs: As `keras.optimizers.SGD`.

    Example:
        >>> weights = tf.Variable([[1.0], [1.0]])
        >>> optimizer = FreezingSGD(lambda v: tf.constant([[True], [False]]), learning_rate=0.5)
        >>> _ = optimizer.apply_gradients([(tf.ones([2, 1]), weights)])
        >>> weights.numpy().tolist()
        [[1.0], [0.5]]
    """

    def __init__(self, stopped: Callable[[tf.Variable], tf.Tensor | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stopped = stopped

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Moves one variable, except its stopped parts."""
        stopped = self.stopped(variable)
        if stopped is None:
            super().update_step(gradient, variable)
            return
        rate = tf.cast(self.learning_rate, variable.dtype)
        step = -rate * gradient
        if self.momentum:
            momentum = self.momentums[self._index_dict[self._var_key(variable)]]
            step = tf.where(stopped, momentum, self.momentum * momentum + step)
            momentum.assign(step)
        variable.assign(tf.where(stopped, variable, variable + step))
