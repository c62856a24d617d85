"""Adam and Adagrad for embedding tables, updating only the looked-up rows.

The gradient of a lookup is `tf.IndexedSlices`. Keras' Adam decays the moments of every row
of the table at each step, so that the cost of a step grows with the vocabulary. The optimizers
here read and write only the rows of the batch. In all other respects they are those of Keras: a
dense gradient takes the inherited path, and slots have the same names, shapes and checkpoint
layout.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.model.adam import Adam
from tfmtl.registry import register


def unique_rows(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sums the slices that name the same row, so that every row is named once.

    Args:
        slices: `values` of `[n, ...]` for the rows `indices` of `[n]`, in which a row may
            occur any number of times, as in the gradient of a lookup.

    Returns:
        `values` of `[u, ...]` for `u <= n` distinct `indices`, in the order of their first
        occurrence; `dense_shape` is that of `slices`. Both are the same dense tensor.

    Raises:
        TypeError: `slices` is a dense tensor.
    """
    if not isinstance(slices, tf.IndexedSlices):
        raise TypeError(
            f"unique_rows takes tf.IndexedSlices, the gradient of a lookup; got {slices!r}. "
            "A dense gradient already has every row once."
        )
    rows, position = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, slices.dense_shape)


class _UniqueRows:
    """Makes a Keras optimizer sum duplicate rows before it clips, instead of afterwards.

    Keras clips the raw slices. Where an id occurs twice in a batch their norm is not that of the
    gradient. Summing first gives the norm of the dense gradient without building it, and leaves
    no duplicates for later.
    """

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        grads = [unique_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]
        clipped: Sequence[Any] = super()._clip_gradients(grads)  # type: ignore[misc]
        return clipped

    def _deduplicate_sparse_grad(self, grads: Sequence[Any]) -> Sequence[Any]:
        return grads


@register("optimizer", "rowwise_adam")
@keras.saving.register_keras_serializable(package="tfmtl")
class RowwiseAdam(_UniqueRows, Adam):
    """Adam (Kingma and Ba, ICLR 2015) on the rows that a batch looked up.

    For a row that is in every batch this is Adam. A row that a batch did not look up keeps its
    value and both moments bit for bit until it is looked up again; Adam would decay the moments
    and move the row by its momentum in between.

    The bias correction counts the steps of the optimizer, not those of the row (as "lazy
    Adam" does; our choice): a counter per row would be one more slot. A row first
    seen after many steps therefore moves by up to `(1 - beta_1) / sqrt(1 - beta_2)` learning
    rates, 3.2 with the defaults, instead of one.

    A dense gradient is treated exactly as by `keras.optimizers.Adam`. Weight decay and
    averaged weights are not offered, since both would visit every row; so would a
    `constraint` on the variable, which Keras applies after each step.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Decay of the first moment, a float in `[0, 1)`.
        beta_2: Decay of the second moment, a float in `[0, 1)`.
        epsilon: Added to the root of the second moment; the paper's epsilon hat.
        clipnorm: Largest norm of the gradient of one variable.
        clipvalue: Largest magnitude of one gradient value, after duplicates are summed.
        global_clipnorm: Largest norm of all gradients together.
        name: Name of the optimizer.

    Raises:
        ValueError: A decay is outside `[0, 1)`, `epsilon` is not positive, or `clipnorm`
            and `global_clipnorm` are both given.

    Example:
        >>> table = tf.Variable(tf.ones([3, 2]))
        >>> step = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([3, 2]))
        >>> _ = RowwiseAdam(learning_rate=0.5).apply_gradients([(step, table)])
        >>> table.numpy().round(3).tolist()
        [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    """

    def __init__(
        self,
        *,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "rowwise_adam",
    ) -> None:
        for argument, decay in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0.0 <= decay < 1.0:
                raise ValueError(f"{argument} is a decay in [0, 1); got {decay}.")
        if epsilon <= 0.0:
            raise ValueError(f"epsilon must be positive; got {epsilon}. Adam's is 1e-7.")
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            # XLA would compile again for every number of distinct rows.
            jit_compile=False,
            name=name,
        )

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Applies one gradient; the rows of `tf.IndexedSlices` are distinct by now."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        first, second = self._momentums[index], self._velocities[index]
        rows, g = gradient.indices, gradient.values
        m, v = tf.gather(first, rows), tf.gather(second, rows)
        m += (g - m) * (1 - self.beta_1)
        v += (tf.square(g) - v) * (1 - self.beta_2)

        step = tf.cast(self.iterations + 1, variable.dtype)
        unbias_1 = 1 - tf.pow(tf.cast(self.beta_1, variable.dtype), step)
        unbias_2 = 1 - tf.pow(tf.cast(self.beta_2, variable.dtype), step)
        rate = tf.cast(self.learning_rate, variable.dtype) * tf.sqrt(unbias_2) / unbias_1
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_sub(tf.IndexedSlices(m * rate / (tf.sqrt(v) + self.epsilon), rows))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return _arguments(super().get_config(), ("beta_1", "beta_2", "epsilon"))


@register("optimizer", "rowwise_adagrad")
@keras.saving.register_keras_serializable(package="tfmtl")
class RowwiseAdagrad(_UniqueRows, keras.optimizers.Adagrad):
    """Adagrad (Duchi et al., JMLR 2011) on the rows that a batch looked up.

    A row without a gradient does not move under Adagrad, so this is Adagrad on every row,
    whichever rows a batch looks up. One accumulator per value is kept, not one per row.
    Keras' update already visits only those rows and is inherited; here duplicates are summed
    before clipping, and arguments that would visit every row are not accepted.

    Weight decay and averaged weights are therefore missing; a `constraint` on the variable,
    which Keras applies after each step, would visit every row as well.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        initial_accumulator_value: Start of the sums of squares, a float not below 0.
        epsilon: Added to the sum of squares under the root.
        clipnorm: Largest norm of the gradient of one variable.
        clipvalue: Largest magnitude of one gradient value, after duplicates are summed.
        global_clipnorm: Largest norm of all gradients together.
        name: Name of the optimizer.

    Raises:
        ValueError: `initial_accumulator_value` is negative, `epsilon` is not positive, or
            `clipnorm` and `global_clipnorm` are both given.

    Example:
        >>> table = tf.Variable(tf.ones([3, 2]))
        >>> step = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([3, 2]))
        >>> optimizer = RowwiseAdagrad(learning_rate=0.5, initial_accumulator_value=0.0)
        >>> _ = optimizer.apply_gradients([(step, table)])
        >>> table.numpy().round(3).tolist()
        [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    """

    def __init__(
        self,
        *,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "rowwise_adagrad",
    ) -> None:
        if initial_accumulator_value < 0.0:
            raise ValueError(
                "initial_accumulator_value starts a sum of squares and is not below 0; "
                f"got {initial_accumulator_value}."
            )
        if epsilon <= 0.0:
            raise ValueError(f"epsilon must be positive; got {epsilon}. Adagrad's is 1e-7.")
        super().__init__(
            learning_rate=learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            # XLA would compile again for every number of distinct rows.
            jit_compile=False,
            name=name,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return _arguments(super().get_config(), ("initial_accumulator_value", "epsilon"))


def _arguments(config: dict[str, Any], particular: Sequence[str]) -> dict[str, Any]:
    """Keras' configuration without what the constructors here do not accept."""
    shared = ("name", "learning_rate", "clipnorm", "clipvalue", "global_clipnorm")
    return {key: config[key] for key in (*shared, *particular)}


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, pairs: Sequence[tuple[Any, tf.Variable]]
) -> tf.Tensor:
    """Applies gradients, summed over the replicas where there are several.

    Keras sums them even where there is one replica, by a function with a gradient of its own
    (`tf.custom_gradient`). TensorFlow registers such a gradient under a new name in every trace,
    for the life of the process, and with it the graph of the whole training step: 26 MB for each
    call of `train` on a small problem.

    Args:
        optimizer: Any.
        pairs: Gradients, none of which is `None`, and their variables.

    Returns:
        The optimizer's number of steps.
    """
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return optimizer.apply_gradients(pairs, experimental_aggregate_gradients=several)


def rate_of(
    optimizer: keras.optimizers.Optimizer,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate: the schedule itself where there is one, else the value now."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    return float(optimizer.learning_rate.numpy())


def rowwise(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Replaces Adam by `RowwiseAdam`, which does not move scenes without a gradient.

    Args:
        optimizer: Any; one that is not Adam is returned as it is. Adam must not have been used yet:
            its moments are lost.

    Raises:
        ValueError: It is an Adam with a setting that a row-wise one does not have.
    """
    if type(optimizer) not in (keras.optimizers.Adam, Adam):
        return optimizer
    config = optimizer.get_config()
    for setting in ("amsgrad", "use_ema", "weight_decay"):
        if config.get(setting):
            raise ValueError(
                f"optimizer: Adam({setting}={config[setting]}) visits scenes that have no rows in "
                "a batch. Leave it out, or give an optimizer other than Adam."
            )
    kept = ("beta_1", "beta_2", "epsilon", "clipnorm", "clipvalue", "global_clipnorm")
    return RowwiseAdam(learning_rate=rate_of(optimizer), **{name: config[name] for name in kept})
