"""The network that contains all candidates of an architecture search (AutoMTL)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.derive import candidates_of
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.layers.gates import Gates
from tfmtl.operations.choice import Choice, Weights

DEVIATION = 1e-3
"""Standard deviation of the initial logits: almost even, but two equal experts would stay equal."""

CHOSEN, LEFT_OUT = 0.0, -1e4
"""Logits of what is chosen and what is not: their softmax is exactly even, and exactly 0."""


class Supernet(Backbone):
    """All networks of a search space in one; each block is the weighted sum of its candidates.

    Maps `[batch, fields, dim]` to `{task: [batch, width]}`: a block of interactions, then experts
    of one pooling block and blocks of hidden layers, then per task the weighted sum of the experts
    (section 3.2 and Figure 2 of the paper). A block's weights are `softmax(α)` (eq. 4), a task's
    `softmax(β)` (eq. 1). α and β are not among the trainable variables, because a search trains
    them separately and on other rows.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        search: The search's settings, which include the space.
        width: Width of the hidden vectors.

    Attributes:
        alpha_interaction: `[candidates]`; `None` if `search.interaction` is False.
        alpha_pooling: `[experts, candidates]`, or `[1, candidates]` for all experts if
            `search.heterogeneous` is False.
        alpha_hidden: `[experts, blocks, candidates]`, or `[1, blocks, candidates]` likewise.
        beta: `[tasks, experts]`; `None` if `search.selection` is False. Then gates, which read the
            fields after the interaction, mix all experts.
        skip_weight: The share of its input that is added to every block that keeps its shape, 1 at
            the start; `None` without `search.auxiliary_skip`.

    Raises:
        SpecError: A candidate is not registered, or two of a kind have the same label.

    Example:
        >>> supernet = Supernet(["ctr", "cvr"], search=AutoMTL(num_experts=2), width=16)
        >>> {t: tuple(h.shape) for t, h in supernet(tf.ones([2, 5, 16])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
        >>> supernet.alpha_hidden.shape
        TensorShape([2, 3, 13])
    """

    def __init__(self, tasks: Sequence[str], *, search: AutoMTL, width: int, **kwargs: Any) -> None:
        super().__init__(tasks, **kwargs)
        self.search, self.width = search, width
        experts = search.num_experts
        candidates = candidates_of(search)
        self.interaction = (
            Choice("interaction", candidates["interaction"], name="interaction")
            if search.interaction
            else None
        )
        self.pooling = Choice(
            "pooling", candidates["pooling"], num=experts, width=width, name="pooling"
        )
        self.blocks = [
            Choice("hidden", candidates["hidden"], num=experts, name=f"hidden_{i}")
            for i in range(search.num_blocks)
        ]
        self._hidden_labels = [label for label, _ in candidates["hidden"]]
        self.gates = None if search.selection else Gates(len(self.tasks), experts, name="gates")

    def build(self, input_shape: Any) -> None:
        shape, experts = tuple(input_shape), self.search.num_experts
        architectures = experts if self.search.heterogeneous else 1
        self.alpha_interaction = self.beta = self.skip_weight = None
        if self.interaction is not None:
            self.alpha_interaction = self._logits("alpha_interaction", len(self.interaction.labels))
        self.alpha_pooling = self._logits("alpha_pooling", architectures, len(self.pooling.labels))
        self.alpha_hidden = self._logits(
            "alpha_hidden", architectures, len(self.blocks), len(self._hidden_labels)
        )
        if self.gates is None:
            self.beta = self._logits("beta", len(self.tasks), experts)
        if self.search.auxiliary_skip:
            self.skip_weight = self.add_weight(
                name="skip_weight", shape=(), initializer="ones", trainable=False
            )
        vectors = (experts, shape[0], self.width)
        for block in filter(None, (self.interaction, self.pooling, *self.blocks)):
            with tf.name_scope(block.name):
                block.build(vectors if block.kind == "hidden" else shape)
        if self.gates is not None:
            with tf.name_scope(self.gates.name):
                self.gates.build((shape[0], shape[1] * shape[2]))
        super().build(input_shape)

    def _logits(self, name, *shape):
        start = keras.initializers.RandomNormal(stddev=DEVIATION)
        return self.add_weight(name=name, shape=shape, initializer=start, trainable=False)

    def call(self, fields, training=False):
        fields, experts = self.experts(fields, training)
        if self.gates is None:
            flat = tf.reshape(experts, [self.search.num_experts, -1])
            mixed = tf.matmul(tf.nn.softmax(self.beta), flat)
            mixed = tf.reshape(mixed, [len(self.tasks), -1, self.width])
        else:
            by_row = tf.transpose(experts, [1, 0, 2])
            mixed = self.gates(flatten(fields), by_row, training=training)
            mixed = tf.transpose(mixed, [1, 0, 2])
        return dict(zip(self.tasks, tf.unstack(mixed), strict=True))

    def experts(self, fields: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the experts that the tasks choose from.

        Args:
            fields: `[batch, fields, dim]`.
            training: Whether this is a training step.

        Returns:
            The fields after the interaction, and the experts' outputs `[experts, batch, width]`.
        """
        if self.interaction is not None:
            weights = tf.nn.softmax(self.alpha_interaction)
            mixed = self.interaction(fields, weights, training=training)
            fields = self._with_skip(mixed, fields)
        x = self.pooling(fields, self._by_expert(self.alpha_pooling), training=training)
        for i, block in enumerate(self.blocks):
            mixed = block(x, self._by_expert(self.alpha_hidden[:, i]), training=training)
            x = self._with_skip(mixed, x)
        return fields, x

    def _by_expert(self, alpha):
        weights = tf.nn.softmax(alpha)
        return tf.broadcast_to(weights, [self.search.num_experts, weights.shape[-1]])

    def _with_skip(self, mixed, inputs):
        return mixed if self.skip_weight is None else mixed + self.skip_weight * inputs

    def operations(self) -> list[Weights]:
        """The trainable variables of every candidate of every block; see `Weights`.

        The variables of the gates, if there are any, belong to no operation.
        """
        blocks = filter(None, (self.interaction, self.pooling, *self.blocks))
        return [weights for block in blocks for weights in block.weights_by_candidate(block.name)]

    def labels(self) -> dict[str, list[str]]:
        """The candidates' labels by kind of block, in the order of α's last axis."""
        labels = {"pooling": list(self.pooling.labels), "hidden": list(self._hidden_labels)}
        if self.interaction is not None:
            labels = {"interaction": list(self.interaction.labels), **labels}
        return labels

    def force(self, architecture: Architecture) -> None:
        """Sets α and β so that this network computes that architecture; weights are exactly 0 or 1.

        The experts of a task are mixed evenly. Experts that are not in the architecture keep their
        α, and no task reads them.

        Args:
            architecture: An architecture of this search space.

        Raises:
            SpecError: It has an operation, an expert or a task that this network does not have, or
                only one of the two has an interaction.
        """
        labels = self.labels()
        chosen = architecture.interaction
        if (chosen is None) != (self.alpha_interaction is None):
            raise SpecError(
                f"{self.name}: interaction={chosen!r}, but the search has "
                f"interaction={self.search.interaction}."
            )
        if chosen is not None and self.alpha_interaction is not None:
            self.alpha_interaction.assign(_logits_of(labels["interaction"], [chosen.label]))
        pooling, hidden = self.alpha_pooling.numpy(), self.alpha_hidden.numpy()
        for expert in architecture.experts:
            if expert.id >= self.search.num_experts or len(expert.blocks) != len(self.blocks):
                raise SpecError(
                    f"{self.name}: {self.search.num_experts} experts of {len(self.blocks)} "
                    f"blocks; got expert {expert.id} of {len(expert.blocks)}."
                )
            if not self.search.heterogeneous and expert != dataclasses.replace(
                architecture.experts[0], id=expert.id
            ):
                raise SpecError(
                    f"{self.name}: experts have one architecture (heterogeneous=False), but "
                    f"expert {expert.id} is another than {architecture.experts[0].id}."
                )
            row = expert.id if self.search.heterogeneous else 0
            pooling[row] = _logits_of(labels["pooling"], [expert.pooling.label])
            for i, block in enumerate(expert.blocks):
                hidden[row, i] = _logits_of(labels["hidden"], [block.label])
        self.alpha_pooling.assign(pooling)
        self.alpha_hidden.assign(hidden)
        if self.beta is not None:
            ids = list(range(self.search.num_experts))
            selected = [architecture.tasks[task].experts for task in self.tasks]
            self.beta.assign([_logits_of(ids, experts) for experts in selected])


def _logits_of(known: Sequence[Any], chosen: Sequence[Any]) -> np.ndarray:
    """Logits with an even softmax over what is chosen, and 0 for the rest."""
    unknown = [each for each in chosen if each not in known]
    if unknown:
        raise SpecError(f"supernet: has no {unknown[0]!r}; known are {list(known)}.")
    return np.array([CHOSEN if each in chosen else LEFT_OUT for each in known], np.float32)
