"""One-gate Mixture-of-Experts (Ma et al., KDD 2018, section 4.1)."""

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.mmoe import MMoE
from tfmtl.registry import register


@register("backbone", "omoe")
@keras.saving.register_keras_serializable(package="tfmtl")
class OMoE(MMoE):
    """MMoE with one softmax gate, whose mixture of the experts is every task's representation.

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

    @property
    def num_gates(self) -> int:
        """One gate for all tasks."""
        return 1

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        h = self.mixtures(fields, training)[:, 0]
        return {t: h for t in self.tasks}

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        return []
