"""The base class of balancers: from the tasks' losses to the gradients of one update.

There are two kinds. Some weigh the losses: the gradient of the weighted sum reaches shared and
private variables alike. The others, called surgery, combine the tasks' gradients on shared
variables alone.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.errors import SpecError

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | None


@dataclasses.dataclass(frozen=True)
class TaskLosses:
    """The losses of a batch.

    Attributes:
        each: One scalar per trained task. They are not stacked, because the gradient of one slice
            of a stack would go through all tasks.
        observed: `[K]`, boolean, whether the batch has a row on which the task is observed.
        others: Scalars that belong to no task and are added with weight 1: loss terms and weight
            decay.
        representations: `{task: [batch, width]}`, the inputs of the towers.
    """

    each: Sequence[tf.Tensor]
    observed: tf.Tensor
    others: Sequence[tf.Tensor]
    representations: Mapping[str, tf.Tensor]

    @property
    def stacked(self) -> tf.Tensor:
        """The tasks' losses, `[K]`."""
        return tf.stack(self.each)

    def total(self, balancer: "Balancer") -> tf.Tensor:
        """The scalar to minimise: the balanced losses of the tasks plus `others`."""
        total = balancer(self.stacked, self.observed)
        for other in self.others:
            total += other
        return total


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step after its forward pass.

    Attributes:
        tape: The tape that recorded the losses; persistent if the balancer asks for that.
        losses: The batch's losses.
        total: Their total.
        variables: The trained variables; gradients are returned in this order.
        last_shared: Variables of the last layer that all tasks read.
        own_blocks: For a variable that consists of one block per task: its tasks, by `ref()` of
            the variable.
        logits: One variable of each task's logit; whether a loss has a gradient there tells
            whether it reads that task.
    """

    tape: tf.GradientTape
    losses: TaskLosses
    total: tf.Tensor
    variables: Sequence[tf.Variable]
    last_shared: Sequence[tf.Variable]
    own_blocks: Mapping[Any, Sequence[str]]
    logits: Mapping[str, tf.Variable]


class Balancer(Arguments, keras.layers.Layer, abc.ABC):
    """Maps losses `[K]` to the scalar to minimise.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: `binary` or `regression` per task; may be empty if the method treats both alike.

    Raises:
        SpecError: There is no task, or `kinds` does not fit the tasks.
    """

    needs_shared = False
    """Whether the method works on shared variables, so that it needs some."""

    persistent = False
    """Whether `gradients` uses the tape more than once."""

    def __init__(self, tasks: Sequence[str], kinds: Sequence[str] = (), **kwargs: Any) -> None:
        # Losses are float32 under a mixed-precision policy too.
        super().__init__(**{"dtype": "float32", **kwargs})
        if not tasks:
            raise SpecError("a balancer needs at least one task.")
        if kinds and len(kinds) != len(tasks):
            raise SpecError(f"kinds must be one per task: {len(tasks)} tasks, {len(kinds)} kinds.")
        for kind in kinds:
            if kind not in ("binary", "regression"):
                raise SpecError(f"a kind is 'binary' or 'regression'; got {kind!r}.")
        self.tasks = tuple(tasks)
        self.kinds = tuple(kinds)

    def check(self, backbone: keras.layers.Layer) -> None:
        """Refuses a backbone on which the method would do nothing.

        Args:
            backbone: A `Backbone`.

        Raises:
            SpecError: The method works on shared variables and the tasks share none.
        """
        if self.needs_shared and not backbone.shares and len(self.tasks) > 1:
            raise SpecError(
                f"balancer {self.name!r} settles conflicts on what tasks share, and backbone "
                f"{backbone.name!r} shares nothing: each task has tables and layers of its own. "
                "Use balancer {'name': 'fixed'}, or a backbone that shares, such as 'mmoe'."
            )

    @classmethod
    def check_weighs(cls) -> None:
        """Refuses a method that does more than weigh losses; for training that needs one loss.

        Raises:
            SpecError: The method computes its own gradients, or learns during the step.
        """
        changes_gradients = cls.gradients is not Balancer.gradients
        if changes_gradients or cls.after_update is not Balancer.after_update:
            raise SpecError(
                "meta-training takes the gradient of one balanced loss through the adaptation, and "
                f"balancer {cls.__name__} computes its own gradients or learns during the step; "
                "use 'fixed' or 'uncertainty'."
            )

    @abc.abstractmethod
    def call(self, losses: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the scalar to minimise.

        Args:
            losses: `[K]`, not negative.
            observed: `[K]`, boolean, whether the batch has a row on which the task is observed.
                A task without such a row adds nothing, and the balancer does not learn from it.
        """

    @abc.abstractmethod
    def weights_now(self) -> tf.Tensor:
        """Returns the present weights of the losses, `[K]`."""

    def gradients(self, step: Step) -> list[Gradient]:
        """Returns the gradients of one update, in the order of `step.variables`.

        Called in training only; a balancer that learns from batches does so here. By default
        these are the gradients of the total.
        """
        gradients: list[Gradient] = step.tape.gradient(step.total, step.variables)
        return gradients

    def after_update(self, losses_again: Callable[[], TaskLosses]) -> None:
        """Called in training after the optimizers have applied the gradients; by default nothing.

        Args:
            losses_again: Computes the losses of the same batch with the updated variables. This
                is one more forward pass, made only if the balancer calls it; see
                `tfmtl.model.losses_again`.
        """

    def end_epoch(self) -> None:
        """Called at the end of a training epoch, by the callback `EpochEnd`."""

    def _observed_only(self, values: tf.Tensor, observed: tf.Tensor | None) -> tf.Tensor:
        if values.shape.rank != 1 or not values.shape.is_compatible_with([len(self.tasks)]):
            raise ValueError(
                f"losses must be one per task, [{len(self.tasks)}]; got {list(values.shape)}."
            )
        if observed is None:
            return values
        return tf.where(tf.cast(observed, tf.bool), values, tf.zeros_like(values))

    def _state(
        self, name: str, shape: Sequence[int], value: float = 0.0, dtype: str = "float32"
    ) -> tf.Variable:
        """Makes a variable that is saved in checkpoints and that no optimizer trains."""
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
        )


class Reduced(Balancer):
    """A balancer whose weights average 1, over the mean or the sum of the losses.

    Args:
        tasks: Task names, in the order of the losses.
        kinds: `binary` or `regression` per task.
        reduction: `mean` or `sum` over the tasks. The mean is over all `K` tasks, observed or
            not, as in `fixed`.

    Raises:
        SpecError: The reduction is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, kinds, **kwargs)
        check_reduction(reduction)
        self.reduction = reduction

    @property
    def plain_weight(self) -> float:
        """The weight of a loss when all tasks count alike."""
        return 1.0 / len(self.tasks) if self.reduction == "mean" else 1.0


def check_reduction(reduction: str) -> None:
    """Refuses a reduction other than `mean` and `sum`.

    Raises:
        SpecError: It is neither.
    """
    if reduction not in ("mean", "sum"):
        raise SpecError(f"reduction must be 'mean' or 'sum'; got {reduction!r}.")


class EpochEnd(keras.callbacks.Callback):
    """Calls `end_epoch` of the model's balancer; `tfmtl.run.train` adds this callback itself.

    With your own `model.fit`, give it before callbacks that write checkpoints.
    """

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Calls the balancer."""
        self.model.balancer.end_epoch()
