"""Adaptation by gradient descent, and the exact gradient through it (Finn et al., ICML 2017).

The adapted weights are assigned to the model's own variables, and the former values are restored
afterwards. So this works for any layer, and table rows that a task does not look up do not change.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfmtl.balancing.base import Gradient
from tfmtl.model.optimizers import unique_rows

Loss: TypeAlias = Callable[[Any], tuple[tf.Tensor, Any]]
"""Maps rows to the loss to minimise, and any further output."""


@dataclasses.dataclass(frozen=True)
class Inner:
    """How weights adapt to a task's rows.

    Attributes:
        variables: The variables that adapt. The gradient of a table is taken by looked-up row.
        rate: Step size.
        steps: Steps of gradient descent, all on the same rows.
    """

    variables: Sequence[tf.Variable]
    rate: float
    steps: int = 1


class Adapted:
    """Weights that `descend` changes for a time and `restore` puts back.

    Args:
        inner: How weights adapt.
    """

    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        self._before: list[tuple[tf.Tensor | None, tf.Tensor] | None]
        self._before = [None] * len(inner.variables)

    def descend(self, gradients: Sequence[Gradient]) -> None:
        """Takes one step of gradient descent; a variable without a gradient stays."""
        rate = self.inner.rate
        for place, (variable, gradient) in enumerate(
            zip(self.inner.variables, gradients, strict=True)
        ):
            if gradient is None:
                continue
            if isinstance(gradient, tf.IndexedSlices):
                rows = unique_rows(gradient)
                if self._before[place] is None:
                    held = tf.gather(variable, rows.indices)
                    self._before[place] = (rows.indices, held)
                variable.scatter_sub(tf.IndexedSlices(rate * rows.values, rows.indices))
            else:
                if self._before[place] is None:
                    self._before[place] = (None, variable.read_value())
                variable.assign_sub(rate * gradient)

    def restore(self) -> None:
        """Restores the value of every variable before the first step, bit for bit."""
        for variable, before in zip(self.inner.variables, self._before, strict=True):
            if before is None:
                continue
            rows, held = before
            if rows is None:
                variable.assign(held)
            else:
                variable.scatter_update(tf.IndexedSlices(held, rows))


def adapt(loss: Loss, support: Any, inner: Inner) -> Adapted:
    """Adapts weights to rows; the caller restores them.

    Args:
        loss: The loss of rows.
        support: The rows.
        inner: Which variables adapt, and how.
    """
    adapted = Adapted(inner)
    for _ in range(inner.steps):
        with tf.GradientTape() as tape:
            value, _ = loss(support)
        adapted.descend(tape.gradient(value, inner.variables))
    return adapted


def meta_gradient(
    loss: Loss,
    support: Any,
    query: Any,
    inner: Inner,
    variables: Sequence[tf.Variable],
    *,
    second_order: bool = True,
) -> tuple[list[Gradient], tf.Tensor, Any]:
    """The gradient of the loss on one half of a task's rows after adaptation to the other half.

    With `θ' = θ − α ∇L_a(θ)` the gradient of `L_b(θ')` by `θ` is `g − α H_a g`, where `g` is that
    of `L_b` at `θ'` and `H_a` the Hessian of `L_a` at `θ`; several steps apply the factor
    `1 − α H_a` of each, last to first. `H_a g` is the gradient of `⟨∇L_a, g⟩` (Pearlmutter, 1994),
    on the same graph that adapted, with the same dropout masks; no Hessian is formed. First order
    stops at `g`. Variables that do not adapt get a gradient through `L_a` too.

    When this returns, the variables have their former values.

    Args:
        loss: The loss of rows.
        support: The rows of `L_a`, to which the weights adapt.
        query: The rows of `L_b`, after the adaptation.
        inner: Which variables adapt, and how.
        variables: The variables of the gradient, including the inner ones.
        second_order: As above.

    Returns:
        One gradient per variable (for a table `tf.IndexedSlices`, in which a row may occur several
        times), `L_b(θ')`, and the further output of `loss`.
    """
    place_of = {v.ref(): place for place, v in enumerate(variables)}
    places = [place_of[v.ref()] for v in inner.variables]
    adapted, steps = Adapted(inner), []
    for _ in range(inner.steps):
        with tf.GradientTape() as through:
            with tf.GradientTape() as tape:
                value, _ = loss(support)
            gradients = tape.gradient(value, inner.variables)
        steps.append((through, gradients))
        adapted.descend(gradients)
    with tf.GradientTape() as tape:
        value, further = loss(query)
    total = tape.gradient(value, list(variables))
    if second_order:
        for through, gradients in reversed(steps):
            along = [_along(g, total[at]) for g, at in zip(gradients, places, strict=True)]
            pairs = [
                (_values(g), v)
                for g, v in zip(gradients, along, strict=True)
                if g is not None and v is not None
            ]
            curvature = through.gradient(
                [g for g, _ in pairs], list(variables), output_gradients=[v for _, v in pairs]
            )
            total = [_less(t, inner.rate, h) for t, h in zip(total, curvature, strict=True)]
    adapted.restore()
    return total, value, further


def mean_meta_gradient(
    loss: Loss,
    tasks: tuple[Any, Any],
    inner: Inner,
    variables: Sequence[tf.Variable],
    *,
    length: int,
    second_order: bool = True,
) -> tuple[list[Gradient], tf.Tensor, tf.Tensor]:
    """The mean of `meta_gradient` over tasks, as one loop in the graph.

    For use within a `tf.function`. Its sums are as large as the dense variables and the looked-up
    rows of tables.

    Args:
        loss: The loss of rows, and a vector.
        tasks: Support and query; the first axis of every tensor of theirs is the task.
        inner: Which variables adapt, and how.
        variables: The variables of the gradient, including the inner ones.
        length: Length of the vector.
        second_order: As for `meta_gradient`.

    Returns:
        The gradients, and the means over tasks of `L_b(θ')` and of the vector. A variable that the
        loss does not read has no gradient.
    """
    count = tf.nest.flatten(tasks)[0].shape[0]
    plain = _plain_gradients(loss, tf.nest.map_structure(lambda t: t[0], tasks[0]), variables)

    def of_task(i, sums, value_sum, more_sum):
        support, query = tf.nest.map_structure(lambda t: t[i], tasks)
        gradients, value, more = meta_gradient(
            loss, support, query, inner, variables, second_order=second_order
        )
        sums = [_added(i, held, g) for held, g in zip(sums, gradients, strict=True)]
        return i + 1, sums, value_sum + value, more_sum + more

    kind = variables[-1].dtype
    start = (
        tf.constant(0),
        [_nothing(g, v, count) for g, v in zip(plain, variables, strict=True)],
        tf.zeros([], kind),
        tf.zeros([length], kind),
    )
    _, sums, value, more = tf.while_loop(
        lambda i, *_: i < count, of_task, start, parallel_iterations=1, maximum_iterations=count
    )
    share = 1.0 / count
    gradients = [
        None if g is None else _mean(held, v, share)
        for g, held, v in zip(plain, sums, variables, strict=True)
    ]
    return gradients, share * value, share * more


def _plain_gradients(loss: Loss, rows: Any, variables: Sequence[tf.Variable]) -> list[Gradient]:
    """Traces gradients only to see which exist and which are by row; computes nothing."""
    gradients: list[Gradient] = []

    def trace(rows):
        with tf.GradientTape() as tape:
            value, _ = loss(rows)
        gradients[:] = tape.gradient(value, list(variables))

    tf.function(trace, autograph=False).get_concrete_function(rows)
    return gradients


def _nothing(gradient: Gradient, variable: tf.Variable, count: int) -> Any:
    """The start value of the sum of a variable's gradients."""
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.zeros(variable.shape, variable.dtype)
    shape = [None, *variable.shape[1:]]
    return tuple(
        tf.TensorArray(part.dtype, count, infer_shape=False, element_shape=shape[: part.shape.rank])
        for part in (gradient.values, gradient.indices)
    )


def _added(i: tf.Tensor, held: Any, gradient: Gradient) -> Any:
    if gradient is None:
        return held
    if isinstance(held, tuple):
        values, rows = held
        return values.write(i, gradient.values), rows.write(i, gradient.indices)
    return held + gradient


def _mean(held: Any, variable: tf.Variable, share: float) -> Gradient:
    if not isinstance(held, tuple):
        return share * held
    values, rows = (array.concat() for array in held)
    return tf.IndexedSlices(share * values, rows, tf.constant(variable.shape.as_list(), tf.int64))


def _values(gradient: Gradient) -> Gradient:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _along(gradient: Gradient, direction: Gradient) -> Gradient:
    """A direction in the form of a gradient's values: by row if the gradient is by row."""
    if not isinstance(gradient, tf.IndexedSlices) or direction is None:
        return direction
    # Numbers the rows of both; rows that only the direction has are left out at the end.
    _, place = tf.unique(tf.concat([gradient.indices, direction.indices], axis=0))
    count = tf.shape(gradient.indices)[0]
    summed = tf.math.unsorted_segment_sum(direction.values, place[count:], tf.reduce_max(place) + 1)
    return tf.gather(summed, place[:count])


def _less(gradient: Gradient, rate: float, curvature: Gradient) -> Gradient:
    """`gradient − rate · curvature`."""
    if curvature is None:
        return gradient
    if isinstance(curvature, tf.IndexedSlices):
        values, rows = -rate * curvature.values, curvature.indices
        if gradient is not None:
            values = tf.concat([gradient.values, values], axis=0)
            rows = tf.concat([gradient.indices, rows], axis=0)
        return tf.IndexedSlices(values, rows, curvature.dense_shape)
    return -rate * curvature if gradient is None else gradient - rate * curvature
