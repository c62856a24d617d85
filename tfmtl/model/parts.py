"""The parts of a model, made from its configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import tf_keras as keras

from tfmtl import registry
from tfmtl.backbones.base import Backbone
from tfmtl.declare.conversions import (
    check_semantics,
    direct_tasks,
    impression_tasks,
    trained_tasks,
)
from tfmtl.declare.experiment import Model
from tfmtl.declare.features import SIDES
from tfmtl.declare.parts import check_members
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.layers.embedding import Embedding
from tfmtl.layers.id_dropout import IdDropout
from tfmtl.layers.members import Members
from tfmtl.model.heads import Heads
from tfmtl.model.interaction import check_interaction, interactions_of


def parts_of(
    problem: ProblemSpec,
    table_rows: Mapping[str, int],
    config: Model,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """The keyword arguments of `MultiTaskModel` that a configuration describes.

    Args:
        problem: The declaration.
        table_rows: Rows of each feature's table, by feature name.
        config: The network.
        backbone: Takes the place of the one that `config` names.

    Raises:
        SpecError: A part or an argument is unknown, or the parts do not fit together.
    """
    kind: Any = backbone or registry.get("backbone", config.backbone.get("name", ""))
    semantics = config.conv_semantics or kind.conv_semantics
    check_semantics(problem, semantics)
    if backbone is None:
        backbone = _backbone(problem, table_rows, config, direct_tasks(problem, semantics))
    units = backbone.tower_units if config.tower_units is None else config.tower_units
    backbone.check(problem, units)
    check_interaction(config.interaction, type(backbone), config.dim)
    embedding = _embedding(problem, table_rows, config, backbone)
    heads = Heads(
        problem,
        tower_units=tuple(units),
        dropout=config.tower_dropout,
        batch_norm=config.tower_batch_norm,
        conv_semantics=semantics,
        name="heads",
    )
    backbone.prepare_heads(heads)
    return {
        "embedding": embedding,
        "backbone": backbone,
        "heads": heads,
        "balancer": _balancer(problem, config, semantics, backbone),
        "terms": _terms(problem, config, semantics, backbone),
        "interaction": interactions_of(config.interaction, embedding),
        "l2": config.l2,
        "table_l2": config.table_l2,
        "members": _members(config.members, backbone),
        "id_dropout": _id_dropout(config.id_dropout, embedding),
        "loss_reduction": config.loss_reduction,
    }


def _backbone(
    problem: ProblemSpec, table_rows: Mapping[str, int], config: Model, tasks: Sequence[str]
) -> Backbone:
    given = config.backbone
    derived = registry.get("backbone", given["name"]).derived(problem, table_rows)
    for argument, value in derived.items():
        if argument in given:
            raise SpecError(
                f"{given['name']}: {argument}={given[argument]} is not to be given; it follows "
                f"from the declaration and the data, and is {value}. Leave it out."
            )
    backbone: Backbone = registry.build("backbone", {**given, **derived}, tasks)
    return backbone


def _embedding(
    problem: ProblemSpec, table_rows: Mapping[str, int], config: Model, backbone: Backbone
) -> Embedding | dict[str, Embedding]:
    def make(
        name: str,
        sides: tuple[str, ...] = SIDES,
        copies: int = 1,
        lender: Embedding | None = None,
    ) -> Embedding:
        return Embedding(
            problem,
            table_rows,
            dim=config.dim,
            numeric_mode=config.numeric_mode,
            numeric_units=config.numeric_units,
            sides=sides,
            copies=copies,
            lender=lender,
            name=name,
        )

    embedding = backbone.embeddings(make)
    if isinstance(embedding, Mapping):
        backbone.describe(problem, {name: each.fields for name, each in embedding.items()})
    else:
        backbone.describe(problem, embedding.fields)
    return embedding


def _members(count: int, backbone: Backbone) -> Members | None:
    if count == 1:
        return None
    check_members(count, backbone)
    return Members(count, backbone.tasks, name="members")


def _id_dropout(rate: float, embedding: Embedding | dict[str, Embedding]) -> Any:
    if not rate:
        return None
    if isinstance(embedding, Mapping):
        return {
            name: IdDropout(rate, len(each.layout.ids), name=f"id_dropout_{name}")
            for name, each in embedding.items()
        }
    return IdDropout(rate, len(embedding.layout.ids), name="id_dropout")


def _balancer(
    problem: ProblemSpec, config: Model, semantics: str, backbone: Backbone
) -> keras.layers.Layer:
    trained = trained_tasks(problem, semantics)
    kinds = [problem.task(t).kind for t in trained]
    balancer = registry.build("balancer", config.balancer, trained, kinds)
    balancer.check(backbone)
    return balancer


def _terms(problem: ProblemSpec, config: Model, semantics: str, backbone: Backbone) -> list[Any]:
    everywhere = impression_tasks(problem, semantics)
    terms = (*backbone.default_terms, *config.terms)
    return [registry.build("term", term, everywhere, problem) for term in terms]
