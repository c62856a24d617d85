"""What every balancer is: the losses of the tasks in, one update's gradients out.

There are two shapes. Weights over losses make one loss of many, whose gradient then reaches
shared and private variables alike. Surgery makes one gradient of many, on shared variables alone.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.errors import SpecError

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | None


@dataclasses.dataclass(frozen=True)
class TaskLosses:
    """A batch's losses.

    Attributes:
        each: One scalar a trained task. Not stacked: a slice of a stack reaches every task.
        observed: `[K]`, boolean, whether the batch has a row on which the task is observed.
        others: Scalars that are no task's, added as they are: loss terms and weight decay.
        representations: `{task: [batch, width]}`, what the towers read.
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
        """The one loss: the balanced ones and all that is no task's."""
        total = balancer(self.stacked, self.observed)
        for other in self.others:
            total += other
        return total


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of training after its forward pass.

    Attributes:
        tape: Recorded the losses; persistent where the balancer asks for that.
        losses: The batch's losses.
        total: Their total.
        variables: What is trained; gradients are wanted in this order.
        last_shared: Variables of the last layer that all tasks read.
        own_blocks: By `ref()` of a variable made of a block a task, those tasks.
        logits: A variable of each task's logit, which tells the tasks that a loss reads.
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
        kinds: `binary` or `regression` for each task; may be empty where the method treats
            both alike.

    Raises:
        SpecError: There is no task, or `kinds` does not fit the tasks.
    """

    needs_shared = False
    """Whether the method works on what the tasks share, and so on nothing where they share none."""

    persistent = False
    """Whether `gradients` asks the tape more than once."""

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

    def check(self, backbone: keras.layers.Layer) -> None:
        """Refuses a backbone on which the method would do nothing.

        Args:
            backbone: A `Backbone`.

        Raises:
            SpecError: The method works on shared variables, and the tasks share none.
        """
        if self.needs_shared and not backbone.shares and len(self.tasks) > 1:
            raise SpecError(
                f"balancer {self.name!r} settles conflicts on what tasks share, and backbone "
                f"{backbone.name!r} shares nothing: each task has tables and layers of its own. "
                "Use balancer {'name': 'fixed'}, or a backbone that shares, such as 'mmoe'."
            )

    @classmethod
    def check_weighs(cls) -> None:
        """Refuses a method that does more than weigh losses, for training that needs one loss.

        Raises:
            SpecError: The method makes gradients of its own, or learns in a step of its own.
        """
        if cls.gradients is not Balancer.gradients:
            raise SpecError(
                f"meta-training takes the gradient of one balanced loss through the adaptation, "
                f"and balancer {cls.__name__} makes gradients, or learns, in a step of its own; "
                "use 'fixed' or 'uncertainty'."
            )

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

    def gradients(self, step: Step) -> list[Gradient]:
        """Returns the gradients of one update, in the order of `step.variables`.

        Called in training alone; a balancer whose state learns from batches does so here. By
        default they are the total's.
        """
        return step.tape.gradient(step.total, step.variables)

    def end_epoch(self) -> None:
        """Tells that an epoch of training is over; `EpochEnd` does, in `fit`."""

    def _observed_only(self, values: tf.Tensor, observed: tf.Tensor | None) -> tf.Tensor:
        if values.shape.rank != 1 or not values.shape.is_compatible_with([len(self.tasks)]):
            raise ValueError(
                f"losses must be one a task, [{len(self.tasks)}]; got {list(values.shape)}."
            )
        if observed is None:
            return values
        return tf.where(tf.cast(observed, tf.bool), values, tf.zeros_like(values))

    def _state(self, name: str, shape: Sequence[int], value: float = 0.0, dtype: str = "float32"):
        """Makes a variable that checkpoints hold and no optimizer trains."""
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
        kinds: `binary` or `regression` for each task.
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
        """What a loss is multiplied by where all tasks count alike."""
        return 1.0 / len(self.tasks) if self.reduction == "mean" else 1.0


def check_reduction(reduction: str) -> None:
    """Refuses what is neither a mean nor a sum over the tasks.

    Raises:
        SpecError: It is neither.
    """
    if reduction not in ("mean", "sum"):
        raise SpecError(f"reduction must be 'mean' or 'sum'; got {reduction!r}.")


class EpochEnd(keras.callbacks.Callback):
    """Tells the model's balancer that an epoch is over; `tfmtl.run.train` brings its own.

    For a `model.fit` of one's own, to be given before callbacks that write checkpoints.
    """

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Passes it on."""
        self.model.balancer.end_epoch()
