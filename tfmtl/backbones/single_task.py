"""One network per task, with nothing shared: the baseline of every architecture that shares."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register

T = TypeVar("T")


@register("backbone", "single_task")
@keras.saving.register_keras_serializable(package="tfmtl")
class SingleTask(Backbone):
    """Each task has its own bottom over its own embedding tables.

    Maps `{task: [batch, fields, dim]}` to `{task: [batch, bottom_units[-1]]}`. Joint
    training equals separate training where the optimizer does not couple variables: with Adam, but
    not with clipping by a norm over all gradients.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        bottom_units: Widths of each task's bottom.
        dropout: Share dropped after each bottom layer.
        batch_norm: Whether bottom layers are normalised.

    Example:
        >>> single = SingleTask(["ctr", "cvr"], bottom_units=(16,))
        >>> fields = {"ctr": tf.ones([2, 5, 8]), "cvr": tf.ones([2, 5, 8])}
        >>> {t: tuple(h.shape) for t, h in single(fields).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    shares = False

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
        self.bottoms = {
            t: MLP(bottom_units, dropout=dropout, batch_norm=batch_norm, name=f"bottom_{t}")
            for t in self.tasks
        }

    def embeddings(self, make: Callable[..., T]) -> dict[str, T]:
        """Makes one embedding per task."""
        return {t: make(f"embedding_{t}") for t in self.tasks}

    def call(self, fields: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        return {t: self.bottoms[t](flatten(fields[t]), training=training) for t in self.tasks}
