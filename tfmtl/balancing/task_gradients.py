"""Each task's own gradient, and which part of it lies on variables that tasks share.

A variable is shared where the losses of two tasks reach it, by the graph and not by the values: a
row of a table that only one task's rows look up is shared all the same. A variable that holds a
block for each task side by side (the gates of MMoE, one product for all) is split into its blocks.

Tables are never made dense. A table's gradients are those of the looked-up rows, summed where a
row occurs twice, over the union of the tasks' rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfmtl.balancing.base import Gradient, Step
from tfmtl.errors import SpecError


class Shared(NamedTuple):
    """The tasks' gradients of one variable that at least two of them reach.

    Attributes:
        place: The variable's place in `Step.variables`.
        stack: `[K, blocks, n]`: by task, with zeros where a task does not reach the variable.
        blocks: Whether a block is shared; one block where a variable is not split.
        like: What the update has the form of: the variable, or slices of its looked-up rows.
    """

    place: int
    stack: tf.Tensor
    blocks: tuple[bool, ...]
    like: tf.Variable | tf.IndexedSlices


class TaskGradients:
    """The gradients of `weight · L_k`, task by task, taken from a persistent tape.

    Args:
        step: The step, after its forward pass.
        weight: What every loss is multiplied by.
        targets: Variables to look at; all of the step's by default.

    Attributes:
        shared: What at least two tasks reach.
        private: By place in `targets`, the gradient of the one task that reaches a variable;
            `None` for no task, and for what is shared.

    Raises:
        SpecError: There are several tasks, and no variable is shared.
    """

    def __init__(
        self, step: Step, weight: float = 1.0, targets: Sequence[tf.Variable] | None = None
    ) -> None:
        variables = list(step.variables if targets is None else targets)
        logits = list(step.logits.values()) if step.own_blocks else []
        start = tf.constant(weight)
        # None for a variable that a loss does not reach, whatever the batch holds.
        by_task = [
            step.tape.gradient(loss, variables + logits, output_gradients=start)
            for loss in step.losses.each
        ]
        reads = [
            {t for t, g in zip(step.logits, found[len(variables) :], strict=False) if g is not None}
            for found in by_task
        ]
        self.step, self.weight = step, weight
        self.variables = variables
        self.count = len(by_task)
        self.shared: list[Shared] = []
        self.private: list[Gradient] = []
        for index, variable in enumerate(variables):
            found = [gradients[index] for gradients in by_task]
            there = [g for g in found if g is not None]
            owners = step.own_blocks.get(variable.ref())
            if owners is None:
                blocks: tuple[bool, ...] = (len(there) > 1,)
            else:
                blocks = tuple(sum(owner in read for read in reads) > 1 for owner in owners)
            if any(blocks):
                self.shared.append(_shared(index, variable, found, blocks))
                self.private.append(None)
            else:
                # Where several tasks have one, each is zero but in its own block.
                self.private.append(plus(*there))
        if not self.shared and self.count > 1:
            raise SpecError(
                "no variable is reached by two tasks' losses, so there is no conflict to settle "
                "and no cosine to log. Use a backbone that shares, such as 'mmoe'."
            )

    def gram(self) -> tf.Tensor:
        """Inner products of the tasks' flat gradients on all that is shared, float64 `[K, K]`."""
        total = tf.zeros([self.count, self.count], tf.float64)
        for part in self.shared:
            stack = part.stack
            if not all(part.blocks):
                kept = [place for place, shared in enumerate(part.blocks) if shared]
                stack = tf.gather(stack, kept, axis=1)
            flat = tf.reshape(stack, [self.count, -1])
            total += tf.cast(tf.matmul(flat, flat, transpose_b=True), tf.float64)
        return total

    def combined(self, coefficients: tf.Tensor) -> list[Gradient]:
        """One gradient a variable: `Σ c_k g_k` where tasks share, and as it is where not.

        Args:
            coefficients: `[K]`.
        """
        gradients = list(self.private)
        weights = tf.cast(coefficients, tf.float32)
        for part in self.shared:
            if all(part.blocks):
                flat = tf.reshape(part.stack, [self.count, -1])
                found = tf.linalg.matvec(flat, weights, transpose_a=True)
            else:
                shared = tf.constant(part.blocks)
                by_block = tf.where(shared[:, tf.newaxis], weights, tf.ones_like(weights))
                found = tf.einsum("bk,kbn->bn", by_block, part.stack)
            if isinstance(part.like, tf.IndexedSlices):
                rows = tf.IndexedSlices(
                    tf.reshape(found, tf.shape(part.like.values)),
                    part.like.indices,
                    part.like.dense_shape,
                )
                gradients[part.place] = rows
            else:
                gradients[part.place] = tf.reshape(found, part.like.shape)
        return gradients

    def combined_in_one_pass(self, coefficients: tf.Tensor) -> list[Gradient]:
        """As `combined`, with one backward pass through what tasks share instead of one per task.

        In a graph, a task's own backward pass is then computed for private variables alone, which
        mostly lie above the shared ones.

        Args:
            coefficients: `[K]`.
        """
        gradients = self.combined(coefficients)
        # A variable with private blocks needs each task's gradient.
        places = [part.place for part in self.shared if all(part.blocks)]
        shared = self.step.tape.gradient(
            list(self.step.losses.each),
            [self.variables[place] for place in places],
            output_gradients=tf.unstack(self.weight * tf.cast(coefficients, tf.float32)),
        )
        for place, gradient in zip(places, shared, strict=True):
            gradients[place] = gradient
        return gradients


def plus(*gradients: Gradient) -> Gradient:
    """The sum of a variable's gradients, sparse where all of them are.

    Args:
        *gradients: Of one variable; `None` adds nothing.

    Example:
        >>> rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([3, 2]))
        >>> plus(rows, None, rows).indices.numpy().tolist()
        [1, 1]
    """
    there = [g for g in gradients if g is not None]
    if len(there) < 2:
        return there[0] if there else None
    if all(isinstance(g, tf.IndexedSlices) for g in there):
        return tf.IndexedSlices(
            tf.concat([g.values for g in there], axis=0),
            tf.concat([tf.cast(g.indices, there[0].indices.dtype) for g in there], axis=0),
            there[0].dense_shape,
        )
    return tf.add_n([tf.convert_to_tensor(g) for g in there])


def squared_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """The squared norm of a task's gradients, with slices of one row summed before."""
    total = tf.zeros([])
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            total += tf.reduce_sum(tf.square(_on_union([gradient])[1]))
        elif gradient is not None:
            total += tf.reduce_sum(tf.square(gradient))
    return total


def _shared(index, variable, found, blocks) -> Shared:
    there = [g for g in found if g is not None]
    like: tf.Variable | tf.IndexedSlices = variable
    if all(isinstance(g, tf.IndexedSlices) for g in there):
        rows, *values = _on_union(there)
        like = tf.IndexedSlices(values[0], rows, there[0].dense_shape)
    else:
        values = [tf.convert_to_tensor(g) for g in there]
    zeros = tf.zeros_like(values[0])
    left = iter(values)
    full = [zeros if g is None else next(left) for g in found]
    # Blocks lie one after the other along the first axis, of kernels and of flat biases alike.
    stack = tf.stack([tf.reshape(g, [len(blocks), -1]) for g in full])
    return Shared(index, stack, blocks, like)


def _on_union(slices: Sequence[tf.IndexedSlices]) -> list[tf.Tensor]:
    """The distinct rows of all slices, and the values of each on those, duplicates summed."""
    kind = slices[0].indices.dtype
    rows, position = tf.unique(tf.concat([tf.cast(s.indices, kind) for s in slices], axis=0))
    sizes = [tf.size(s.indices) for s in slices]
    places = tf.split(position, tf.stack(sizes), num=len(sizes))
    return [
        rows,
        *(
            tf.math.unsorted_segment_sum(s.values, place, tf.size(rows))
            for s, place in zip(slices, places, strict=True)
        ),
    ]
