"""Loss balancing: how much each task's loss counts in the one that is minimised.

A balancer of this file maps the losses of `K` tasks to a scalar, whose gradient then reaches
shared and private variables alike. Methods that change the tasks' gradients on shared
variables instead are a second shape, not a case of this one.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.registry import register


class Balancer(keras.layers.Layer, abc.ABC):
    """Maps losses `[K]` to the scalar to minimise.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: `binary` or `regression` for each task; may be empty where the method treats
            both alike.

    Raises:
        SpecError: There is no task, or `kinds` does not fit the tasks.
    """

    def __init__(self, tasks: Sequence[str], kinds: Sequence[str] = (), **kwargs: Any) -> None:
        # Losses are float32 under a mixed-precision policy too.
        super().__init__(**{"dtype": "float32", **kwargs})
        if not tasks:
            raise SpecError("a balancer needs at least one task.")
        if kinds and len(kinds) != len(tasks):
            raise SpecError(f"kinds must be one a task: {len(tasks)} tasks, {len(kinds)} kinds.")
        for kind in kinds:
            if kind not in ("binary", "regression"):
                raise SpecError(f"a kind is 'binary' or 'regression'; got {kind!r}.")
        self.tasks = tuple(tasks)
        self.kinds = tuple(kinds)

    @abc.abstractmethod
    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the scalar to minimise.

        Args:
            losses: `[K]`, not negative.
            observed: `[K]`, boolean, whether the batch has a row on which the task is observed.
                A task without one adds nothing, and no state of the balancer learns from it.
        """

    @abc.abstractmethod
    def weights_now(self) -> tf.Tensor:
        """Returns what each loss is multiplied by at present, `[K]`."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "tasks": list(self.tasks), "kinds": list(self.kinds)}

    def _observed_only(self, values: tf.Tensor, observed: tf.Tensor | None) -> tf.Tensor:
        if values.shape.rank != 1 or not values.shape.is_compatible_with([len(self.tasks)]):
            raise ValueError(
                f"losses must be one a task, [{len(self.tasks)}]; got {list(values.shape)}."
            )
        if observed is None:
            return values
        return tf.where(tf.cast(observed, tf.bool), values, tf.zeros_like(values))


@register("balancer", "fixed")
@keras.saving.register_keras_serializable(package="tfmtl")
class FixedWeights(Balancer):
    """`Σ w_k L_k`, or that over the number of tasks.

    The mean is over all `K` tasks, observed or not: dividing by the observed ones would make
    a task's step depend on which others the batch happens to hold.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: Not used.
        task_weights: Weight by task name, not negative; a task left out weighs 1.
        reduction: `mean` or `sum` over the tasks.

    Raises:
        SpecError: A weight is negative or of no task, or the reduction is unknown.

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
        if reduction not in ("mean", "sum"):
            raise SpecError(f"reduction must be 'mean' or 'sum'; got {reduction!r}.")
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

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"task_weights": dict(self.task_weights), "reduction": self.reduction}
        return {**super().get_config(), **own}


class _Within(keras.constraints.Constraint):
    """Puts a variable back into `[low, high]` after each step.

    Clipping inside the loss instead would leave a value beyond the border without a gradient
    to return by.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(w, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


@register("balancer", "uncertainty")
@keras.saving.register_keras_serializable(package="tfmtl")
class Uncertainty(Balancer):
    """Weights by learnt task uncertainty `s = log σ²` (Kendall et al., CVPR 2018).

    `Σ a_k e^{-s_k} L_k + s_k / 2`, with `a = 1/2` for regression (eq. 7) and 1 for
    classification (eq. 10), so that `e^s` settles at `L` and at `2 L`. Each `s` starts at 0,
    is trained with the model and stays within `[-10, 10]` (our choice). It may go below 0: a
    rare conversion has a loss far below 1, and holding `s` at 0 would deny it the weight.

    The total may be negative. `positive` takes `log(1 + e^s)` for `s / 2` (Liebel and Körner,
    2018), which keeps it positive and weights small losses up less.

    A task not observed has no gradient to its `s`; an optimizer with momentum still coasts.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: `binary` or `regression` for each task; may be empty for `paper_eq3`.
        form: `kendall`, or `paper_eq3` for `a = 1/2` whatever the kind.
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

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "form": self.form, "positive": self.positive}
