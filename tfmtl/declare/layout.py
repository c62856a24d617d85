"""Where each feature lies in the packed tensors.

Preprocessing writes one int64 tensor of ids and one float32 tensor of numbers a side (user, ad,
context), so that parsing is cheap and a tower can be served from its own side alone.
"""

import dataclasses

from tfmtl.declare.features import FIRST, SIDES, Categorical, Feature, Numerical
from tfmtl.declare.problem import ProblemSpec

LABELS, WEIGHTS, GROUP = "labels", "label_weights", "group"
PSEUDO = "pseudo"
"""1 where a label is a pseudo-label, float32 `[batch, tasks]`; only where a task declares one."""


@dataclasses.dataclass(frozen=True)
class Slots:
    """Consecutive columns `start … start + width − 1` of one packed tensor."""

    feature: Feature
    start: int
    width: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Slots of ids, numbers and list weights, in the order of the concatenated `sides`.

    Attributes:
        sides: Sides covered, in order.
        ids: Slots in the ids of all `sides` side by side.
        numbers: Slots in the numbers of all `sides` side by side.
        weights: By feature, where a list's weights start in the numbers.
        id_width: Columns of ids, in all.
        number_width: Columns of numbers, in all.
        id_columns: Columns of ids, by side.
        number_columns: Columns of numbers, by side.
    """

    sides: tuple[str, ...]
    ids: tuple[Slots, ...]
    numbers: tuple[Slots, ...]
    weights: dict[str, int]
    id_width: int
    number_width: int
    id_columns: dict[str, int]
    number_columns: dict[str, int]


def layout_of(problem: ProblemSpec, sides: tuple[str, ...] = SIDES) -> Layout:
    """The layout of a problem's features, of all sides or of some."""
    ids, numbers, weights = [], [], {}
    id_columns, number_columns = {}, {}
    id_at = number_at = 0
    for side in sides:
        id_start, number_start = id_at, number_at
        for feature in problem.features:
            if feature.side != side:
                continue
            if has_ids(feature):
                width = (feature.max_values if isinstance(feature, Categorical) else 0) or 1
                ids.append(Slots(feature, id_at, width))
                id_at += width
                if isinstance(feature, Categorical) and feature.weights is not None:
                    weights[feature.name] = number_at
                    number_at += width
            width = number_width(feature)
            if width:
                numbers.append(Slots(feature, number_at, width))
                number_at += width
        id_columns[side], number_columns[side] = id_at - id_start, number_at - number_start
    return Layout(
        sides, tuple(ids), tuple(numbers), weights, id_at, number_at, id_columns, number_columns
    )


def has_pseudo(problem: ProblemSpec) -> bool:
    """Whether packed rows say which labels are pseudo-labels."""
    return any(task.pseudo_label is not None for task in problem.tasks)


def has_ids(feature: Feature) -> bool:
    """Whether the feature is looked up in a table."""
    if isinstance(feature, Numerical):
        return feature.encoding == "quantile"
    return isinstance(feature, Categorical)


def is_list(feature: Feature) -> bool:
    """Whether the feature has several ids a row."""
    return isinstance(feature, Categorical) and feature.max_values > 0


def number_width(feature: Feature) -> int:
    """How many numbers the feature gives the model."""
    if isinstance(feature, Categorical):
        return 0
    if not isinstance(feature, Numerical):
        return 1
    width = {"standard": 1, "log": 1, "quantile": 0, "piecewise": feature.bins}[feature.encoding]
    return width + feature.indicator


def fixed_table_rows(feature: Feature) -> int | None:
    """Rows of a table that the declaration fixes; `None` for a fitted vocabulary."""
    if isinstance(feature, Numerical):
        return feature.bins + FIRST
    if isinstance(feature, Categorical) and feature.encoding != "vocabulary":
        assert feature.size is not None
        return feature.size + FIRST
    return None
