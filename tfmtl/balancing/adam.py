"""Adam (Kingma and Ba, ICLR 2015) on one number per task, in which an absent task stands still."""

from typing import NamedTuple

import tensorflow as tf

BETA_1, BETA_2 = 0.9, 0.999


class Moments(NamedTuple):
    """Adam's state, each `[K]`.

    Attributes:
        momentum: Moving mean of the slope.
        velocity: Moving mean of the squared slope.
        steps: Steps that each task took part in. One count per task: with a common count the
            bias correction of a task that is often absent would be wrong.
    """

    momentum: tf.Variable
    velocity: tf.Variable
    steps: tf.Variable


def adam(
    moments: Moments, slope: tf.Tensor, moves: tf.Tensor, *, learning_rate: float, epsilon: float
) -> tf.Tensor:
    """Updates the moments and returns what is to be subtracted from the numbers, `[K]`.

    Args:
        moments: The state.
        slope: `[K]`.
        moves: `[K]`, boolean, the tasks that take part; the others' state stays and their step
            is 0, so that they do not coast on their momentum.
        learning_rate: The rate.
        epsilon: Added to the root of the second moment.
    """

    def update(variable: tf.Variable, value: tf.Tensor) -> tf.Tensor:
        return variable.assign(tf.where(moves, value, variable))

    momentum, velocity, steps = moments
    taken = update(steps, steps + 1.0)
    m = update(momentum, BETA_1 * momentum + (1 - BETA_1) * slope)
    v = update(velocity, BETA_2 * velocity + (1 - BETA_2) * tf.square(slope))
    count = tf.maximum(taken, 1.0)
    unbiased = m / (1 - tf.pow(BETA_1, count))
    root = tf.sqrt(v / (1 - tf.pow(BETA_2, count))) + epsilon
    return tf.where(moves, learning_rate * unbiased / root, tf.zeros_like(m))
