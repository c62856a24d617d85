"""Adaptive Information Transfer Multi-task framework (Xi et al., KDD 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from absl import logging

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.declare.conversions import loose_links
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.layers.fields import Fields
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
    layer of the representation of the task before. In a chain every event needs the one before:
    click, then conversion. The declaration says so by `observed_if` or `drop_if`, or `chain` does;
    without either there is a warning, because tasks that do not follow each other lose by it.
    A task outside the chain has its bottom alone. Each link has weights of its own (our choice
    where a chain is longer than the two tasks of the paper's experiments).

    Maps `[batch, fields, dim]` to `{task: [batch, bottom_units[-1]]}`. The defaults are the
    authors' for Ali-CCP, where dropout is `(0.1, 0.3, 0.3)`. `order_calibration` belongs to the
    method: it penalises a later task's probability that is above an earlier one's.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        chain: The tasks that follow each other, in their order; all of `tasks` if not given.
        bottom_units: Widths of each task's bottom.
        dropout: Share dropped after each bottom layer, one for all or one per layer; the last is
            also that of the layer between two tasks.
        batch_norm: Whether bottom layers are normalised.
        stop_gradient: Whether a later task's loss does not train the earlier tasks' weights. In the
            paper it does.

    Raises:
        ValueError: There is no layer in a bottom.
        SpecError: The chain names something else than `tasks`, or one of them twice.

    Example:
        >>> aitm = AITM(["ctr", "ctcvr"], bottom_units=(16,))
        >>> {t: tuple(h.shape) for t, h in aitm(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'ctcvr': (2, 16)}
    """

    tower_units = ()
    default_terms: tuple[dict[str, Any], ...] = ({"name": "order_calibration", "weight": 0.6},)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        chain: Sequence[str] | None = None,
        bottom_units: Sequence[int] = (128, 64, 32),
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        stop_gradient: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        if not bottom_units:
            raise ValueError("aitm: a bottom has at least one layer; got bottom_units=().")
        self.chain = None if chain is None else tuple(chain)
        self.links = _links(self.tasks, self.chain)
        self.bottom_units = tuple(bottom_units)
        self.dropout = tuple(dropout) if isinstance(dropout, Sequence) else dropout
        self.batch_norm, self.stop_gradient = batch_norm, stop_gradient
        last = dropout[-1] if isinstance(dropout, Sequence) else dropout
        self.bottoms = {
            t: MLP(bottom_units, dropout=dropout, batch_norm=batch_norm, name=f"bottom_{t}")
            for t in self.tasks
        }
        self.passes = {
            t: MLP(bottom_units[-1:], dropout=last, name=f"pass_{t}") for t in self.links[:-1]
        }
        self.transfers = {t: Transfer(name=f"transfer_{t}") for t in self.links[1:]}

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Warns of a chain that nobody declared: neither `chain` nor the problem says it."""
        loose = () if self.chain is not None else loose_links(problem, self.links)
        if loose:
            earlier, later = loose[0]
            logging.warning(
                "aitm: the tasks %s are taken for a chain, but nothing declares that %r needs %r, "
                "and tasks that do not follow each other may lose much by it. Name those that do, "
                "as {'name': 'aitm', 'chain': ('click', 'buy')}; the others then have their bottom "
                "alone.",
                list(self.links),
                later,
                earlier,
            )

    def describe(self, problem: ProblemSpec, fields: Fields | Mapping[str, Fields]) -> None:
        """Takes the fields, and the links whose order of probabilities is calibrated."""
        super().describe(problem, fields)
        if self.chain is None:
            return
        # A task on other rows is a probability of another kind, and has no place in an order.
        everywhere = [t for t in self.chain if problem.task(t).observed_if is None]
        served = [t for t in everywhere if problem.task(t).served]
        pairs = tuple(zip(served[:-1], served[1:], strict=True))
        self.default_terms = ({**AITM.default_terms[0], "pairs": pairs},) if pairs else ()

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        chain = {t: self.bottoms[t](x, training=training) for t in self.tasks}
        before = None
        for t in self.links:
            z = chain[t]
            if before is not None:
                source = chain[before]
                if self.stop_gradient:
                    source = tf.stop_gradient(source)
                z = self.transfers[t](self.passes[before](source, training=training), z)
            chain[t], before = z, t
        return chain

    def fine_tuned(self) -> list[keras.layers.Layer]:
        return [*self.passes.values(), *self.transfers.values()]


def _links(tasks: Sequence[str], chain: Sequence[str] | None) -> tuple[str, ...]:
    if chain is None:
        return tuple(tasks)
    for name in chain:
        if name not in tasks:
            raise SpecError(
                f"aitm: chain names {name!r}, which is no task with a logit of its own; those are "
                f"{list(tasks)}.{did_you_mean(str(name), tasks)}"
            )
    if isinstance(chain, str) or len(set(chain)) < len(chain) or len(chain) < 2:
        raise SpecError(
            f"aitm: chain={chain!r}; two tasks or more, each named once and in their order, would "
            "be right."
        )
    return tuple(chain)
