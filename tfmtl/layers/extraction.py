"""One level of customised gate control (Tang et al., RecSys 2020)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.experts import Experts
from tfmtl.layers.gates import Gates


@keras.saving.register_keras_serializable(package="tfmtl")
class Extraction(Arguments, keras.layers.Layer):
    """Every branch's experts, mixed by the branch's gate.

    There is one branch per task, and the shared one last. Maps their inputs, a sequence of
    `[batch, in]`, to as many `[batch, units[-1]]`: a task mixes its own
    experts and the shared ones, and the shared branch mixes all experts of all branches. Each
    branch's experts and gate read the branch's own input.

    Args:
        num_tasks: Branches besides the shared one.
        num_specific: Experts of each task.
        num_shared: Experts of the shared branch.
        units: Widths of each expert.
        mix_shared: Whether the shared branch has a gate. In the last level nothing reads its
            mixture: there it has no gate, and only the tasks' mixtures are returned.
        dropout: Share dropped in the experts.
        batch_norm: Whether the experts' layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits.
        gate_bias: Whether the gates' logits have a bias.

    Raises:
        ValueError: There are no shared or no specific experts.

    Example:
        >>> level = Extraction(2, num_specific=1, num_shared=1, units=(8,), mix_shared=True)
        >>> [h.shape[1] for h in level([tf.ones([4, 5])] * 3)]
        [8, 8, 8]
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        num_specific: int,
        num_shared: int,
        units: Sequence[int],
        mix_shared: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_tasks = num_tasks
        self.num_specific, self.num_shared = num_specific, num_shared
        self.units, self.mix_shared = tuple(units), mix_shared
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias

        def experts(num: int, name: str) -> Experts:
            return Experts(num, self.units, dropout=dropout, batch_norm=batch_norm, name=name)

        def gate(num_experts: int, name: str) -> Gates:
            return Gates(1, num_experts, gate_hidden=gate_hidden, gate_bias=gate_bias, name=name)

        branches = range(num_tasks)
        self.specific = [experts(num_specific, f"specific_{k}") for k in branches]
        self.shared = experts(num_shared, "shared")
        self.gates = [gate(num_specific + num_shared, f"gate_{k}") for k in branches]
        total = num_tasks * num_specific + num_shared
        self.shared_gate = gate(total, "gate_shared") if mix_shared else None

    def call(self, inputs: Sequence[tf.Tensor], training: bool = False) -> list[tf.Tensor]:
        *tasks, shared = inputs
        specific = [e(t, training=training) for e, t in zip(self.specific, tasks, strict=True)]
        common = self.shared(shared, training=training)
        mixed = [
            gate(t, tf.concat([experts, common], axis=1), training=training)[:, 0]
            for gate, t, experts in zip(self.gates, tasks, specific, strict=True)
        ]
        if self.shared_gate is not None:
            everything = tf.concat([*specific, common], axis=1)
            mixed.append(self.shared_gate(shared, everything, training=training)[:, 0])
        return mixed
