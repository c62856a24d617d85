"""Adaptive Information Transfer Multi-task framework (Xi et al., KDD 2021)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register


@keras.saving.register_keras_serializable(package="tfmtl")
class Transfer(keras.layers.Layer):
    """Mixes a task's representation with what it receives from the task before it.

    Maps two tensors `[batch, d]` to `[batch, d]`: the mean of their values, weighted by a softmax
    of their scores. A score is the product of the tensor's query and key, divided by `√d`. The
    projections have no bias.

    Example:
        >>> Transfer()(tf.ones([2, 8]), tf.ones([2, 8])).shape
        TensorShape([2, 8])
    """

    def build(self, input_shape: Any) -> None:
        width = tuple(input_shape)[-1]
        self.query, self.key, self.value = (
            keras.layers.Dense(width, use_bias=False, name=name)
            for name in ("query", "key", "value")
        )
        for layer in (self.query, self.key, self.value):
            with tf.name_scope(layer.name):
                layer.build((None, width))
        super().build(input_shape)

    def call(self, received: tf.Tensor, representation: tf.Tensor) -> tf.Tensor:
        return tf.einsum(
            "bu,bud->bd",
            self.weights_of(received, representation),
            self.value(tf.stack([received, representation], axis=1)),
        )

    def weights_of(self, received: tf.Tensor, representation: tf.Tensor) -> tf.Tensor:
        """The weights of what is received and of the representation, `[batch, 2]`."""
        tokens = tf.stack([received, representation], axis=1)
        scores = tf.reduce_sum(self.query(tokens) * self.key(tokens), axis=-1)
        return tf.nn.softmax(scores / float(tokens.shape[-1]) ** 0.5, axis=-1)


@register("backbone", "aitm")
@keras.saving.register_keras_serializable(package="tfmtl")
class AITM(Backbone):
    """A chain of tasks, in which each task receives information from the task before it.

    Every task has a bottom over shared embeddings. The first task's representation is its
    bottom's output. A later task mixes its bottom's output with what it receives: one dense
    layer of the representation of the task before. The order of `tasks` is the chain's: click,
    then conversion. Each link has weights of its own (our choice where a chain is longer than
    the two tasks of the paper's experiments).

    Maps `[batch, fields, dim]` to `{task: [batch, bottom_units[-1]]}`. The defaults are the
    authors' for Ali-CCP, where dropout is `(0.1, 0.3, 0.3)`. `order_calibration` belongs to the
    method: it penalises a later task's probability that is above an earlier one's.

    Args:
        tasks: Task names, in the order of the chain.
        bottom_units: Widths of each task's bottom.
        dropout: Share dropped after each bottom layer, one for all or one per layer; the last is
            also that of the layer between two tasks.
        batch_norm: Whether bottom layers are normalised.
        stop_gradient: Whether a later task's loss does not train the earlier tasks' weights. In the
            paper it does.

    Example:
        >>> aitm = AITM(["ctr", "ctcvr"], bottom_units=(16,))
        >>> {t: tuple(h.shape) for t, h in aitm(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'ctcvr': (2, 16)}
    """

    tower_units = ()
    default_terms = ({"name": "order_calibration", "weight": 0.6},)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        bottom_units: Sequence[int] = (128, 64, 32),
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        stop_gradient: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        if not bottom_units:
            raise ValueError("aitm: a bottom has at least one layer; got bottom_units=().")
        self.bottom_units = tuple(bottom_units)
        self.dropout = tuple(dropout) if isinstance(dropout, Sequence) else dropout
        self.batch_norm, self.stop_gradient = batch_norm, stop_gradient
        last = dropout[-1] if isinstance(dropout, Sequence) else dropout
        self.bottoms = {
            t: MLP(bottom_units, dropout=dropout, batch_norm=batch_norm, name=f"bottom_{t}")
            for t in self.tasks
        }
        self.passes = {
            t: MLP(bottom_units[-1:], dropout=last, name=f"pass_{t}") for t in self.tasks[:-1]
        }
        self.transfers = {t: Transfer(name=f"transfer_{t}") for t in self.tasks[1:]}

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        chain = {}
        before = None
        for t in self.tasks:
            z = self.bottoms[t](x, training=training)
            if before is not None:
                source = chain[before]
                if self.stop_gradient:
                    source = tf.stop_gradient(source)
                z = self.transfers[t](self.passes[before](source, training=training), z)
            chain[t], before = z, t
        return chain

    def fine_tuned(self) -> list[keras.layers.Layer]:
        return [*self.passes.values(), *self.transfers.values()]
