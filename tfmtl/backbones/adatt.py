"""Adaptive Task-to-Task Fusion Network (Li et al., KDD 2023)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.errors import SpecError
from tfmtl.layers.experts import Experts
from tfmtl.layers.gates import Gates
from tfmtl.registry import register


@keras.saving.register_keras_serializable(package="tfmtl")
class Fusion(Arguments, keras.layers.Layer):
    """One level: every unit has experts, and mixes the experts of all units.

    Maps `[batch, units, in]`, or `[batch, in]` that all units read, to `[batch, mixed, width]`,
    the mixtures of the first `mixed` units. Of unit `k`, which reads `h_k`, with experts `E_k`:

        out_k = Σ_e softmax(W_k h_k + b_k)_e · E_e + Σ_i v_{k,i} · E_{k,i}

    The first sum is over the experts of all units. The second, the residual, is over the unit's
    own; `v` is learnt and not normalised. Where every unit has one expert there is no `v`, and
    the residual is that expert.

    Args:
        counts: How many experts each unit has.
        mixed: How many units have a gate.
        expert_units: Widths of each expert.
        residual: Whether there is a second sum.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits.
        gate_bias: Whether the gates' logits have a bias.

    Example:
        >>> Fusion((1, 1, 2), mixed=2, expert_units=(8,))(tf.ones([4, 5])).shape
        TensorShape([4, 2, 8])
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        mixed: int,
        expert_units: Sequence[int],
        residual: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.counts, self.mixed, self.residual = tuple(counts), mixed, residual
        self.expert_units, self.dropout, self.batch_norm = tuple(expert_units), dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        total = sum(counts)
        self.experts = Experts(
            total, expert_units, dropout=dropout, batch_norm=batch_norm, name="experts"
        )
        self.gates = Gates(mixed, total, gate_hidden=gate_hidden, gate_bias=gate_bias, name="gates")

    def build(self, input_shape: Any) -> None:
        self.own_weights = []
        if self.residual and max(self.counts) > 1:
            # A vector per unit, flat: weight decay is on kernels, which have a rank above one.
            self.own_weights = [
                self.add_weight(
                    name=f"own_weights_{k}",
                    shape=(count,),
                    initializer=keras.initializers.RandomUniform(-(count**-0.5), count**-0.5),
                )
                for k, count in enumerate(self.counts[: self.mixed])
            ]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        of_expert, of_gate = inputs, inputs
        if inputs.shape.rank == 3:
            of_expert = tf.repeat(inputs, self.counts, axis=1)
            of_gate = inputs[:, : self.mixed]
        experts = self.experts(of_expert, training=training)
        fused = self.gates(of_gate, experts, training=training)
        return fused + self._own(experts) if self.residual else fused

    def _own(self, experts: tf.Tensor) -> tf.Tensor:
        """The residual of each unit that has a gate, `[batch, mixed, width]`."""
        if max(self.counts) == 1:
            return experts[:, : self.mixed]
        by_unit = tf.split(experts, self.counts, axis=1)[: self.mixed]
        weighted = zip(self.own_weights, by_unit, strict=True)
        return tf.stack([tf.einsum("e,beu->bu", v, of_unit) for v, of_unit in weighted], axis=1)


@register("backbone", "adatt")
@keras.saving.register_keras_serializable(package="tfmtl")
class AdaTT(Backbone):
    """Levels in which each task adds a gated mixture of all tasks' experts to its own experts.

    Unlike PLE, a task sees the experts of other tasks at every level, the last one too, and has a
    direct path to its own. Without `num_shared` this is AdaTT-sp. One level without the residual
    and without shared experts is `mmoe`, with as many experts.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1][-1]]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_specific: Experts of each task, in each level.
        num_shared: Experts of the shared unit, in each level; 0 for AdaTT-sp. The shared unit is
            fused like a task below the last level, and has no gate in the last.
        expert_units: Widths of each expert, level by level.
        residual: Whether a task adds its own experts to the mixture. The default is that of the
            authors' classes; their configuration's default is off.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits; none in the paper.
        gate_bias: Whether the gates' logits have a bias.

    Raises:
        SpecError: `expert_units` is not a list of lists of widths, a task has no expert, or
            `num_shared` is negative.

    Example:
        >>> adatt = AdaTT(["ctr", "cvr"], expert_units=[(32,), (16,)])
        >>> {t: tuple(h.shape) for t, h in adatt(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_specific: int = 1,
        num_shared: int = 1,
        expert_units: Sequence[Sequence[int]] = ((256,), (128,)),
        residual: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        _check(num_specific, num_shared, expert_units)
        self.num_specific, self.num_shared, self.residual = num_specific, num_shared, residual
        self.expert_units = tuple(tuple(units) for units in expert_units)
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        shared = (num_shared,) if num_shared else ()
        counts = (num_specific,) * len(self.tasks) + shared
        last = len(self.expert_units) - 1
        self.levels = [
            Fusion(
                counts,
                mixed=len(self.tasks) if level == last else len(counts),
                expert_units=units,
                residual=residual,
                dropout=dropout,
                batch_norm=batch_norm,
                gate_hidden=gate_hidden,
                gate_bias=gate_bias,
                name=f"level_{level + 1}",
            )
            for level, units in enumerate(self.expert_units)
        ]

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        h = flatten(fields)
        for level in self.levels:
            h = level(h, training=training)
        return dict(zip(self.tasks, tf.unstack(h, axis=1), strict=True))

    def last_shared(self) -> list[tf.Variable]:
        return [self.levels[-1].experts.dense[-1].kernel]

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        # Below the last level other tasks read what a task's gate mixes.
        last = self.levels[-1]
        blocks = [(v, self.tasks) for v in last.gates.trainable_variables]
        return blocks + [(v, (t,)) for v, t in zip(last.own_weights, self.tasks, strict=False)]


def _check(num_specific: int, num_shared: int, expert_units: Sequence[Sequence[int]]) -> None:
    if not expert_units or any(isinstance(units, int) for units in expert_units):
        raise SpecError(
            "adatt: expert_units lists the experts' widths level by level, as [(256,), (128,)] "
            f"for two levels or [(256, 128)] for one; got {expert_units!r}."
        )
    if num_specific < 1:
        raise SpecError(f"adatt: num_specific={num_specific}; a task has at least 1 expert.")
    if num_shared < 0:
        raise SpecError(f"adatt: num_shared={num_shared}; it is at least 0, which is AdaTT-sp.")
