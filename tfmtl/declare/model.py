"""The settings of the network."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

from tfmtl.declare.checks import at_least, below, check_settings, one_of, shown
from tfmtl.declare.conversions import CONV_SEMANTICS
from tfmtl.errors import SpecError
from tfmtl.plain import freeze
from tfmtl.registry import config_of

Part: TypeAlias = Any
"""A name, a class or a mapping with a `name`; kept as the latter, which its readers rely on."""

NUMERIC_MODES = ("joint", "fieldwise")
LOSS_REDUCTIONS = ("masked", "batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network.

    A part is given as a registered name, `"mmoe"`; as a class of your own at the top of a module;
    or as a mapping of either's `name` and its arguments, `{"name": "mmoe", "num_experts": 4}` or
    `{"name": "my_shop.parts:Tower"}`. It is kept as such a mapping.

    Args:
        backbone: Registered backbone and its arguments, `{"name": "mmoe", "num_experts": 4}`.
        interaction: Registered interaction of the fields below the backbone and its arguments,
            `{"name": "cross", "layers": 2}`; none by default. See `tfmtl.operations`.
        dim: Width of embeddings, where a feature does not say otherwise.
        numeric_mode: `joint` (all numbers through one dense layer, one field) or `fieldwise`
            (one field per number, `xⱼ·wⱼ + bⱼ`).
        numeric_units: Widths of ReLU layers below the joint field; none by default.
        tower_units: Widths of each task's tower; the backbone's default if not given.
        tower_dropout: Share dropped in the towers.
        conv_semantics: `ctcvr_direct`, `cvr_click`, `esmm`, `mtms` or `mtms_literal`; the
            backbone's default if not given. See `Heads`.
        balancer: Registered balancer and its arguments.
        terms: Further batch-level loss terms; those of the backbone are added automatically.
        l2: Weight of `½‖w‖²` over dense kernels and looked-up rows, the latter divided by the
            batch size.
        table_l2: Weight of the looked-up rows' decay alone; `l2` by default.
        id_dropout: Share of the fields of ids that a training row does not see, each by itself; it
            reads zeros instead, as for a value never seen.
        loss_reduction: How a task's losses of a batch become one: `masked`, their weighted mean
            over the rows on which the task is observed, or `batch`, their weighted sum divided by
            all rows of the batch: a task observed on one row in fifty then weighs a fiftieth. See
            `tfmtl.losses.per_example.masked_mean`.
        members: How many networks are trained as one, which share all but a few vectors; the mean
            of their predictions is served. A step and a prediction cost about as many times more
            above the embedding. See `tfmtl.layers.members`.

    Raises:
        SpecError: A setting has the wrong type or lies out of its range.
    """

    backbone: Part = dataclasses.field(default_factory=lambda: {"name": "mmoe"})
    interaction: Part | None = None
    dim: int = 16
    numeric_mode: str = "joint"
    numeric_units: Sequence[int] = ()
    tower_units: Sequence[int] | None = None
    tower_dropout: float = 0.0
    tower_batch_norm: bool = False
    conv_semantics: str | None = None
    balancer: Part = dataclasses.field(default_factory=lambda: {"name": "fixed"})
    terms: Sequence[Part] = ()
    l2: float = 1e-6
    table_l2: float | None = None
    id_dropout: float = 0.0
    loss_reduction: str = "masked"
    members: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.terms, str) or not isinstance(self.terms, Sequence):
            raise SpecError(
                f"model.terms={shown(self.terms)} must be a list of terms, as "
                "({'name': 'order_calibration'},); leave it out for none."
            )
        parts: dict[str, Any] = {
            "backbone": _config("model.backbone", "backbone", self.backbone),
            "balancer": _config("model.balancer", "balancer", self.balancer),
            "terms": tuple(
                _config(f"model.terms.{i}", "term", term) for i, term in enumerate(self.terms)
            ),
        }
        if self.interaction is not None:
            parts["interaction"] = _config("model.interaction", "interaction", self.interaction)
        for field, part in parts.items():
            object.__setattr__(self, field, part)
        freeze(self)
        check_settings(
            "model.",
            self,
            {
                "dim": at_least(1),
                "numeric_mode": one_of(NUMERIC_MODES),
                "numeric_units": at_least(1),
                "tower_units": at_least(1),
                "tower_dropout": below(0, 1),
                "conv_semantics": one_of(CONV_SEMANTICS),
                "l2": at_least(0),
                "table_l2": at_least(0),
                "id_dropout": below(0, 1),
                "members": at_least(1),
                "loss_reduction": one_of(LOSS_REDUCTIONS),
            },
        )


def _config(name: str, kind: str, part: Part) -> dict[str, Any]:
    try:
        return config_of(kind, part)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None
