"""The check of a model's parts against each other and against the problem, before data are read.

A part that has arguments, or is not the default one, is made once and forgotten: its constructor
knows what its arguments contradict. This loads TensorFlow; default parts need no check and do not.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfmtl import registry
from tfmtl.declare.checks import check_arguments, shown
from tfmtl.declare.conversions import (
    check_semantics,
    direct_tasks,
    impression_tasks,
    trained_tasks,
)
from tfmtl.declare.layout import fixed_table_rows
from tfmtl.declare.model import Model
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import SpecError

DEFAULTS = Model()
ROWS = 3
"""Rows of a table whose vocabulary is not fitted yet; a constructor only needs some number."""


def check_parts(problem: ProblemSpec, model: Model, *, meta: bool = False) -> None:
    """Refuses parts that do not exist, or whose arguments contradict each other or the problem.

    Args:
        problem: The declaration.
        model: The network.
        meta: Whether it is meta-trained, for which a balancer must do no more than weigh losses.

    Raises:
        SpecError: The message begins with the setting's dotted name.
    """
    if model.conv_semantics is not None:
        with _named("model.conv_semantics", model.conv_semantics):
            check_semantics(problem, model.conv_semantics)
    for feature in problem.sequences:
        _check_pooling(feature)
    parts = ("backbone", "interaction", "balancer", "terms", "members")
    unchanged = all(getattr(model, part) == getattr(DEFAULTS, part) for part in parts)
    if unchanged and not problem.sequences:
        return
    kind = _part("model.backbone", "backbone", model.backbone)
    semantics = model.conv_semantics or kind.conv_semantics
    with _named("model.backbone", model.backbone, kind):
        kind.check_declaration(problem)
        check_semantics(problem, semantics)
        rows = {f.name: fixed_table_rows(f) or ROWS for f in problem.features}
        derived = kind.derived(problem, rows)
        _check_underived(model.backbone, derived)
        tasks = direct_tasks(problem, semantics)
        backbone = registry.build("backbone", {**model.backbone, **derived}, tasks)
    with _named("model.tower_units", model.tower_units):
        units = backbone.tower_units if model.tower_units is None else model.tower_units
        backbone.check(problem, units)
    _check_interaction(model, backbone)
    with _named("model.members", model.members):
        check_members(model.members, backbone)
    trained = trained_tasks(problem, semantics)
    kinds = [problem.task(task).kind for task in trained]
    _check_balancer(model, backbone, trained, kinds, meta)
    everywhere = impression_tasks(problem, semantics)
    for i, term in enumerate(model.terms):
        part = _part(f"model.terms.{i}", "term", term)
        with _named(f"model.terms.{i}", term, part):
            registry.build("term", term, everywhere, problem)


def check_members(count: int, backbone: Any) -> None:
    """Refuses an ensemble over a backbone that does not read the fields of every row.

    Args:
        count: Members of the ensemble.
        backbone: A `Backbone`.

    Raises:
        SpecError: The message says what would be right.
    """
    if count > 1 and backbone.no_interaction:
        raise SpecError(
            f"members={count} are an ensemble of networks that read the fields of every row, and "
            f"not over backbone {backbone.name!r}, {backbone.no_interaction}. Leave members out, "
            "or take another backbone."
        )


def _check_pooling(feature: SequenceFeature) -> None:
    field = f"sequence {feature.name!r}: pooling"
    part = _part(field, "sequence_pooling", feature.pooling)
    with _named(field, feature.pooling, part):
        part.check_columns(feature)
        registry.build("sequence_pooling", feature.pooling)


def check_embedding_optimizer(name: str) -> None:
    """Refuses an optimizer of tables that does not exist; the default one is not looked up.

    Raises:
        SpecError: The message lists those that do.
    """
    if name != "rowwise_adam":
        with _named("training.embedding_optimizer", name):
            registry.get("optimizer", name)


METHODS = {
    "backbone": ("conv_semantics", "derived", "check_declaration", "tower_units"),
    "balancer": ("check", "check_weighs", "gradients"),
    "sequence_pooling": ("check_columns", "reads_target", "keeps_columns", "has_weights"),
}
"""What a part of your own has where it is a subclass of the library's base class."""


def _part(field: str, kind: str, config: Mapping[str, Any]) -> Any:
    with _named(field, config):
        part = registry.get(kind, config["name"])
        if not all(hasattr(part, method) for method in METHODS.get(kind, ())):
            room = registry.ROOMS[kind]
            raise SpecError(
                f"{config['name']!r} is no {kind}; one of your own is a subclass of "
                f"{room}.{''.join(word.capitalize() for word in kind.split('_'))}."
            )
    return part


def _check_underived(given: Mapping[str, Any], derived: Mapping[str, Any]) -> None:
    for argument in derived:
        if argument in given:
            raise SpecError(
                f"{given['name']}: {argument}={given[argument]} is not to be given; it follows "
                "from the declaration and the data. Leave it out."
            )


def _check_interaction(model: Model, backbone: Any) -> None:
    if model.interaction is None:
        return
    part = _part("model.interaction", "interaction", model.interaction)
    with _named("model.interaction", model.interaction, part):
        layer = registry.build("interaction", model.interaction)
        if backbone.no_interaction:
            raise SpecError(
                f"interaction={dict(model.interaction)} stands below a backbone that reads the "
                f"fields of every row; not below {type(backbone).__name__}, "
                f"{backbone.no_interaction}. Leave it out, or take another backbone."
            )
        # Errors about the width do not depend on the number of fields.
        layer.build((None, 1, model.dim))


def _check_balancer(
    model: Model, backbone: Any, trained: Sequence[str], kinds: Sequence[str], meta: bool
) -> None:
    part = _part("model.balancer", "balancer", model.balancer)
    with _named("model.balancer", model.balancer, part):
        registry.build("balancer", model.balancer, trained, kinds).check(backbone)
        if meta:
            part.check_weighs()


@contextlib.contextmanager
def _named(field: str, value: Any, part: Any = None) -> Iterator[None]:
    """Puts the field's dotted name before what a constructor says of its arguments."""
    try:
        yield
    except ValueError as error:  # `SpecError` is one, too.
        raise SpecError(f"{field}: {error}") from error
    except Exception as error:
        # A constructor that stumbles over a type says so in Python's words; ours name the type.
        _check_types(field, value, part)
        raise SpecError(f"{field}={shown(value)}: {type(error).__name__}: {error}") from error
    _check_types(field, value, part)


def _check_types(field: str, value: Any, part: Any) -> None:
    if part is not None:
        arguments = {name: each for name, each in value.items() if name != "name"}
        check_arguments(f"{field}.", part, arguments)
