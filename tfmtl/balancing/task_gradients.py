"""The gradient of each task, and which part of it is on variables that tasks share.

A variable is shared if the losses of two tasks reach it. The graph decides, not the values: a row
of a table that only one task's rows look up is shared too. A variable that holds one block per task
(the gates of MMoE, one product for all) is split into its blocks.

Tables are never made dense. The gradients of a table are those of the looked-up rows, summed if a
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
        place: The variable's index in `Step.variables`.
        stack: `[K, blocks, n]`: one gradient per task, zeros for a task that does not reach the
            variable.
        blocks: Per block, whether it is shared; one block if the variable is not split.
        like: Has the form of the update: the variable, or slices of its looked-up rows.
    """

    place: int
    stack: tf.Tensor
    blocks: tuple[bool, ...]
    like: tf.Variable | tf.IndexedSlices


class TaskGradients:
    """The gradients of `weight · L_k` per task, taken from a persistent tape.

    Args:
        step: The step, after its forward pass.
        weight: The factor of every loss.
        targets: The variables; all of the step's by default.

    Attributes:
        shared: The variables that at least two tasks reach.
        private: By index in `targets`, the gradient of the one task that reaches a variable;
            `None` if no task does, and for shared variables.

    Raises:
        SpecError: There are several tasks and no variable is shared.
    """

    def __init__(
        self, step: Step, weight: float = 1.0, targets: Sequence[tf.Variable] | None = None
    ) -> None:
        variables = list(step.variables if targets is None else targets)
        logits = list(step.logits.values()) if step.own_blocks else []
        start = tf.constant(weight)
        # None means that the loss does not reach the variable, whatever the batch holds.
        by_task = [
            step.tape.gradient(loss, variables + logits, output_gradients=start)
            for loss in step.losses.each
        ]
        reads = [
            {t for t, g in zip(step.logits, by_logit, strict=False) if g is not None}
            for by_logit in (gradients[len(variables) :] for gradients in by_task)
        ]
        self.step, self.weight = step, weight
        self.variables = variables
        self.count = len(by_task)
        self.shared: list[Shared] = []
        self.private: list[Gradient] = []
        for index, variable in enumerate(variables):
            of_variable = [gradients[index] for gradients in by_task]
            present = [g for g in of_variable if g is not None]
            owners = step.own_blocks.get(variable.ref())
            if owners is None:
                blocks: tuple[bool, ...] = (len(present) > 1,)
            else:
                blocks = tuple(sum(owner in read for read in reads) > 1 for owner in owners)
            if any(blocks):
                self.shared.append(_shared(index, variable, of_variable, blocks))
                self.private.append(None)
            else:
                # If several tasks have a gradient, each is zero outside its block.
                self.private.append(plus(*present))
        if not self.shared and self.count > 1:
            raise SpecError(
                "no variable is reached by two tasks' losses, so there is no conflict to settle "
                "and no cosine to log. Use a backbone that shares, such as 'mmoe'."
            )

    def gram(self) -> tf.Tensor:
        """Inner products of the tasks' flat gradients on shared variables, float64 `[K, K]`."""
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
        """One gradient per variable: `Σ c_k g_k` if it is shared, unchanged if it is private.

        Args:
            coefficients: `[K]`.
        """
        gradients = list(self.private)
        weights = tf.cast(coefficients, tf.float32)
        for part in self.shared:
            if all(part.blocks):
                flat = tf.reshape(part.stack, [self.count, -1])
                total = tf.linalg.matvec(flat, weights, transpose_a=True)
            else:
                shared = tf.constant(part.blocks)
                by_block = tf.where(shared[:, tf.newaxis], weights, tf.ones_like(weights))
                total = tf.einsum("bk,kbn->bn", by_block, part.stack)
            if isinstance(part.like, tf.IndexedSlices):
                rows = tf.IndexedSlices(
                    tf.reshape(total, tf.shape(part.like.values)),
                    part.like.indices,
                    part.like.dense_shape,
                )
                gradients[part.place] = rows
            else:
                gradients[part.place] = tf.reshape(total, part.like.shape)
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
    """The sum of a variable's gradients, sparse if all of them are.

    Args:
        *gradients: Gradients of one variable; `None` adds nothing.

    Example:
        >>> rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([3, 2]))
        >>> plus(rows, None, rows).indices.numpy().tolist()
        [1, 1]
    """
    present = [g for g in gradients if g is not None]
    if len(present) < 2:
        return present[0] if present else None
    if all(isinstance(g, tf.IndexedSlices) for g in present):
        return tf.IndexedSlices(
            tf.concat([g.values for g in present], axis=0),
            tf.concat([tf.cast(g.indices, present[0].indices.dtype) for g in present], axis=0),
            present[0].dense_shape,
        )
    return tf.add_n([tf.convert_to_tensor(g) for g in present])


def squared_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """The squared norm of a task's gradients; slices of the same row are summed first."""
    total = tf.zeros([])
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            total += tf.reduce_sum(tf.square(_on_union([gradient])[1]))
        elif gradient is not None:
            total += tf.reduce_sum(tf.square(gradient))
    return total


def _shared(
    index: int, variable: tf.Variable, gradients: Sequence[Gradient], blocks: tuple[bool, ...]
) -> Shared:
    present = [g for g in gradients if g is not None]
    like: tf.Variable | tf.IndexedSlices = variable
    if all(isinstance(g, tf.IndexedSlices) for g in present):
        rows, *values = _on_union(present)
        like = tf.IndexedSlices(values[0], rows, present[0].dense_shape)
    else:
        values = [tf.convert_to_tensor(g) for g in present]
    zeros = tf.zeros_like(values[0])
    remaining = iter(values)
    full = [zeros if g is None else next(remaining) for g in gradients]
    # Blocks follow one another along the first axis, in kernels and in flat biases.
    stack = tf.stack([tf.reshape(g, [len(blocks), -1]) for g in full])
    return Shared(index, stack, blocks, like)


def _on_union(slices: Sequence[tf.IndexedSlices]) -> list[tf.Tensor]:
    """The distinct rows of all slices, and the values of each slice on them, duplicates summed."""
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
