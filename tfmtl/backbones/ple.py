"""Progressive Layered Extraction (Tang et al., RecSys 2020, section 4.2)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.extraction import Extraction
from tfmtl.registry import register


@register("backbone", "ple")
@keras.saving.register_keras_serializable(package="tfmtl")
class PLE(Backbone):
    """Levels of customised gate control, each branch reading its own output of the level below.

    The gate of a branch reads what the branch's experts read: the flattened fields in the first
    level, the branch's mixture of the level below in the others. Below the last
    level the shared branch mixes all experts, the tasks' own among them, which is how tasks
    learn from each other. One level is CGC.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1][-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_specific: Experts of each task, in each level.
        num_shared: Shared experts, in each level.
        expert_units: Widths of each expert, level by level: `[(512,), (256,)]` has two levels,
            of experts with one layer.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits; none in the paper.
        gate_bias: Whether the gates' logits have a bias; the paper's equation has none.

    Raises:
        ValueError: `expert_units` is not a list of lists of widths.

    Example:
        >>> ple = PLE(["ctr", "cvr"], expert_units=[(32,), (16,)])
        >>> {t: tuple(h.shape) for t, h in ple(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_specific: int = 4,
        num_shared: int = 4,
        expert_units: Sequence[Sequence[int]] = ((512,), (256,)),
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        if not expert_units or any(isinstance(units, int) for units in expert_units):
            raise ValueError(
                "ple: expert_units lists the experts' widths level by level, as [(512,), (256,)] "
                f"for two levels or [(512, 256)] for one; got {expert_units!r}."
            )
        self.num_specific, self.num_shared = num_specific, num_shared
        self.expert_units = tuple(tuple(units) for units in expert_units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        self.levels = [
            Extraction(
                len(self.tasks),
                num_specific=num_specific,
                num_shared=num_shared,
                units=units,
                mix_shared=i < len(self.expert_units),
                dropout=dropout,
                batch_norm=batch_norm,
                gate_hidden=gate_hidden,
                gate_bias=gate_bias,
                name=f"level_{i}",
            )
            for i, units in enumerate(self.expert_units, start=1)
        ]

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        branches = [flatten(fields)] * (len(self.tasks) + 1)
        for level in self.levels:
            branches = level(branches, training=training)
        return dict(zip(self.tasks, branches, strict=True))

    def last_shared(self) -> list[tf.Variable]:
        return [self.levels[-1].shared.dense[-1].kernel]
