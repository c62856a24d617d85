"""Softmax gates, which mix experts row by row (Jacobs et al., Neural Computation 1991)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.experts import Experts, ParallelDense


@keras.saving.register_keras_serializable(package="tfmtl")
class Gates(Arguments, keras.layers.Layer):
    """Gates that read one input, each mixing the same experts by weights that sum to 1.

    Maps `x` `[batch, in]` and `experts` `[batch, num_experts, width]` to
    `[batch, num_gates, width]`. The logits of all gates are one product.

    Args:
        num_gates: How many mixtures are made; usually one per task.
        num_experts: How many experts each mixes.
        gate_hidden: Widths of each gate's own layers below its logits; none in Ma et al.
            (KDD 2018).
        gate_bias: Whether the logits have a bias; none in the paper's equation.

    Example:
        >>> gates = Gates(2, 3)
        >>> gates(tf.ones([4, 5]), tf.ones([4, 3, 7])).shape
        TensorShape([4, 2, 7])
        >>> gates.weights_of(tf.ones([4, 5])).shape
        TensorShape([4, 2, 3])
    """

    watch: Callable[[tf.Tensor], None] | None = None
    """Receives the weights of every call; see `watched`."""

    def __init__(
        self,
        num_gates: int,
        num_experts: int,
        *,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_gates, self.num_experts = num_gates, num_experts
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        self.hidden = Experts(num_gates, self.gate_hidden, name="hidden") if gate_hidden else None
        self.logits = ParallelDense(num_gates, num_experts, use_bias=gate_bias, name="logits")

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        if self.hidden is not None:
            with tf.name_scope(self.hidden.name):
                self.hidden.build(shape)
            shape = self.hidden.compute_output_shape(shape)
        with tf.name_scope(self.logits.name):
            self.logits.build(shape)
        super().build(input_shape)

    def call(self, x: tf.Tensor, experts: tf.Tensor, training: bool = False) -> tf.Tensor:
        weights = self.weights_of(x, training=training)
        if self.watch is not None:
            self.watch(weights)
        return tf.matmul(weights, experts)

    def weights_of(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The weight of each expert in each gate, `[batch, num_gates, num_experts]`.

        For diagnosis: a gate with the same weights on all rows, or with all weight on one expert,
        has stopped choosing.

        Args:
            x: What the gates read, `[batch, in]`.
            training: Whether this is a step of training.
        """
        if not self.built:
            self.build(x.shape)
        h = x if self.hidden is None else self.hidden(x, training=training)
        return tf.nn.softmax(self.logits(h), axis=-1)


@contextlib.contextmanager
def watched(gates: Sequence[Gates]) -> Iterator[list[list[tf.Tensor]]]:
    """Records the weights that gates inside a model give their experts.

    Within the block, and for eager calls: a `tf.function` that was traced before is not recorded.

    Args:
        gates: The gates to look at.

    Yields:
        By gate, the weights of its calls, each `[batch, num_gates, num_experts]`.

    Example:
        >>> gates = Gates(1, 2)
        >>> with watched([gates]) as (noted,):
        ...     mixed = gates(tf.ones([4, 5]), tf.ones([4, 2, 7]))
        >>> noted[0].shape
        TensorShape([4, 1, 2])
    """
    noted: list[list[tf.Tensor]] = [[] for _ in gates]
    for gate, calls in zip(gates, noted, strict=True):
        gate.watch = calls.append
    try:
        yield noted
    finally:
        for gate in gates:
            gate.watch = None
