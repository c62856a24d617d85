"""DNN: dense layers over the embeddings, the simplest baseline of click-through rate prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register


@register("backbone", "dnn")
@keras.saving.register_keras_serializable(package="tfmtl")
class DNN(Backbone):
    """Dense layers, whose output every task reads.

    Maps `[batch, fields, dim]` to `{task: [batch, units[-1]]}`. With one task this is FuxiCTR's
    DNN: the logit comes straight from the last hidden layer, hence `tower_units = ()`. With
    several, all of them share the one network, and each has a logit of its own; give
    `Model(tower_units=…)` for towers between.

    `presets["fuxictr"]` are the defaults of FuxiCTR 2.1's configuration, as settings of `Model`
    and `Training`: `Model(**DNN.presets["fuxictr"]["model"])`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        units: Widths of the layers.
        dropout: Share dropped after each layer.
        batch_norm: Whether layers are normalised.

    Example:
        >>> dnn = DNN(["ctr"], units=(32, 16))
        >>> {t: tuple(h.shape) for t, h in dnn(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16)}
    """

    tower_units: tuple[int, ...] = ()

    presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
        "fuxictr": {
            "model": {
                "backbone": {"name": "dnn", "units": (500, 500, 500)},
                "dim": 40,
                "tower_units": (),
                "l2": 0.0,
            },
            "training": {"batch_size": 10_000, "learning_rate": 1e-3, "epochs": 100, "patience": 2},
        }
    }

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        units: Sequence[int] = (500, 500, 500),
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.units = tuple(units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.mlp = MLP(units, dropout=dropout, batch_norm=batch_norm, name="mlp")

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        h = self.mlp(flatten(fields), training=training)
        return {t: h for t in self.tasks}

    def last_shared(self) -> list[tf.Variable]:
        return [self.mlp.dense[-1].kernel] if self.units else []
