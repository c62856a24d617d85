"""One-gate Mixture-of-Experts (Ma et al., KDD 2018, section 4.1)."""

from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.experts import Experts
from tfmtl.layers.gates import Gates
from tfmtl.registry import register


@register("backbone", "omoe")
@keras.saving.register_keras_serializable(package="tfmtl")
class OMoE(Backbone):
    """Experts mixed by one softmax gate, whose mixture is every task's representation.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_experts: Experts shared by all tasks.
        expert_units: Widths of each expert.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of the gate's own layers below its logits.
        gate_bias: Whether the gate's logits have a bias.

    Example:
        >>> omoe = OMoE(["ctr", "cvr"], num_experts=3, expert_units=(16,))
        >>> {t: tuple(h.shape) for t, h in omoe(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_experts: int = 8,
        expert_units: Sequence[int] = (512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.num_experts, self.expert_units = num_experts, tuple(expert_units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        self.experts = Experts(
            num_experts, expert_units, dropout=dropout, batch_norm=batch_norm, name="experts"
        )
        self.gate = Gates(1, num_experts, gate_hidden=gate_hidden, gate_bias=gate_bias, name="gate")

    def call(self, fields, training=False):
        x = flatten(fields)
        experts = self.experts(x, training=training)
        h = self.gate(x, experts, training=training)[:, 0]
        return {t: h for t in self.tasks}

    def last_shared(self):
        return [self.experts.dense[-1].kernel]
