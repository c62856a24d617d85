"""Multi-gate Mixture-of-Experts (Ma et al., KDD 2018)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.experts import Experts
from tfmtl.layers.gates import Gates
from tfmtl.registry import register


@register("backbone", "mmoe")
@keras.saving.register_keras_serializable(package="tfmtl")
class MMoE(Backbone):
    """Experts shared by all tasks, mixed by one softmax gate per task.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_experts: Experts shared by all tasks.
        expert_units: Widths of each expert; the last is the representation's width.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits; none in the paper.
        gate_bias: Whether the gates' logits have a bias; the paper's equation has none.

    Example:
        >>> mmoe = MMoE(["ctr", "cvr"], num_experts=3, expert_units=(16,))
        >>> {t: tuple(h.shape) for t, h in mmoe(tf.ones([2, 5, 8])).items()}
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
        self.gates = Gates(
            self.num_gates,
            num_experts,
            gate_hidden=gate_hidden,
            gate_bias=gate_bias,
            name="gates",
        )

    @property
    def num_gates(self) -> int:
        """One gate per task."""
        return len(self.tasks)

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        mixed = self.mixtures(fields, training)
        return dict(zip(self.tasks, tf.unstack(mixed, axis=1), strict=True))

    def mixtures(self, fields: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns each gate's mixture of the experts, `[batch, num_gates, expert_units[-1]]`."""
        x = flatten(fields)
        return self.gates(x, self.experts(x, training=training), training=training)

    def last_shared(self) -> list[tf.Variable]:
        return [self.experts.dense[-1].kernel]

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        return [(v, self.tasks) for v in self.gates.trainable_variables]
