"""The result of a search as plain data: the operation of every block, the experts of every task."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfmtl import registry
from tfmtl.automtl.parts import Chosen, Expert, Selection
from tfmtl.automtl.strict import fields_of, of_type
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import freeze

if TYPE_CHECKING:
    from tfmtl.declare.experiment import ExperimentConfig

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of AutoMTL's space, from a search or written by hand.

    Training needs only its JSON: `apply` makes an ordinary experiment of it.

    Args:
        experts: The experts that a task chose.
        tasks: The experts of each task.
        interaction: The operation on the fields below all experts; `None` without one.
        n_chosen: Number of experts that each task had to choose.
        num_experts: Number of experts in the search.
        tower_units: Widths of each task's tower.
        width: Width of the hidden vectors; that of the fields by default.
        dim: Width of the fields in the search.
        fields: Number of fields in the search.
        dataset: Name of the data of the search.
        seed: Seed of the search.
        frozen_ops: Operations whose weights were stopped, such as `hidden_0/mlp-64/3`: block,
            label and, except for interactions, expert.
        search: Settings and cost of the search.

    Raises:
        SpecError: The parts contradict each other: two experts have the same id, an expert of a
            task is missing, or no task has an expert.

    Example:
        >>> pooling = Chosen(label="sum", config={"name": "sum"})
        >>> expert = Expert(id=0, pooling=pooling, blocks=())
        >>> found = Architecture(experts=[expert], tasks={"ctr": Selection(experts=[0])})
        >>> Architecture.from_json(found.to_json()) == found
        True
        >>> found.line
        'expert 0: sum | ctr: 0'
    """

    experts: Sequence[Expert]
    tasks: Mapping[str, Selection]
    interaction: Chosen | None = None
    n_chosen: int | None = None
    num_experts: int | None = None
    tower_units: Sequence[int] = (64,)
    width: int | None = None
    dim: int | None = None
    fields: int | None = None
    dataset: str | None = None
    seed: int | None = None
    frozen_ops: Sequence[str] = ()
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self)
        ids = [expert.id for expert in self.experts]
        if len(set(ids)) < len(ids):
            raise SpecError(f"architecture: experts have one id each; got {ids}.")
        if not self.tasks:
            raise SpecError("architecture: no task chooses an expert; tasks is empty.")
        for task, selection in self.tasks.items():
            experts = list(selection.experts)
            if not experts or len(set(experts)) < len(experts) or not set(experts) <= set(ids):
                raise SpecError(
                    f"architecture: task {task!r} has experts {experts}; one or more different "
                    f"ones of {ids} would be right."
                )
            if selection.beta is not None and max(experts) >= len(selection.beta):
                raise SpecError(
                    f"architecture: task {task!r} has experts {experts} and weights of "
                    f"{len(selection.beta)}; beta has one for every expert of the search."
                )
        chosen = {i for selection in self.tasks.values() for i in selection.experts}
        if unchosen := sorted(set(ids) - chosen):
            raise SpecError(f"architecture: no task chooses experts {unchosen}; leave them out.")

    @property
    def skips(self) -> int:
        """Number of blocks that are skips, of the experts and the interaction."""
        return sum(chosen.is_skip for chosen in self._keeping_shape())

    def _keeping_shape(self) -> Iterator[Chosen]:
        if self.interaction is not None:
            yield self.interaction
        for expert in self.experts:
            yield from expert.blocks

    @property
    def line(self) -> str:
        """The network in one line, for a progress bar; without the layers that are skips."""
        parts = [] if self.interaction is None else [self.interaction.label]
        for expert in self.experts:
            layers = (c.label for c in (expert.pooling, *expert.blocks) if not c.is_skip)
            parts.append(f"expert {expert.id}: {' '.join(layers)}")
        parts += [
            f"{task}: {' '.join(map(str, selection.experts))}"
            for task, selection in self.tasks.items()
        ]
        return " | ".join(parts)

    def __str__(self) -> str:
        rows = [] if self.interaction is None else [("interaction", _label_of(self.interaction))]
        for expert in self.experts:
            layers = " → ".join(map(_label_of, (expert.pooling, *expert.blocks)))
            rows.append((f"expert {expert.id}", layers))
        for task, selection in self.tasks.items():
            weights = selection.beta
            experts = (
                f"{i}" if weights is None else f"{i} ({weights[i]:.2f})" for i in selection.experts
            )
            rows.append((task, f"experts {', '.join(experts)}"))
        rows.append(("skips", f"{self.skips} of {sum(1 for _ in self._keeping_shape())} blocks"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def apply(self, experiment: "ExperimentConfig") -> "ExperimentConfig":
        """Returns the experiment with this network instead of its own, and without a search.

        It trains and serves like any other experiment, with new weights.

        Args:
            experiment: The experiment of the search, or another one with the same tasks.

        Raises:
            SpecError: An operation is not registered or has no such argument, or the problem
                has no such task.
        """
        if self.interaction is not None:
            registry.check("interaction", self.interaction.config)
        for expert in self.experts:
            registry.check("pooling", expert.pooling.config)
            for block in expert.blocks:
                registry.check("hidden", block.config)
        known = list(experiment.problem.task_names)
        for task in self.tasks:
            if task not in known:
                raise SpecError(
                    f"architecture: task {task!r} is none of the problem's, {known}."
                    f"{did_you_mean(task, known)}"
                )
        interaction = self.interaction
        place = {expert.id: i for i, expert in enumerate(self.experts)}
        backbone: dict[str, Any] = {
            "name": "automtl",
            "experts": [
                {
                    "pooling": dict(expert.pooling.config),
                    "blocks": [dict(block.config) for block in expert.blocks],
                }
                for expert in self.experts
            ],
            "chosen": {
                task: [place[i] for i in selection.experts]
                for task, selection in self.tasks.items()
            },
        }
        if self.width is not None:
            backbone["width"] = self.width
        fields = None if interaction is None or interaction.is_skip else dict(interaction.config)
        model = dataclasses.replace(
            experiment.model,
            interaction=fields,
            backbone=backbone,
            tower_units=self.tower_units,
        )
        return dataclasses.replace(experiment, model=model, search=None)

    def to_json(self) -> str:
        """Returns the text from which `from_json` makes an equal architecture."""
        plain = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(plain, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Reads the text of `to_json`.

        Raises:
            SpecError: The text is not JSON or has another schema, a key is missing, or one is
                unknown.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise SpecError(f"architecture: the text is no JSON: {error}.") from error
        if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
            schema = plain.get("schema") if isinstance(plain, dict) else plain
            raise SpecError(
                f"architecture: schema={schema!r} is not {SCHEMA}, which this version reads."
            )
        del plain["schema"]
        fields = fields_of(cls, plain, "architecture")
        fields["experts"] = [
            _expert(expert, f"architecture.experts[{i}]")
            for i, expert in enumerate(of_type(list, fields["experts"], "architecture.experts"))
        ]
        fields["tasks"] = {
            task: Selection(**fields_of(Selection, selection, f"architecture.tasks[{task!r}]"))
            for task, selection in of_type(dict, fields["tasks"], "architecture.tasks").items()
        }
        if fields.get("interaction") is not None:
            fields["interaction"] = _chosen(fields["interaction"], "architecture.interaction")
        return cls(**fields)


def _label_of(chosen: Chosen) -> str:
    return chosen.label if chosen.prob is None else f"{chosen.label} ({chosen.prob:.2f})"


def _expert(plain: Any, where: str) -> Expert:
    fields = fields_of(Expert, plain, where)
    blocks = of_type(list, fields["blocks"], f"{where}.blocks")
    return Expert(
        id=of_type(int, fields["id"], f"{where}.id"),
        pooling=_chosen(fields["pooling"], f"{where}.pooling"),
        blocks=[_chosen(block, f"{where}.blocks[{i}]") for i, block in enumerate(blocks)],
    )


def _chosen(plain: Any, where: str) -> Chosen:
    return Chosen(**fields_of(Chosen, plain, where))
