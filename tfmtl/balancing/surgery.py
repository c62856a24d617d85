"""Surgery on the tasks' gradients: PCGrad, MGDA and CAGrad, on shared variables alone.

The gradients by part of the model:

- A variable that the loss of one task alone reaches (a tower, a logit, an expert or gate of one
  task) gets that task's gradient unchanged, bit for bit as with the balancer `fixed`.
- Shared variables get `Σ c_k g_k`. The coefficients follow from the inner products of the tasks'
  flat gradients on all shared variables together, including the looked-up rows of tables.
- Loss terms (`pwiser`, `order_calibration`) and weight decay are not tasks. Their gradients are
  added afterwards unchanged, and are in no norm and no conflict.
- A task without an observed row in the batch, or with a gradient of exactly zero, is in no norm, no
  conflict and no division.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing import gram as of_gram
from tfmtl.balancing.base import Gradient, Reduced, Step
from tfmtl.balancing.task_gradients import TaskGradients, plus
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.registry import register

NORMALIZERS = ("none", "l2", "loss", "loss+")


class Surgery(Reduced):
    """A balancer that combines the tasks' gradients on shared variables by coefficients.

    Called on losses it returns their plain mean or sum, which private variables descend. Without
    a conflict to resolve the coefficients are 1 and the step is the plain one.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        reduction: `mean` or `sum` over the tasks, for private and shared variables alike. With
            `sum` private gradients are not scaled, and PCGrad is as in the paper.
    """

    needs_shared = True
    persistent = True

    def __init__(self, tasks: Sequence[str], kinds: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(tasks, kinds, **kwargs)
        self.last = self._state("last_coefficients", [len(self.tasks)], 1.0)

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        return self.plain_weight * tf.reduce_sum(self._observed_only(losses, observed))

    def weights_now(self) -> tf.Tensor:
        """The coefficients of the tasks' gradients on shared variables in the last step."""
        return self.plain_weight * self.last

    def gradients(self, step: Step) -> list[Gradient]:
        """Unchanged gradients for private variables, combined ones for shared variables."""
        tasks = TaskGradients(step, self.plain_weight)
        coefficients = self._settled(tasks.gram() if tasks.shared else None, step)
        return with_others(tasks.combined(coefficients), step)

    @abc.abstractmethod
    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        """Returns the coefficient of each task's gradient, `[K]`; 1 for all is the plain step.

        Args:
            gram: Inner products of the tasks' gradients, float64 `[K, K]`, zero for a task that
                is not active.
            losses: `[K]`.
            active: `[K]`, boolean, the tasks with an observed row and a gradient.
        """

    def _settled(self, gram: tf.Tensor | None, step: Step) -> tf.Tensor:
        if gram is None:  # With one task nothing is shared.
            return tf.ones([len(self.tasks)], tf.float64)
        active = step.losses.observed & (tf.linalg.diag_part(gram) > 0)
        both = active[:, tf.newaxis] & active
        gram = tf.where(both, gram, tf.zeros_like(gram))
        coefficients = self.coefficients(gram, step.losses.stacked, active)
        coefficients = tf.where(active, coefficients, tf.ones_like(coefficients))
        self.last.assign(tf.cast(coefficients, self.last.dtype))
        return coefficients


@register("balancer", "pcgrad")
@keras.saving.register_keras_serializable(package="tfmtl")
class PCGrad(Surgery):
    """Projecting conflicting gradients (Yu et al., NeurIPS 2020).

    A gradient that points against another task's gradient loses its part in that direction. Each
    task meets the others in an order that is drawn at every step. Gradients are projected as one
    flat vector over all shared variables, as the authors do, and not per variable.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        seed: Seed of the orders. They follow from it and from the number of steps, which is in the
            checkpoints.
        reduction: `mean` or `sum` over the tasks.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        seed: int = 0,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        self.seed = seed
        self.steps = self._state("steps", [], 0, "int64")

    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        order = self.order()
        self.steps.assign_add(1)
        return of_gram.pcgrad(gram, order)

    def order(self) -> tf.Tensor:
        """In which order each task meets all in the next step: `[K, K]`, a permutation per row."""
        count = len(self.tasks)
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.steps)])
        return tf.argsort(tf.random.stateless_uniform([count, count], seed), axis=1)


@register("balancer", "mgda")
@keras.saving.register_keras_serializable(package="tfmtl")
class MGDA(Surgery):
    """Multiple-gradient descent: the shortest vector in the gradients' hull.

    The method of Sener and Koltun (NeurIPS 2018). The weights of the active tasks sum to their
    number, so that with one active task the step is the plain one.

    The shortest vector is mostly near the smallest gradient. Therefore there is `normalize`, which
    is in the authors' code and not in the paper: the weights are computed from the gradients
    divided by it, and are then applied, as there, to the original gradients. Only with `none` is it
    certain that the step makes no task worse (to first order).

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        normalize: The divisor of a task's gradient: `none`, its norm (`l2`), the task's loss
            (`loss`), or both (`loss+`).
        ub: Whether to take the gradients by the representation that all tasks read, an upper
            bound, instead of those by the shared variables (section 3.3). It takes one backward
            pass below the representation instead of one per task, and needs a backbone whose
            tasks read the same representation, such as `shared_bottom`.
        reduction: `mean` or `sum` over the tasks.

    Raises:
        SpecError: `normalize` is unknown; in training with `ub`, tasks read different
            representations.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        normalize: str = "loss+",
        ub: bool = False,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        if normalize not in NORMALIZERS:
            raise SpecError(
                f"mgda: normalize={normalize!r} is none of {list(NORMALIZERS)}."
                f"{did_you_mean(normalize, NORMALIZERS)}"
            )
        self.normalize, self.ub = normalize, ub

    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        by = tf.ones_like(gram[0])
        if self.normalize in ("l2", "loss+"):
            by *= tf.sqrt(tf.linalg.diag_part(gram))
        if self.normalize in ("loss", "loss+"):
            by *= tf.cast(losses, by.dtype)
        # None of our losses is zero with a gradient; a user's loss that is stays undivided.
        by = tf.where(by > 0, by, tf.ones_like(by))
        weights = of_gram.min_norm(gram / (by[:, tf.newaxis] * by), active)
        return weights * tf.reduce_sum(tf.cast(active, weights.dtype))

    def gradients(self, step: Step) -> list[Gradient]:
        """As in every surgery, or from the gradients by the representation."""
        return self._by_representation(step) if self.ub else super().gradients(step)

    def _by_representation(self, step: Step) -> list[Gradient]:
        representations = list(step.losses.representations.values())
        if any(one is not representations[0] for one in representations):
            raise SpecError(
                "mgda: ub=True needs one representation that all tasks read, and here each task "
                "reads its own. Use ub=False, or a backbone such as 'shared_bottom'."
            )
        weight = self.plain_weight
        flat = tf.stack([tf.reshape(g, [-1]) for g in self._at(representations[0], step)])
        gram = tf.cast(tf.matmul(flat, flat, transpose_b=True), tf.float64)
        coefficients = self._settled(gram, step)
        tasks = TaskGradients(step, weight)
        return with_others(tasks.combined_in_one_pass(coefficients), step)

    def _at(self, representation: tf.Tensor, step: Step) -> Iterator[tf.Tensor]:
        for loss in step.losses.each:
            gradient = step.tape.gradient(
                loss, representation, output_gradients=tf.constant(self.plain_weight)
            )
            yield tf.zeros_like(representation) if gradient is None else gradient


@register("balancer", "cagrad")
@keras.saving.register_keras_serializable(package="tfmtl")
class CAGrad(Surgery):
    """Conflict-averse gradient descent (Liu et al., NeurIPS 2021).

    The direction near the plain gradient in which the task that gains least gains most. The dual
    problem over `K` weights is solved exactly; the authors' code takes some twenty steps.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        c: Largest distance from the plain gradient, as a share of its norm; 0 is the plain step.
            With 1 and above it need not converge to a minimum of the plain loss.
        reduction: `mean` or `sum` over the tasks.

    Raises:
        SpecError: `c` is negative.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        c: float = 0.5,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        if not 0 <= c < float("inf"):
            raise SpecError(f"cagrad: c={c} must be at least 0; the paper's range is [0, 1).")
        self.c = c

    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        return of_gram.cagrad(gram, active, self.c)


def with_others(gradients: Sequence[Gradient], step: Step) -> list[Gradient]:
    """Adds the gradients of loss terms and weight decay, which belong to no task."""
    if not step.losses.others:
        return list(gradients)
    others = step.tape.gradient(list(step.losses.others), step.variables)
    return [plus(g, other) for g, other in zip(gradients, others, strict=True)]
