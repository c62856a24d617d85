"""Operation-level early stopping (AutoMTL, section 3.4.3).

If the weights of an operation overfit, their gradients on training and on validation rows point in
different directions. If these keep differing, the weights of the operation are stopped, before it
looks worse than it is. The operation stays in the mixture, and its share is still trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.search import AutoMTL
from tfmtl.operations.choice import Weights

NO_DIRECTION = 1e-12
"""A gradient with a norm below this has no direction and is not compared."""


def compare(
    one: Sequence[tf.Tensor], other: Sequence[tf.Tensor], weights: Weights
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosine of the angle between two gradients of an operation, and whether it is defined.

    The gradients of all variables of the operation are one vector per copy.

    Args:
        one: By variable.
        other: By variable.
        weights: The operation.

    Returns:
        `[copies]` each, or `[1]` for an operation without copies.
    """
    return directions(products(one, other, weights))


def products(one: Sequence[tf.Tensor], other: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
    """The scalar products of two gradients of an operation with themselves and each other.

    Args:
        one: By variable.
        other: By variable.
        weights: The operation.

    Returns:
        `[copies, 2, 2]`, or `[1, 2, 2]` for an operation without copies.
    """
    shape = [weights.copies or 1, -1]
    flat = [tf.concat([tf.reshape(x, shape) for x in each], axis=1) for each in (one, other)]
    # One product for all three numbers: there are a hundred operations, and a search's first
    # iteration waits for the graph of each.
    pair = tf.stack(flat, axis=1)
    return tf.matmul(pair, pair, transpose_b=True)


def directions(squares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosines of the angles between pairs of gradients, and whether they are defined.

    Args:
        squares: `[pairs, 2, 2]`, from `products`.

    Returns:
        `[pairs]` each.
    """
    norms = tf.sqrt(squares[:, 0, 0]), tf.sqrt(squares[:, 1, 1])
    defined = (norms[0] >= NO_DIRECTION) & (norms[1] >= NO_DIRECTION)
    return tf.math.divide_no_nan(squares[:, 0, 1], norms[0] * norms[1]), defined


class EarlyStopping:
    """Decides which operations' weights are stopped, and keeps the state of that.

    The paper compares "the difference between the gradient directions" with a threshold over
    "multiple consecutive iterations" and prints no formula. By default (our choice) the
    difference is `(1 − cos)/2`, above 0.5 where the gradients oppose each other, and an operation
    stops after `patience` tests in a row above the threshold. With `1 − cos` the noise of
    minibatches would be enough, because their gradients are almost at right angles. `window`
    instead takes the mean over `window` tests, one window after the other.

    A test with a gradient that has no direction is not counted. A stopped operation stays stopped;
    the moving averages of its batch normalisation, which are not trained, still follow its inputs.

    Args:
        operations: The operations that can be stopped, each copy separately.
        search: The settings; `stopping` is not `none`.

    Attributes:
        names: The name of every operation and copy, such as `hidden_0/mlp-64/3`.
        frozen: bool, in the order of `names`, whether it is stopped.
    """

    def __init__(self, operations: Sequence[Weights], search: AutoMTL) -> None:
        self.operations, self.search = tuple(operations), search
        self.names = [name for weights in self.operations for name in names_of(weights)]
        self._starts: dict[object, tuple[int, int | None]] = {}
        start = 0
        for weights in self.operations:
            for variable in weights.variables:
                self._starts[variable.ref()] = (start, weights.copies)
            start += weights.copies or 1
        count = len(self.names)
        self.frozen = tf.Variable(tf.zeros([count], tf.bool), trainable=False)
        self.gradients = [
            tf.Variable(tf.zeros_like(v), trainable=False)
            for weights in self.operations
            for v in weights.variables
        ]
        # The number of tests in a row above the threshold; or of the window's tests, and their sum.
        self._tests = tf.Variable(tf.zeros([count], tf.int32), trainable=False)
        self._total = tf.Variable(tf.zeros([count]), trainable=False)
        # The tests of the epoch, for the report.
        self._seen = tf.Variable(tf.zeros([count]), trainable=False)
        self._sum = tf.Variable(tf.zeros([count]), trainable=False)

    @property
    def variables(self) -> list[tf.Variable]:
        """The whole state, for a checkpoint."""
        counters = [self.frozen, self._tests, self._total, self._seen, self._sum]
        return [*counters, *self.gradients]

    @property
    def weights(self) -> list[tf.Variable]:
        """The variables of all operations, in the order of the gradients."""
        return [v for weights in self.operations for v in weights.variables]

    def remember(self, gradients: Sequence[tf.Tensor]) -> None:
        """Keeps the gradients on training rows, by variable, for the next test."""
        for kept, gradient in zip(self.gradients, gradients, strict=True):
            kept.assign(gradient)

    def test(self, gradients: Sequence[tf.Tensor]) -> None:
        """Compares the gradients on validation rows, by variable, with those remembered."""
        squares, at = [], 0
        for weights in self.operations:
            end = at + len(weights.variables)
            squares.append(products(self.gradients[at:end], gradients[at:end], weights))
            at = end
        cosine, defined = directions(tf.concat(squares, axis=0))
        difference = (1.0 - cosine) / (2.0 if self.search.direction == "half" else 1.0)
        tested = defined & ~self.frozen
        self._sum.assign_add(tf.where(tested, difference, 0.0))
        self._seen.assign_add(tf.cast(tested, tf.float32))
        if self.search.stopping == "window":
            self._test_windows(difference, tested)
        else:
            self._test_rows(difference, tested)

    def _test_rows(self, difference, tested):
        above = difference > self.search.threshold
        tests = tf.where(tested, tf.where(above, self._tests + 1, 0), self._tests)
        self._tests.assign(tests)
        self.frozen.assign(self.frozen | (tests >= self.search.patience))

    def _test_windows(self, difference, tested):
        tests = self._tests + tf.cast(tested, tf.int32)
        total = self._total + tf.where(tested, difference, 0.0)
        full = tests >= self.search.window
        above = total > self.search.threshold * self.search.window
        self.frozen.assign(self.frozen | (full & above))
        self._tests.assign(tf.where(full, 0, tests))
        self._total.assign(tf.where(full, 0.0, total))

    def stopped(self, variable: tf.Variable) -> tf.Tensor | None:
        """Whether a variable is stopped, broadcastable to it; `None` if it can never be."""
        if variable.ref() not in self._starts:
            return None
        start, copies = self._starts[variable.ref()]
        if copies is None:
            return self.frozen[start]
        rest = [1] * (variable.shape.rank - 1)
        return tf.reshape(self.frozen[start : start + copies], [copies, *rest])

    def report(self) -> dict[str, Any]:
        """The stopped operations, and the mean differences since the last report.

        Returns:
            `frozen`, names, and `difference`, by name a number, or `None` if it was not tested.
        """
        seen, total = self._seen.numpy(), self._sum.numpy()
        means = [float(s / n) if n else None for s, n in zip(total, seen, strict=True)]
        self._seen.assign(np.zeros_like(seen))
        self._sum.assign(np.zeros_like(total))
        frozen = self.frozen.numpy()
        return {
            "frozen": [name for name, is_ in zip(self.names, frozen, strict=True) if is_],
            "difference": dict(zip(self.names, means, strict=True)),
        }


def names_of(weights: Weights) -> list[str]:
    """The names of an operation's copies: block, label and, if there is one, the expert."""
    name = f"{weights.block}/{weights.label}"
    if weights.copies is not None:
        return [f"{name}/{expert}" for expert in range(weights.copies)]
    return [name if weights.expert is None else f"{name}/{weights.expert}"]
