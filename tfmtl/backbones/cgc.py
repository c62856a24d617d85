"""Customized Gate Control (Tang et al., RecSys 2020, section 4.1)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.extraction import Extraction
from tfmtl.registry import register


@register("backbone", "cgc")
@keras.saving.register_keras_serializable(package="tfmtl")
class CGC(Backbone):
    """Each task's gate mixes the task's own experts and the shared ones, never another task's.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_specific: Experts of each task.
        num_shared: Experts shared by all tasks.
        expert_units: Widths of each expert.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits; none in the paper.
        gate_bias: Whether the gates' logits have a bias; the paper's equation has none.

    Example:
        >>> cgc = CGC(["ctr", "cvr"], num_specific=2, num_shared=1, expert_units=(16,))
        >>> {t: tuple(h.shape) for t, h in cgc(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_specific: int = 4,
        num_shared: int = 4,
        expert_units: Sequence[int] = (512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.num_specific, self.num_shared = num_specific, num_shared
        self.expert_units = tuple(expert_units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        self.level = Extraction(
            len(self.tasks),
            num_specific=num_specific,
            num_shared=num_shared,
            units=expert_units,
            dropout=dropout,
            batch_norm=batch_norm,
            gate_hidden=gate_hidden,
            gate_bias=gate_bias,
            name="level",
        )

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        mixed = self.level([x] * (len(self.tasks) + 1), training=training)
        return dict(zip(self.tasks, mixed, strict=True))

    def last_shared(self) -> list[tf.Variable]:
        return [self.level.shared.dense[-1].kernel]
