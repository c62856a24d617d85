"""Entire Space Multi-task Model (Ma et al., SIGIR 2018)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register


@register("backbone", "esmm")
@keras.saving.register_keras_serializable(package="tfmtl")
class ESMM(Backbone):
    """One tower per task over shared embeddings, and a product of probabilities above them.

    Maps `[batch, fields, dim]` to `{task: [batch, units[-1]]}`. The towers are here and not in
    the heads, because tasks share nothing but the embeddings. The loss is on clicks and on
    conversions over all impressions, through pCTR·pCVR; see `Heads`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        units: Widths of each task's tower.
        dropout: Share dropped after each tower layer.
        batch_norm: Whether tower layers are normalised.

    Example:
        >>> esmm = ESMM(["ctr", "cvr"], units=(16,))
        >>> {t: tuple(h.shape) for t, h in esmm(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    conv_semantics = "esmm"
    tower_units = ()

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        units: Sequence[int] = (256, 128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.units = tuple(units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.towers = {
            t: MLP(units, dropout=dropout, batch_norm=batch_norm, name=f"tower_{t}")
            for t in self.tasks
        }

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        return {t: self.towers[t](x, training=training) for t in self.tasks}
