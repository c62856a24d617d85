"""Surgery on the tasks' gradients: PCGrad, MGDA and CAGrad, on shared variables alone.

What each part of a model gets:

- A variable that one task's loss alone reaches (a tower, a logit, the task's own experts or gate)
  gets that task's gradient as it is, bit for bit that of the balancer `fixed`.
- Shared variables get `Σ c_k g_k`, where the coefficients follow from the inner products of the
  tasks' flat gradients on all shared variables together. Tables are among those, by their
  looked-up rows.
- Loss terms (`pwiser`, `order_calibration`) and weight decay are no task: their gradients are added
  afterwards, as they are, and are in no norm and no conflict.
- A task without an observed row in the batch, or with a gradient of exactly zero, is in no norm, no
  conflict and no division.
"""

import abc
from collections.abc import Sequence
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

    Called on losses it is their plain mean or sum, which private variables descend. Where a
    method finds nothing to settle, its coefficients are 1 and the step is the plain one.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        reduction: `mean` or `sum` over the tasks, for private and shared variables alike. With
            `sum` private gradients are unscaled and PCGrad's is the paper's.
    """

    needs_shared = True
    persistent = True

    def __init__(self, tasks: Sequence[str], kinds: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(tasks, kinds, **kwargs)
        self.last = self._state("last_coefficients", [len(self.tasks)], 1.0)

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        return self.plain_weight * tf.reduce_sum(self._observed_only(losses, observed))

    def weights_now(self) -> tf.Tensor:
        """What the tasks' gradients on shared variables were multiplied by in the last step."""
        return self.plain_weight * self.last

    def gradients(self, step: Step) -> list[Gradient]:
        """Private gradients as they are, combined ones for the rest."""
        tasks = TaskGradients(step, self.plain_weight)
        coefficients = self._settled(tasks.gram() if tasks.shared else None, step)
        return with_others(tasks.combined(coefficients), step)

    @abc.abstractmethod
    def coefficients(self, gram: tf.Tensor, losses: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        """Returns what each task's gradient is multiplied by, `[K]`, where 1 is the plain step.

        Args:
            gram: Inner products of the tasks' gradients, float64 `[K, K]`, zero for a task that
                is not active.
            losses: `[K]`.
            active: `[K]`, boolean, the tasks that have an observed row and a gradient.
        """

    def _settled(self, gram: tf.Tensor | None, step: Step) -> tf.Tensor:
        if gram is None:  # One task: nothing is shared.
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

    A task's gradient that points against another's loses its part in that direction; tasks meet
    the others in an order drawn anew each step. Gradients are projected as one flat vector over
    all shared variables (the authors' way), not variable by variable.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        seed: Of the orders. They follow from it and from the count of steps, which checkpoints
            hold.
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

    def coefficients(self, gram, losses, active):
        order = self.order()
        self.steps.assign_add(1)
        return of_gram.pcgrad(gram, order)

    def order(self) -> tf.Tensor:
        """In which order each task meets all, in the next step: `[K, K]`, a permutation a row."""
        count = len(self.tasks)
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.steps)])
        return tf.argsort(tf.random.stateless_uniform([count, count], seed), axis=1)


@register("balancer", "mgda")
@keras.saving.register_keras_serializable(package="tfmtl")
class MGDA(Surgery):
    """Multiple-gradient descent: the shortest vector in the gradients' hull (NeurIPS 2018).

    Sener and Koltun's. The weights of the tasks that are there sum to their number, so that with
    one task there the step is the plain one.

    The shortest vector is mostly that of the task with the smallest gradient. Hence `normalize`,
    which is not in the paper but in the authors' code: the weights are then found among the
    gradients divided by it, and applied, as there, to the gradients as they are. That no task is
    made worse (to first order) is certain with `none` alone.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        normalize: What a task's gradient is divided by: `none`, its norm (`l2`), the task's loss
            (`loss`), or both (`loss+`).
        ub: Whether to look at the gradients with respect to the representation that all tasks
            read instead of the shared variables' (section 3.3), which is an upper bound. It takes
            one backward pass below the representation instead of one a task, and a backbone
            whose tasks read the same one, such as `shared_bottom`.
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

    def coefficients(self, gram, losses, active):
        by = tf.ones_like(gram[0])
        if self.normalize in ("l2", "loss+"):
            by *= tf.sqrt(tf.linalg.diag_part(gram))
        if self.normalize in ("loss", "loss+"):
            by *= tf.cast(losses, by.dtype)
        # A loss of zero with a gradient is none of ours; it counts as it is.
        by = tf.where(by > 0, by, tf.ones_like(by))
        weights = of_gram.min_norm(gram / (by[:, tf.newaxis] * by), active)
        return weights * tf.reduce_sum(tf.cast(active, weights.dtype))

    def gradients(self, step: Step) -> list[Gradient]:
        """As in every surgery, or by way of the representation."""
        return self._by_representation(step) if self.ub else super().gradients(step)

    def _by_representation(self, step: Step) -> list[Gradient]:
        read = list(step.losses.representations.values())
        if any(one is not read[0] for one in read):
            raise SpecError(
                "mgda: ub=True looks at the one representation that all tasks read, and here each "
                "task reads its own. Use ub=False, or a backbone such as 'shared_bottom'."
            )
        weight = self.plain_weight
        own = [tf.reshape(g, [-1]) for g in self._at(read[0], step)]
        flat = tf.stack(own)
        gram = tf.cast(tf.matmul(flat, flat, transpose_b=True), tf.float64)
        coefficients = self._settled(gram, step)
        # In a graph nothing but the private gradients of this is computed.
        tasks = TaskGradients(step, weight)
        gradients = list(tasks.private)
        shared = [part.place for part in tasks.shared]
        found = step.tape.gradient(
            step.losses.each,
            [step.variables[index] for index in shared],
            output_gradients=tf.unstack(weight * tf.cast(coefficients, tf.float32)),
        )
        for index, gradient in zip(shared, found, strict=True):
            gradients[index] = gradient
        return with_others(gradients, step)

    def _at(self, representation, step):
        for loss in step.losses.each:
            found = step.tape.gradient(
                loss, representation, output_gradients=tf.constant(self.plain_weight)
            )
            yield tf.zeros_like(representation) if found is None else found


@register("balancer", "cagrad")
@keras.saving.register_keras_serializable(package="tfmtl")
class CAGrad(Surgery):
    """Conflict-averse gradient descent (Liu et al., NeurIPS 2021).

    Near the plain gradient, the direction in which the task that gains least gains most. The dual
    problem over `K` weights is solved to the last digit, where the authors take some twenty steps.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        c: How far from the plain gradient, as a share of its norm; 0 is the plain step. At 1 and
            above it need not converge to a minimum of the plain loss.
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

    def coefficients(self, gram, losses, active):
        return of_gram.cagrad(gram, active, self.c)


def with_others(gradients: Sequence[Gradient], step: Step) -> list[Gradient]:
    """Adds the gradients of what is no task's: loss terms and weight decay."""
    if not step.losses.others:
        return list(gradients)
    others = step.tape.gradient(list(step.losses.others), step.variables)
    return [plus(g, other) for g, other in zip(gradients, others, strict=True)]
