"""What a search finds: every block's operation and every task's experts, as plain data."""

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
    """A network of AutoMTL's space: what a search found, or one that is written by hand.

    Its JSON is all that training needs: `apply` makes an ordinary experiment of it.

    Args:
        experts: Those that a task chose.
        tasks: By task, its experts.
        interaction: The fields' operation below all experts; `None` without one.
        n_chosen: How many experts each task was to choose.
        num_experts: How many there were to choose from.
        tower_units: Widths of each task's tower.
        width: Width of the hidden vectors; that of the fields if not given.
        dim: Width of the fields that the search saw.
        fields: How many there were.
        dataset: What was searched on.
        seed: Of the search.
        frozen_ops: Operations whose weights were stopped, as `hidden_0/mlp-64/3`: block, label
            and, but for interactions, expert.
        search: How it was found: the settings, and what was spent.

    Raises:
        SpecError: The parts contradict each other: two experts of one id, a task whose expert is
            not there, or an expert of no task.

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
            own = list(selection.experts)
            if not own or len(set(own)) < len(own) or not set(own) <= set(ids):
                raise SpecError(
                    f"architecture: task {task!r} has experts {own}; one or more different ones "
                    f"of {ids} would be right."
                )
            if selection.beta is not None and max(own) >= len(selection.beta):
                raise SpecError(
                    f"architecture: task {task!r} has experts {own} and weights of "
                    f"{len(selection.beta)}; beta has one for every expert of the search."
                )
        chosen = {i for selection in self.tasks.values() for i in selection.experts}
        if unchosen := sorted(set(ids) - chosen):
            raise SpecError(f"architecture: no task chooses experts {unchosen}; leave them out.")

    @property
    def skips(self) -> int:
        """Blocks that are left out: those of the experts, and the interaction."""
        return sum(chosen.is_skip for chosen in self._keeping_shape())

    def _keeping_shape(self) -> Iterator[Chosen]:
        if self.interaction is not None:
            yield self.interaction
        for expert in self.experts:
            yield from expert.blocks

    @property
    def line(self) -> str:
        """The whole network in a line, for a progress bar; layers that are skips are left out."""
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
        rows = [] if self.interaction is None else [("interaction", _said(self.interaction))]
        for expert in self.experts:
            layers = " → ".join(map(_said, (expert.pooling, *expert.blocks)))
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
        """The experiment with this network in place of its own, and nothing left to search.

        It trains and serves as any other: new weights, and everything else as it says.

        Args:
            experiment: What was searched for, or another one with the same tasks.

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
        """Text from which `from_json` makes an equal architecture."""
        plain = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(plain, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """The architecture that `to_json` wrote.

        Raises:
            SpecError: The text is no JSON, of another schema, or lacks a key or has one that is
                unknown.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise SpecError(f"architecture: the text is no JSON: {error}.") from error
        if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
            found = plain.get("schema") if isinstance(plain, dict) else plain
            raise SpecError(
                f"architecture: schema={found!r} is not {SCHEMA}, which this version reads."
            )
        del plain["schema"]
        own = fields_of(cls, plain, "architecture")
        own["experts"] = [
            _expert(expert, f"architecture.experts[{i}]")
            for i, expert in enumerate(of_type(list, own["experts"], "architecture.experts"))
        ]
        own["tasks"] = {
            task: Selection(**fields_of(Selection, selection, f"architecture.tasks[{task!r}]"))
            for task, selection in of_type(dict, own["tasks"], "architecture.tasks").items()
        }
        if own.get("interaction") is not None:
            own["interaction"] = _chosen(own["interaction"], "architecture.interaction")
        return cls(**own)


def _said(chosen):
    return chosen.label if chosen.prob is None else f"{chosen.label} ({chosen.prob:.2f})"


def _expert(plain, where):
    own = fields_of(Expert, plain, where)
    blocks = of_type(list, own["blocks"], f"{where}.blocks")
    return Expert(
        id=of_type(int, own["id"], f"{where}.id"),
        pooling=_chosen(own["pooling"], f"{where}.pooling"),
        blocks=[_chosen(block, f"{where}.blocks[{i}]") for i, block in enumerate(blocks)],
    )


def _chosen(plain, where):
    return Chosen(**fields_of(Chosen, plain, where))
