"""Weights over losses: fixed, learnt as uncertainties, or by the fall of the losses per epoch.

`gradnorm` and `famo` have files of their own, and so have the methods that combine the tasks'
gradients instead, `surgery` and `nash_mtl`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.balancing.base import Balancer, Gradient, Reduced, Step, check_reduction
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.registry import register


@register("balancer", "fixed")
@keras.saving.register_keras_serializable(package="tfmtl")
class FixedWeights(Balancer):
    """`Σ w_k L_k`, or that divided by the number of tasks.

    The mean is over all `K` tasks, observed or not. Division by the number of observed tasks would
    make a task's step depend on which other tasks the batch observes.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        task_weights: Weight by task name, not negative; a task that is not named has weight 1.
        reduction: `mean` or `sum` over the tasks.

    Raises:
        SpecError: A weight is negative or names no task, or the reduction is unknown.

    Example:
        >>> balancer = FixedWeights(["ctr", "cvr"], task_weights={"cvr": 3.0})
        >>> float(balancer(tf.constant([1.0, 2.0])))
        3.5
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        task_weights: Mapping[str, float] | None = None,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, **kwargs)
        check_reduction(reduction)
        for task, weight in (task_weights or {}).items():
            if task not in self.tasks:
                raise SpecError(
                    f"task_weights names {task!r}; tasks are {list(self.tasks)}."
                    f"{did_you_mean(task, self.tasks)}"
                )
            if not 0 <= weight < float("inf"):
                raise SpecError(f"the weight of task {task!r} must be at least 0; got {weight}.")
        self.task_weights = dict(task_weights or {})
        self.reduction = reduction

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        losses = self._observed_only(losses, observed)
        return tf.reduce_sum(self.weights_now() * losses)

    def weights_now(self) -> tf.Tensor:
        count = len(self.tasks) if self.reduction == "mean" else 1
        weights = [self.task_weights.get(task, 1.0) / count for task in self.tasks]
        return tf.constant(weights, self.compute_dtype)


class _Within(Arguments, keras.constraints.Constraint):
    """Clips a variable to `[low, high]` after each step.

    With clipping inside the loss instead, a value outside would have no gradient and would stay.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(w, self.low, self.high)


@register("balancer", "uncertainty")
@keras.saving.register_keras_serializable(package="tfmtl")
class Uncertainty(Balancer):
    """Weights by learnt task uncertainty `s = log σ²` (Kendall et al., CVPR 2018).

    The total is `Σ a_k e^{-s_k} L_k + s_k / 2`, with `a = 1/2` for regression (eq. 7) and 1 for
    classification (eq. 10), so that `e^s` converges to `L` and to `2 L`. Each `s` starts at 0, is
    trained with the model and stays within `[-10, 10]` (our choice). It may be negative: a rare
    conversion has a loss far below 1, and with `s` at least 0 it could not get a larger weight.

    The total may be negative. `positive` uses `log(1 + e^s)` instead of `s / 2` (Liebel and Körner,
    2018), which keeps the total positive and gives small losses less weight.

    The `s` of a task without an observed row has no gradient; an optimizer with momentum still
    moves it.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: `binary` or `regression` per task; may be empty for `paper_eq3`.
        form: `kendall`, or `paper_eq3` for `a = 1/2` with every kind (Luo et al., 2022, eq. 3),
            so that `e^s` converges to `L` and the weight to `1 / (2 L)`, unless `positive`.
        positive: Whether to keep the total positive.

    Raises:
        SpecError: The form is unknown, or `kendall` lacks the kinds.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        form: str = "kendall",
        positive: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, **kwargs)
        if form not in ("kendall", "paper_eq3"):
            raise SpecError(f"form must be 'kendall' or 'paper_eq3'; got {form!r}.")
        if form == "kendall" and not kinds:
            raise SpecError("form 'kendall' needs kinds: regression and binary tasks differ.")
        self.form = form
        self.positive = positive
        halved = [form == "paper_eq3" or kind == "regression" for kind in kinds or tasks]
        self._factors = tuple(0.5 if half else 1.0 for half in halved)
        self.log_variance = self.add_weight(
            "log_variance",
            shape=[len(self.tasks)],
            initializer="zeros",
            constraint=_Within(-10.0, 10.0),
        )

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        losses = self._observed_only(losses, observed)
        s = tf.convert_to_tensor(self.log_variance)
        penalty = tf.nn.softplus(s) if self.positive else 0.5 * s
        terms = self.weights_now() * losses + penalty
        return tf.reduce_sum(self._observed_only(terms, observed))

    def weights_now(self) -> tf.Tensor:
        return tf.constant(self._factors, self.compute_dtype) * tf.exp(-self.log_variance)


@register("balancer", "dwa")
@keras.saving.register_keras_serializable(package="tfmtl")
class DWA(Reduced):
    """Dynamic weight average: more weight for losses that fall least (Liu et al., CVPR 2019).

    In epoch `t` (eq. 7), `λ_k = K softmax_k(r_k / T)` with `r_k = L_k(t−1) / L_k(t−2)`, the ratio
    of the mean training losses of the last two epochs, or 1 before there are two. A task that an
    epoch did not observe keeps its ratio.

    The sums of an epoch's losses are variables, so that a run that is resumed within an epoch gets
    the same weights as one that was not stopped. Training with `model.fit` instead of
    `tfmtl.run.train` needs the callback `EpochEnd`; without it the weights stay at 1.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        temperature: `T`; a higher one makes the weights more equal. The paper's value is 2.
        reduction: `mean` or `sum` over the tasks of the weighted losses.

    Raises:
        SpecError: The temperature is not positive.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        temperature: float = 2.0,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, reduction=reduction, **kwargs)
        if not 0 < temperature < float("inf"):
            raise SpecError(f"dwa: temperature={temperature} must be above 0; the paper's is 2.")
        self.temperature = temperature
        count = [len(self.tasks)]
        # In float64, because an epoch may have a million steps.
        self.sums = self._state("sums", count, dtype="float64")
        self.batches = self._state("batches", count, dtype="float64")
        # NaN before there was an epoch.
        self.last = self._state("last_epoch", count, float("nan"))
        self.before = self._state("epoch_before", count, float("nan"))

    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        return tf.reduce_sum(self.weights_now() * self._observed_only(losses, observed))

    def weights_now(self) -> tf.Tensor:
        ratios = self.last / self.before
        ratios = tf.where(tf.math.is_finite(ratios), ratios, tf.ones_like(ratios))
        return self.plain_weight * len(self.tasks) * tf.nn.softmax(ratios / self.temperature)

    def gradients(self, step: Step) -> list[Gradient]:
        """The gradients of the total; the batch's losses are added to the epoch's sums."""
        observed = step.losses.observed
        losses = self._observed_only(step.losses.stacked, observed)
        self.sums.assign_add(tf.cast(losses, self.sums.dtype))
        self.batches.assign_add(tf.cast(observed, self.batches.dtype))
        return super().gradients(step)

    def end_epoch(self) -> None:
        """Updates the ratios with the epoch's mean losses, and resets the sums."""
        batches = self.batches.numpy()
        seen = batches > 0
        means = self.sums.numpy() / np.maximum(batches, 1.0)
        last = self.last.numpy()
        self.before.assign(np.where(seen, last, self.before.numpy()))
        self.last.assign(np.where(seen, means, last))
        self.sums.assign(np.zeros_like(batches))
        self.batches.assign(np.zeros_like(batches))
