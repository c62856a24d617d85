"""GradNorm: loss weights that let tasks train at similar rates (Chen et al., ICML 2018)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.adam import Moments, adam
from tfmtl.balancing.base import Gradient, Reduced, Step
from tfmtl.balancing.task_gradients import squared_norm
from tfmtl.errors import SpecError
from tfmtl.registry import register

EPSILON = 1e-7
"""Of Adam, as Keras has it."""


@register("balancer", "gradnorm")
@keras.saving.register_keras_serializable(package="tfmtl")
class GradNorm(Reduced):
    """Weights that bring the norms of the tasks' gradients together, with more for slow tasks.

    `W` is the last layer that all tasks read, `Backbone.last_shared`, or the looked-up rows of the
    tables if tasks share nothing else. `G_k = w_k ‖∇_W L_k‖` moves towards `Ḡ r_k^α` by

        L_grad = Σ_k |G_k − Ḡ r_k^α|,    r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)),

    where the target is a constant (eq. 2). The slope then needs no second derivative,
    `∂L_grad / ∂w_k = sign(G_k − Ḡ r_k^α) ‖∇_W L_k‖`. Adam descends it for `w` alone, and after that
    `w` is scaled to `Σ w_k = K` (algorithm 1).

    `L_k(0)` is the mean over the first batches: the paper's single batch is noise for a task with
    few positives. Weights stay at 1 until every task has its `L_k(0)`. A task without an observed
    row in the batch is in no mean, and its weight and its Adam state do not move.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        alpha: How much more slow tasks get; 0 makes all norms equal. The paper's value is 1.5.
        learning_rate: Of Adam on the weights.
        first_batches: Number of observed batches over which `L_k(0)` is the mean.
        least: The smallest weight. The paper has none, but a negative weight would train its task
            to fail.
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
        self.momentum = self._state("momentum", count)
        self.velocity = self._state("velocity", count)
        self.steps = self._state("steps", count)

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        return tf.reduce_sum(self.weights_now() * self._observed_only(losses, observed))

    def weights_now(self) -> tf.Tensor:
        return self.plain_weight * self.task_weights

    def gradients(self, step: Step) -> list[Gradient]:
        """The gradients of the total with the present weights; then the weights learn."""
        gradients = super().gradients(step)
        norms = [
            tf.sqrt(squared_norm(step.tape.gradient(loss, step.last_shared)))
            for loss in step.losses.each
        ]
        self.learn(step.losses.stacked, tf.stack(norms), step.losses.observed)
        return gradients

    def learn(self, losses: tf.Tensor, norms: tf.Tensor, observed: tf.Tensor) -> None:
        """Updates the weights by one step.

        Args:
            losses: `[K]`, unweighted.
            norms: `‖∇_W L_k‖`, `[K]`, unweighted.
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
        # A single task equals the mean in norm and rate; there is nothing to learn from it.
        present = tf.reduce_sum(tf.cast(observed, tf.int32))
        self._descend(slope, observed & ready & (present > 1))

    def _slope(self, losses: tf.Tensor, norms: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        mask = tf.cast(observed, tf.float32)

        def mean(values: tf.Tensor) -> tf.Tensor:
            return tf.math.divide_no_nan(tf.reduce_sum(mask * values), tf.reduce_sum(mask))

        ratios = tf.math.divide_no_nan(losses, self.first)
        rates = tf.math.divide_no_nan(ratios, mean(ratios))
        weighted = self.task_weights * norms
        return tf.sign(weighted - mean(weighted) * tf.pow(rates, self.alpha)) * norms

    def _descend(self, slope: tf.Tensor, moves: tf.Tensor) -> None:
        step = adam(
            Moments(self.momentum, self.velocity, self.steps),
            slope,
            moves,
            learning_rate=self.learning_rate,
            epsilon=EPSILON,
        )
        self.task_weights.assign(on_simplex(self.task_weights - step, self.least))


def on_simplex(weights: tf.Tensor, least: float) -> tf.Tensor:
    """Scales weights `[K]` to sum to `K`, none of them below `least`.

    Weights that would be below `least` are set to it; the others share the rest in proportion.

    Example:
        >>> on_simplex(tf.constant([3.0, 1.0, -1.0]), 0.001).numpy().tolist()
        [2.24925, 0.74975, 0.001]
    """
    count = float(weights.shape[0])
    weights = tf.maximum(weights, least)
    weights *= count / tf.reduce_sum(weights)
    # Raising one weight lowers the others, which may bring the next one below `least`.
    for _ in range(weights.shape[0]):
        low = weights <= least
        rest = tf.where(low, tf.zeros_like(weights), weights)
        held = tf.reduce_sum(tf.where(low, least, tf.zeros_like(weights)))
        weights = tf.where(low, least, rest * (count - held) / tf.reduce_sum(rest))
    return weights
