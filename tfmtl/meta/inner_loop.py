"""Adaptation by gradient descent, and the exact gradient through it (Finn et al., ICML 2017).

A model's own variables hold the adapted weights for as long as they are needed, and then what they
held before: so it works for any layer, and what a task does not look up in a table is not touched.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfmtl.balancing.base import Gradient
from tfmtl.model.optimizers import unique_rows

Loss: TypeAlias = Callable[[Any], tuple[tf.Tensor, Any]]
"""Rows to the loss to minimise, and anything else worth knowing."""


@dataclasses.dataclass(frozen=True)
class Inner:
    """How weights adapt to a task's rows.

    Attributes:
        variables: What adapts. The gradient of a table that was looked up is taken by row.
        rate: Step size.
        steps: Steps of gradient descent, all on the same rows.
    """

    variables: Sequence[tf.Variable]
    rate: float
    steps: int = 1


class Adapted:
    """Weights on loan: moved by `descend`, put back by `restore`.

    Args:
        inner: How weights adapt.
    """

    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        self._before: list[tuple[tf.Tensor | None, tf.Tensor] | None]
        self._before = [None] * len(inner.variables)

    def descend(self, gradients: Sequence[Gradient]) -> None:
        """Takes one step down; a variable without a gradient stays."""
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
        """Gives every variable, bit for bit, what it held before the first step."""
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
        inner: What adapts, and how.
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
    """The gradient of the loss on one half of a task's rows after adapting to the other half.

    With `θ' = θ − α ∇L_a(θ)` the gradient of `L_b(θ')` by `θ` is `g − α H_a g`, where `g` is that
    of `L_b` at `θ'` and `H_a` the Hessian of `L_a` at `θ`; several steps apply the factor
    `1 − α H_a` of each, last to first. `H_a g` is the gradient of `⟨∇L_a, g⟩` (Pearlmutter, 1994),
    on the very graph that adapted, dropout's masks included; no Hessian is formed. First order
    stops at `g`. What does not adapt gets its share through `L_a` as well.

    The variables are as before when this returns.

    Args:
        loss: The loss of rows.
        support: The rows to adapt to, `L_a`'s.
        query: The rows that judge, `L_b`'s.
        inner: What adapts, and how.
        variables: What the gradient is of, the inner variables among them.
        second_order: As above.

    Returns:
        A gradient by variable (of a table that was looked up, `tf.IndexedSlices` in which a row
        may be named several times), `L_b(θ')`, and what `loss` says of it besides.
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
        value, found = loss(query)
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
    return total, value, found


def mean_meta_gradient(
    loss: Loss,
    tasks: tuple[Any, Any],
    inner: Inner,
    variables: Sequence[tf.Variable],
    *,
    length: int,
    second_order: bool = True,
) -> tuple[list[Gradient], tf.Tensor, tf.Tensor]:
    """The mean of `meta_gradient` over tasks, which one loop of the graph goes through.

    For use within a `tf.function`. What it adds up is as large as the variables that are read as a
    whole and the rows of those that are looked up.

    Args:
        loss: The loss of rows, and a vector.
        tasks: Support and query; the first axis of every tensor of theirs is the task.
        inner: What adapts, and how.
        variables: What the gradient is of, the inner variables among them.
        length: Of the vector.
        second_order: As for `meta_gradient`.

    Returns:
        The gradients, and the means over tasks of `L_b(θ')` and of what `loss` says besides. A
        variable that the loss does not read has no gradient.
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
    """Gradients to look at and not to compute with: which there are, and which are by row."""
    found: list[Gradient] = []

    def trace(rows):
        with tf.GradientTape() as tape:
            value, _ = loss(rows)
        found[:] = tape.gradient(value, list(variables))

    tf.function(trace, autograph=False).get_concrete_function(rows)
    return found


def _nothing(gradient: Gradient, variable: tf.Variable, count: int) -> Any:
    """What a variable's gradients are added to."""
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
    """A direction in the shape of a gradient's values: by row where that is by row."""
    if not isinstance(gradient, tf.IndexedSlices) or direction is None:
        return direction
    # Rows of both, numbered; a row of the direction that the gradient lacks is then left out.
    _, place = tf.unique(tf.concat([gradient.indices, direction.indices], axis=0))
    own = tf.shape(gradient.indices)[0]
    summed = tf.math.unsorted_segment_sum(direction.values, place[own:], tf.reduce_max(place) + 1)
    return tf.gather(summed, place[:own])


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
