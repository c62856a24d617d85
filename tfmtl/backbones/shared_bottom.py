"""Shared-Bottom: hard parameter sharing (Caruana, Machine Learning 1997)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register


@register("backbone", "shared_bottom")
@keras.saving.register_keras_serializable(package="tfmtl")
class SharedBottom(Backbone):
    """One bottom, whose output is every task's representation.

    Maps `[batch, fields, dim]` to `{task: [batch, bottom_units[-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        bottom_units: Widths of the bottom.
        dropout: Share dropped after each bottom layer.
        batch_norm: Whether bottom layers are normalised.

    Example:
        >>> shared = SharedBottom(["ctr", "cvr"], bottom_units=(16,))
        >>> {t: tuple(h.shape) for t, h in shared(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        bottom_units: Sequence[int] = (512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.bottom_units = tuple(bottom_units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.bottom = MLP(bottom_units, dropout=dropout, batch_norm=batch_norm, name="bottom")

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        h = self.bottom(flatten(fields), training=training)
        return {t: h for t in self.tasks}

    def last_shared(self) -> list[tf.Variable]:
        return [self.bottom.dense[-1].kernel] if self.bottom_units else []
