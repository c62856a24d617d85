"""NashMTL: the update that the tasks, as bargaining players, agree on (Navon et al., ICML 2022)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.base import Gradient, Step
from tfmtl.balancing.gram import ZERO
from tfmtl.balancing.surgery import Surgery, with_others
from tfmtl.balancing.task_gradients import TaskGradients
from tfmtl.errors import SpecError
from tfmtl.registry import register

NEWTON_STEPS = 100
"""Newton steps at most; about ten are needed unless gradients point against each other."""

DECREMENT = 1e-10
"""Newton's method ends where its decrement, which bounds the relative residual, is below this."""


@register("balancer", "nash_mtl")
@keras.saving.register_keras_serializable(package="tfmtl")
class NashMTL(Surgery):
    """The Nash bargaining solution of the tasks' gradients on shared variables.

    The direction `d` in a ball maximises `Σ log ⟨g_k, d⟩`. It is `d = Σ α_k g_k` where
    `G α = 1 / α`, with the Gram matrix `G` (claim 3.1): every task gains the same share of its
    own scale, so that multiplying a loss by a number leaves the direction as it is.

    The length of `d` is free. Here it is that of the plain gradient `Σ g_k`, so that the learning
    rate means what it means for the other balancers (our choice; the authors divide `G` by its
    norm and clip the update). Private variables take the plain step, as in all surgery here; the
    authors multiply their loss by `α_k` too.

    Where gradients point exactly against each other there is no such direction: no step helps all
    tasks. The step is then the plain one.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        every: Coefficients are solved anew at every so many updates and kept in between. Steps
            in between take one backward pass through what is shared instead of one per task. A
            kept coefficient of a task that the batch does not observe has no effect.
        reduction: `mean` or `sum` over the tasks.

    Raises:
        SpecError: `every` is below 1.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        every: int = 1,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        if every < 1:
            raise SpecError(f"nash_mtl: every={every} updates; it must be at least 1.")
        self.every = every
        self.turn = self._state("turn", [], 0, "int64")

    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        del losses
        return nash(gram, active)

    def gradients(self, step: Step) -> list[Gradient]:
        """As in every surgery; with `every` above 1 the Gram matrix is not made at every step."""
        if self.every == 1 or len(self.tasks) == 1:
            return super().gradients(step)
        due = self.turn % self.every == 0
        self.turn.assign_add(1)
        coefficients = tf.cond(
            due,
            lambda: self._settled(TaskGradients(step, self.plain_weight).gram(), step),
            lambda: tf.cast(self.last, tf.float64),
        )
        tasks = TaskGradients(step, self.plain_weight)
        return with_others(tasks.combined_in_one_pass(coefficients), step)


def nash(gram: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Coefficients of the bargaining solution with the plain gradient's length, `[K]`.

    Args:
        gram: `[K, K]`, zero for a task that is not active.
        active: `[K]`, boolean, the tasks that bargain; the others' coefficients are 1, and 1 for
            all where no direction helps all.

    Example:
        >>> gram = tf.constant([[1.0, 0.0], [0.0, 4.0]])
        >>> nash(gram, tf.constant([True, True])).numpy().round(4).tolist()
        [1.5811, 0.7906]
    """
    gram = tf.cast(gram, tf.float64)
    ones = tf.ones_like(gram[0])
    alpha = bargain(gram, active)
    squared = tf.maximum(tf.reduce_sum(alpha * tf.linalg.matvec(gram, alpha)), 0.0)
    plain = tf.sqrt(tf.maximum(tf.reduce_sum(gram), 0.0))
    # As in `gram`: a sum this much shorter than its parts is zero but for float32's rounding.
    length = tf.sqrt(squared)
    parts = tf.reduce_sum(alpha * tf.sqrt(tf.linalg.diag_part(gram)))
    agreed = active & (length > ZERO * parts)
    return tf.where(agreed, tf.math.divide_no_nan(plain, length) * alpha, ones)


def bargain(gram: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """The positive `α` with `G α = 1 / α`, `[K]`, float64.

    It is the one minimum of the convex `½ αᵀ G α − Σ log α_k`, found by damped Newton steps, which
    converge from any start because that function is self-concordant (Nesterov and Nemirovskii,
    1994). The authors linearise a harder form of the problem and call a solver. `G` is first
    divided by the gradients' norms, so that the steps do not depend on the scale of a loss.

    Args:
        gram: `[K, K]`.
        active: `[K]`, boolean; for the other tasks `α` is 1. Where no direction helps all there
            is no `α`, and what is returned has no meaning.

    Example:
        >>> gram = tf.constant([[1.0, 1.0], [1.0, 4.0]])
        >>> bargain(gram, tf.constant([True, True])).numpy().round(4).tolist()
        [0.8165, 0.4082]
    """
    gram = tf.cast(gram, tf.float64)
    ones = tf.ones_like(gram[0])
    norms = tf.sqrt(tf.where(active, tf.linalg.diag_part(gram), ones))
    cosines = tf.where(active[:, tf.newaxis] & active, gram / (norms[:, tf.newaxis] * norms), 0.0)
    cosines = tf.linalg.set_diag(cosines, ones)

    def move(turn: tf.Tensor, alpha: tf.Tensor, decrement: tf.Tensor) -> list[tf.Tensor]:
        slope = tf.linalg.matvec(cosines, alpha) - 1.0 / alpha
        # Newton's step in units of α: H = A C A + 1 is well conditioned where α is small.
        scaled = alpha * slope
        hessian = alpha[:, tf.newaxis] * cosines * alpha + tf.linalg.diag(ones)
        step = tf.linalg.solve(hessian, scaled[:, tf.newaxis])[:, 0]
        decrement = tf.sqrt(tf.maximum(tf.reduce_sum(scaled * step), 0.0))
        # Nearer than 1/4 a whole step stays positive and converges quadratically.
        length = tf.where(decrement < 0.25, tf.ones_like(decrement), 1.0 / (1.0 + decrement))
        return [turn + 1, alpha * (1.0 - length * step), decrement]

    def unsettled(turn: tf.Tensor, alpha: tf.Tensor, decrement: tf.Tensor) -> tf.Tensor:
        # Where no direction helps all, α grows without bound.
        bounded = tf.reduce_mean(alpha) < 1.0 / ZERO
        return (decrement > DECREMENT) & (turn < NEWTON_STEPS) & bounded

    far = tf.constant(float("inf"), gram.dtype)
    _, alpha, _ = tf.while_loop(
        unsettled,
        move,
        [tf.constant(0), ones, far],
    )
    return tf.where(active, alpha / norms, ones)
