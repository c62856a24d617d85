"""The networks that AutoMTL finds: experts of different layers, a subset of them per task."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.layers.gates import Gates
from tfmtl.operations.candidates import operation
from tfmtl.operations.choice import takes
from tfmtl.registry import register

Config = Mapping[str, Any]


@keras.saving.register_keras_serializable(package="tfmtl")
class Expert(Arguments, keras.layers.Layer):
    """A pooling of the fields, and layers that keep its width.

    Maps `[batch, fields, dim]` to `[batch, width]`.

    Args:
        pooling: Registered pooling and its arguments.
        blocks: Registered hidden operations and their arguments, from below.

    Example:
        >>> expert = Expert({"name": "sum"}, [{"name": "mlp", "units": 16}, {"name": "gate"}])
        >>> expert(tf.ones([2, 5, 8])).shape
        TensorShape([2, 8])
    """

    def __init__(self, pooling: Config, blocks: Sequence[Config] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pooling, self.blocks = _copied(pooling), _copied(tuple(blocks))
        # Names make the variables' names distinct where two layers are of one kind.
        self.layers = [
            operation("pooling", ("pooling", pooling)),
            *(operation("hidden", (f"block_{i}", block)) for i, block in enumerate(blocks)),
        ]

    def call(self, fields: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = fields
        for layer in self.layers:
            x = layer(x, training=training)
        return x


@register("backbone", "automtl")
@keras.saving.register_keras_serializable(package="tfmtl")
class AutoMTLNetwork(Backbone):
    """Experts of different layers; per task, a gate mixes the experts that the task chose.

    The result of a search (section 3.2 of "Automatic Multi-Task Learning Framework with Neural
    Architecture Search for Recommender Systems"), or a network that is written by hand. The
    interaction below the experts belongs to the model: `Model(interaction=…)`. Gates read the
    fields that it returns; a task with one expert has no gate. See `tfmtl.operations` for poolings
    and layers.

    Maps `[batch, fields, dim]` to `{task: [batch, width]}`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        experts: Each expert's pooling and layers, `{"pooling": {"name": "attentive"}, "blocks":
            [{"name": "mlp", "units": 64}, {"name": "convolution", "size": 3}]}`.
        chosen: By task, its experts, counted from 0: `{"ctr": [0, 1], "cvr": [1]}`; all of them
            for every task if not given.
        width: Width of the representations, which poolings that take one are given; that of the
            fields if not given.
        gate_bias: Whether the gates' logits have a bias.

    Raises:
        SpecError: There are no experts, an operation or its argument is unknown, or `chosen` is
            of other tasks or experts, or leaves out one of either.

    Example:
        >>> automtl = AutoMTLNetwork(
        ...     ["ctr", "cvr"],
        ...     experts=[
        ...         {"pooling": {"name": "sum"}, "blocks": [{"name": "gate"}]},
        ...         {"pooling": {"name": "linear"}, "blocks": []},
        ...     ],
        ...     chosen={"ctr": [0, 1], "cvr": [1]},
        ... )
        >>> {t: tuple(h.shape) for t, h in automtl(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 8), 'cvr': (2, 8)}
    """

    tower_units = (64,)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        experts: Sequence[Config] = (),
        chosen: Mapping[str, Sequence[int]] | None = None,
        width: int | None = None,
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        _check_experts(experts)
        self.experts, self.width, self.gate_bias = _copied(tuple(experts)), width, gate_bias
        if chosen is None:
            chosen = {t: tuple(range(len(experts))) for t in self.tasks}
        self.chosen = _copied(chosen)
        _check_chosen(self.chosen, self.tasks, len(experts))
        self.expert_layers = [
            Expert(_resized(e["pooling"], width), e.get("blocks", ()), name=f"expert_{i}")
            for i, e in enumerate(experts)
        ]
        self.gates = {
            t: Gates(1, len(self.chosen[t]), gate_bias=gate_bias, name=f"gate_{t}")
            for t in self.tasks
            if len(self.chosen[t]) > 1
        }

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        return self._represent(fields, self.tasks, training)

    def represent(
        self, fields: tf.Tensor, tasks: Sequence[str], **row_inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._represent(fields, tasks, False)

    def _represent(
        self, fields: tf.Tensor, tasks: Sequence[str], training: bool
    ) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        experts = {i: self.expert_layers[i](fields, training=training) for i in self._of(tasks)}
        widths = {i: expert.shape[-1] for i, expert in experts.items()}
        if len(set(widths.values())) > 1:
            raise SpecError(
                f"{self.name}: the experts' representations have widths {widths}; gates mix those "
                "of one width. Leave out width= of the poolings, and give width= to the backbone."
            )
        representations = {}
        for task in tasks:
            of_task = [experts[i] for i in self.chosen[task]]
            if task in self.gates:
                mixed = self.gates[task](x, tf.stack(of_task, axis=1), training=training)
                representations[task] = mixed[:, 0]
            else:
                representations[task] = of_task[0]
        return representations

    def _of(self, tasks: Sequence[str]) -> list[int]:
        """The experts that some tasks need."""
        return sorted({i for task in tasks for i in self.chosen[task]})

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        gates = [self.gates[task] for task in tasks if task in self.gates]
        return [*(self.expert_layers[i] for i in self._of(tasks)), *gates]

    def last_shared(self) -> list[tf.Variable]:
        # Experts that every task reads, if they have kernels.
        shared = set.intersection(*(set(self.chosen[task]) for task in self.tasks))
        kernels = (
            [v for v in layer.trainable_variables if is_kernel(v)][-1:]
            for layer in (self.expert_layers[i] for i in sorted(shared))
        )
        return [kernel for last in kernels for kernel in last]


def _copied(plain: Any) -> Any:
    # Keras wraps the lists and dicts inside an attribute, in place.
    return copy.deepcopy(plain)


def _resized(pooling: Mapping[str, Any], width: int | None) -> Mapping[str, Any]:
    if width is None or not takes("pooling", pooling, "width"):
        return pooling
    return {"width": width, **pooling}


def _check_experts(experts: Sequence[Mapping[str, Any]]) -> None:
    right = '{"pooling": {"name": "sum"}, "blocks": [{"name": "mlp", "units": 64}]}'
    if not experts:
        raise SpecError(f"automtl: there is at least one expert; got none. {right} would be right.")
    for i, expert in enumerate(experts):
        if "pooling" not in expert or not set(expert) <= {"pooling", "blocks"}:
            raise SpecError(
                f"automtl: expert {i} is a pooling and its blocks, {right}; got {dict(expert)}."
            )


def _check_chosen(
    chosen: Mapping[str, Sequence[int]], tasks: Sequence[str], num_experts: int
) -> None:
    if set(chosen) != set(tasks):
        raise SpecError(
            f"automtl: chosen says which experts each of {list(tasks)} has; got those of "
            f"{list(chosen)}."
        )
    for task, places in chosen.items():
        known = set(places) <= set(range(num_experts))
        if not places or len(set(places)) < len(places) or not known:
            raise SpecError(
                f"automtl: task {task!r} has experts {list(places)}; one or more different ones of "
                f"{num_experts}, counted from 0, would be right."
            )
    unchosen = set(range(num_experts)) - {i for places in chosen.values() for i in places}
    if unchosen:
        raise SpecError(f"automtl: no task has experts {sorted(unchosen)}; leave them out.")
