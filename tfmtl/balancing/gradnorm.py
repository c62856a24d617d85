"""GradNorm: loss weights by which tasks train at similar rates (Chen et al., ICML 2018)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.base import Gradient, Reduced, Step
from tfmtl.balancing.task_gradients import squared_norm
from tfmtl.errors import SpecError
from tfmtl.registry import register

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


@register("balancer", "gradnorm")
@keras.saving.register_keras_serializable(package="tfmtl")
class GradNorm(Reduced):
    """Weights that pull the norms of the tasks' gradients together, harder for slow tasks.

    At the last layer that all tasks read, `Backbone.last_shared`, or at the looked-up rows of the
    tables where tasks share those alone, `G_k = w_k ‖∇_W L_k‖` is drawn to `Ḡ r_k^α` by

        L_grad = Σ_k |G_k − Ḡ r_k^α|,    r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)),

    where the target counts as a constant (eq. 2). Its slope is then known without a second
    derivative, `∂L_grad / ∂w_k = sign(G_k − Ḡ r_k^α) ‖∇_W L_k‖`, and Adam descends it for `w`
    alone; after that `Σ w_k = K` is restored (algorithm 1).

    `L_k(0)` is the mean of the first losses, since the paper's one batch is noise for a task with
    few positives. Weights stay at 1 until every task has its own. A task that a batch does not
    observe is in no mean, and neither its weight's slope nor its Adam moments move.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        alpha: How hard slow tasks are pulled; 0 makes all norms equal. The paper's is 1.5.
        learning_rate: Of Adam on the weights.
        first_batches: How many observed batches make `L_k(0)`.
        least: Least weight; the paper has none, and a task whose weight crossed 0 would be
            trained to fail.
        reduction: `mean` or `sum` over the tasks of the weighted losses.

    Raises:
        SpecError: A value is out of its range.
    """

    needs_shared = True
    persistent = True

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        alpha: float = 1.5,
        learning_rate: float = 1e-2,
        first_batches: int = 20,
        least: float = 1e-3,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        for name, value, most in (
            ("alpha", alpha, float("inf")),
            ("learning_rate", learning_rate, float("inf")),
            ("least", least, 1.0),
        ):
            if not 0 <= value < most:
                raise SpecError(f"gradnorm: {name}={value} must be in [0, {most:g}).")
        if first_batches < 1:
            raise SpecError(f"gradnorm: first_batches={first_batches} must be at least 1.")
        self.alpha, self.learning_rate = alpha, learning_rate
        self.first_batches, self.least = first_batches, least
        count = [len(self.tasks)]
        self.task_weights = self._state("task_weights", count, 1.0)
        self.first = self._state("first_losses", count)
        self.batches = self._state("first_batches", count)
        # Adam's, one count of steps a task: absent tasks do not coast.
        self.momentum = self._state("momentum", count)
        self.velocity = self._state("velocity", count)
        self.steps = self._state("steps", count)

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        return tf.reduce_sum(self.weights_now() * self._observed_only(losses, observed))

    def weights_now(self) -> tf.Tensor:
        return self.plain_weight * self.task_weights

    def gradients(self, step: Step) -> list[Gradient]:
        """The total's, by the weights as they were; then the weights learn."""
        gradients = super().gradients(step)
        norms = [
            tf.sqrt(squared_norm(step.tape.gradient(loss, step.last_shared)))
            for loss in step.losses.each
        ]
        self.learn(step.losses.stacked, tf.stack(norms), step.losses.observed)
        return gradients

    def learn(self, losses: tf.Tensor, norms: tf.Tensor, observed: tf.Tensor) -> None:
        """One step of the weights.

        Args:
            losses: `[K]`, without weights.
            norms: `‖∇_W L_k‖`, `[K]`, without weights.
            observed: `[K]`, boolean.
        """
        counted = observed & (self.batches < self.first_batches)
        more = self.batches + tf.cast(counted, tf.float32)
        change = (losses - self.first) / tf.maximum(more, 1.0)
        first = tf.where(counted, self.first + change, self.first)
        ready = tf.reduce_all(self.batches >= self.first_batches)
        self.first.assign(first)
        self.batches.assign(more)
        slope = self._slope(losses, norms, observed)
        # One task alone has the mean's norm and rate; there is nothing to learn from it.
        there = tf.reduce_sum(tf.cast(observed, tf.int32))
        self._descend(slope, observed & ready & (there > 1))

    def _slope(self, losses, norms, observed):
        there = tf.cast(observed, tf.float32)

        def mean(values):
            return tf.math.divide_no_nan(tf.reduce_sum(there * values), tf.reduce_sum(there))

        fall = tf.math.divide_no_nan(losses, self.first)
        rates = tf.math.divide_no_nan(fall, mean(fall))
        weighted = self.task_weights * norms
        return tf.sign(weighted - mean(weighted) * tf.pow(rates, self.alpha)) * norms

    def _descend(self, slope, moves):
        def moved(variable, value):
            return variable.assign(tf.where(moves, value, variable))

        steps = moved(self.steps, self.steps + 1.0)
        m = moved(self.momentum, BETA_1 * self.momentum + (1 - BETA_1) * slope)
        v = moved(self.velocity, BETA_2 * self.velocity + (1 - BETA_2) * tf.square(slope))
        count = tf.maximum(steps, 1.0)
        unbiased = m / (1 - tf.pow(BETA_1, count))
        root = tf.sqrt(v / (1 - tf.pow(BETA_2, count))) + EPSILON
        step = tf.where(moves, self.learning_rate * unbiased / root, tf.zeros_like(m))
        self.task_weights.assign(on_simplex(self.task_weights - step, self.least))


def on_simplex(weights: tf.Tensor, least: float) -> tf.Tensor:
    """Scales weights `[K]` to sum to `K`, none of them below `least`.

    Those that would fall below it are held there, and the others share the rest in proportion.

    Example:
        >>> on_simplex(tf.constant([3.0, 1.0, -1.0]), 0.001).numpy().tolist()
        [2.24925, 0.74975, 0.001]
    """
    count = float(weights.shape[0])
    weights = tf.maximum(weights, least)
    weights *= count / tf.reduce_sum(weights)
    # Holding one up takes from the others, of which the next may fall below it by that.
    for _ in range(weights.shape[0]):
        low = weights <= least
        rest = tf.where(low, tf.zeros_like(weights), weights)
        held = tf.reduce_sum(tf.where(low, least, tf.zeros_like(weights)))
        weights = tf.where(low, least, rest * (count - held) / tf.reduce_sum(rest))
    return weights
