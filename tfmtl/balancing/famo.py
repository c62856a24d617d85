"""FAMO: tasks whose losses fall least gain weight (Liu et al., NeurIPS 2023).

Nothing here needs the gradient of a single task: one backward pass per step, and one more forward
pass to see what the step did.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.adam import Moments, adam
from tfmtl.balancing.base import Gradient, Reduced, Step, TaskLosses
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.registry import register

EPSILON = 1e-8
"""Least distance of a loss to its floor, as in the authors' code; and Adam's epsilon."""


@register("balancer", "famo")
@keras.saving.register_keras_serializable(package="tfmtl")
class FAMO(Reduced):
    """Fast adaptive multitask optimization: all losses fall at the same rate, in the logarithm.

    With `z = softmax(ξ)` and `D_k = L_k − floor_k + 1e-8`, the step descends `Σ_k z_k log D_k`,
    scaled so that the weights average 1 (algorithm 1). A loss is therefore multiplied by

        w_k = n (z_k / D_k) / Σ_j (z_j / D_j),    n = number of observed tasks.

    After the update the losses of the same batch are computed again. The fall of each task,
    `δ_k = log D_k(before) − log D_k(after)`, moves `ξ` by Adam along `(diag z − z zᵀ) δ + decay ξ`,
    with the authors' rate and decay: a task that fell less than the others gains weight.

    - A task without an observed row in the batch is left out of `z`, of `n`, of `δ` and of Adam.
    - Loss terms and weight decay are not tasks. They are added to the loss with weight 1, and
      `δ` does not contain them.
    - The second forward pass changes no state of the model: neither the moving moments of batch
      normalisation nor the queue of a loss term. Dropout is refused, since it would draw another
      mask, and `δ` would measure the masks.
    - The value of the loss that training reports is `Σ w_k L_k`, not the logarithm; both have the
      same gradient.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        learning_rate: Of Adam on `ξ`; the authors' is 0.025.
        decay: Pulls `ξ` to 0, where all tasks have the same `z`. The authors' code has 0.01.
        floors: By task name, the loss that cannot be undercut, such as the entropy of soft
            labels; 0 for a task left out.
        every: `δ` is measured after every so many updates; the extra forward pass is then
            computed only in those.
        reduction: `mean` or `sum` over the tasks of the weighted losses.

    Raises:
        SpecError: A value is out of its range, or a floor is of no task; in training, the model
            has dropout.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        learning_rate: float = 0.025,
        decay: float = 0.01,
        floors: Mapping[str, float] | None = None,
        every: int = 1,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        for name, value in (("learning_rate", learning_rate), ("decay", decay)):
            if not 0 <= value < float("inf"):
                raise SpecError(f"famo: {name}={value} must be at least 0.")
        if every < 1:
            raise SpecError(f"famo: every={every} updates; it must be at least 1.")
        for task, floor in (floors or {}).items():
            if task not in self.tasks:
                raise SpecError(
                    f"famo: floors names {task!r}; tasks are {list(self.tasks)}."
                    f"{did_you_mean(task, self.tasks)}"
                )
            if not 0 <= floor < float("inf"):
                raise SpecError(
                    f"famo: the floor of task {task!r} must be at least 0; got {floor}."
                )
        self.learning_rate, self.decay, self.every = learning_rate, decay, every
        self.floors = dict(floors or {})
        count = [len(self.tasks)]
        self.scores = self._state("scores", count)
        self.last = self._state("last_weights", count, 1.0)
        self.log_before = self._state("log_before", count)
        self.momentum = self._state("momentum", count)
        self.velocity = self._state("velocity", count)
        self.steps = self._state("steps", count)
        self.turn = self._state("turn", [], 0, "int64")

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        losses = self._observed_only(losses, observed)
        weights = self.weights_of(losses, observed)
        return self.plain_weight * tf.reduce_sum(tf.stop_gradient(weights) * losses)

    def weights_now(self) -> tf.Tensor:
        """The weights in the last step: they depend on its losses. 0 for a task not observed."""
        return self.plain_weight * self.last

    def weights_of(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        """Weights at given losses, `[K]`, which average 1 over the observed tasks.

        Args:
            losses: `[K]`.
            observed: `[K]`, boolean; all tasks without it.
        """
        z = self._shares(observed)
        weights = z / self._distances(losses)
        present = tf.reduce_sum(tf.cast(z > 0, z.dtype))
        return present * tf.math.divide_no_nan(weights, tf.reduce_sum(weights))

    def gradients(self, step: Step) -> list[Gradient]:
        """Returns the total's gradients, and keeps the losses to compare with after the update."""
        losses = self._observed_only(step.losses.stacked, step.losses.observed)
        self.last.assign(self.weights_of(losses, step.losses.observed))
        self.log_before.assign(tf.math.log(self._distances(losses)))
        return super().gradients(step)

    def after_update(self, losses_again: Callable[[], TaskLosses]) -> None:
        """Measures how much each loss fell, and lets the scores learn from it."""

        def measure() -> tf.Tensor:
            losses = losses_again()
            log_after = tf.math.log(self._distances(losses.stacked))
            self.learn(self.log_before - log_after, losses.observed)
            return tf.constant(True)

        if self.every == 1:
            measure()
        else:
            due = self.turn % self.every == 0
            tf.cond(due, measure, lambda: tf.constant(False))
        self.turn.assign_add(1)

    def learn(self, falls: tf.Tensor, observed: tf.Tensor) -> None:
        """One step of Adam on the scores `ξ`.

        Args:
            falls: `δ`, `[K]`.
            observed: `[K]`, boolean.
        """
        z = self._shares(observed)
        mean = tf.math.divide_no_nan(tf.reduce_sum(z * falls), tf.reduce_sum(z))
        slope = z * (falls - mean) + self.decay * self.scores
        step = adam(
            Moments(self.momentum, self.velocity, self.steps),
            slope,
            observed,
            learning_rate=self.learning_rate,
            epsilon=EPSILON,
        )
        self.scores.assign_sub(step)

    def _shares(self, observed: tf.Tensor | None) -> tf.Tensor:
        """`z` over the observed tasks; zeros where there is none."""
        scores = tf.convert_to_tensor(self.scores)
        powers = tf.exp(scores - tf.reduce_max(scores))
        powers = self._observed_only(powers, observed)
        return tf.math.divide_no_nan(powers, tf.reduce_sum(powers))

    def _distances(self, losses: tf.Tensor) -> tf.Tensor:
        floors = [self.floors.get(task, 0.0) for task in self.tasks]
        return tf.maximum(losses - tf.constant(floors, losses.dtype), 0.0) + EPSILON
