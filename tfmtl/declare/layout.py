"""Where each feature lies in the packed tensors.

Preprocessing writes one int64 tensor of ids and one float32 tensor of numbers per side (user, ad,
context), so that parsing is cheap and a tower can be served from its own side alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tfmtl.declare.features import FIRST, SIDES, Categorical, Feature, Numerical
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import Event, SequenceFeature

LABELS, WEIGHTS, GROUP = "labels", "label_weights", "group"
PSEUDO = "pseudo"
"""1 where a label is a pseudo-label, float32 `[batch, tasks]`; only where a task declares one."""


@dataclasses.dataclass(frozen=True)
class Slots:
    """Consecutive columns `start … start + width − 1` of one packed tensor."""

    feature: Any
    start: int
    width: int


@dataclasses.dataclass(frozen=True)
class SequenceSlots:
    """Where a sequence's ids lie: `max_length` columns per event column, then those of ages.

    Padding is −1 and stands at the end; the newest event stands first.
    """

    feature: SequenceFeature
    start: int

    @property
    def length(self) -> int:
        """Events per row, `L`."""
        return self.feature.max_length

    @property
    def width(self) -> int:
        """Columns of ids, in all."""
        return self.length * (len(self.feature.events) + (self.feature.time is not None))

    def columns(self, place: int) -> slice:
        """The columns of the event column at a place; of the ages at the place behind the last."""
        start = self.start + place * self.length
        return slice(start, start + self.length)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of embeddings and the vocabulary of its ids.

    Attributes:
        name: The name of the feature whose table it is, or `sequence/column` of an event column.
        vocabulary: The name of its vocabulary.
        feature: What has the encoding.
    """

    name: str
    vocabulary: str
    feature: Any

    @property
    def fixed_rows(self) -> int | None:
        """Rows that the declaration fixes; `None` for a fitted vocabulary."""
        return fixed_table_rows(self.feature)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Slots of ids, numbers and list weights, in the order of the concatenated `sides`.

    Attributes:
        sides: Sides covered, in order.
        ids: Slots in the ids of all `sides` side by side, without those of sequences.
        sequences: Slots of the sequences in the same ids.
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
    sequences: tuple[SequenceSlots, ...] = ()


def layout_of(problem: ProblemSpec, sides: tuple[str, ...] = SIDES) -> Layout:
    """The layout of a problem's features, of all sides or of some."""
    ids, sequences, numbers, weights = [], [], [], {}
    id_columns, number_columns = {}, {}
    id_at = number_at = 0
    for side in sides:
        id_start, number_start = id_at, number_at
        for feature in problem.features:
            if feature.side != side:
                continue
            if isinstance(feature, SequenceFeature):
                sequences.append(SequenceSlots(feature, id_at))
                id_at += sequences[-1].width
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
        sides,
        tuple(ids),
        tuple(numbers),
        weights,
        id_at,
        number_at,
        id_columns,
        number_columns,
        tuple(sequences),
    )


def tables_of(problem: ProblemSpec) -> tuple[Table, ...]:
    """The tables of a problem, each once: those of features, then those of event columns."""
    tables = [
        Table(f.name, f.name, f)
        for f in problem.features
        if has_ids(f) and getattr(f, "of", None) is None
    ]
    for sequence in problem.sequences:
        for event in sequence.events:
            if event.of is None or event.share == "vocabulary":
                name = sequence.event_name(event)
                tables.append(Table(name, event.of or name, event))
    return tuple(tables)


def table_of(sequence: SequenceFeature, place: int) -> str:
    """The name of the table in which an event column is looked up."""
    event = sequence.events[place]
    if event.of is not None and event.share == "table":
        return event.of
    return sequence.event_name(event)


def table_rows_of(problem: ProblemSpec, vocabulary_size: Callable[[str], int]) -> dict[str, int]:
    """Rows of each table by name, with two for unknown and missing values.

    Args:
        problem: The declaration.
        vocabulary_size: The number of values in a fitted vocabulary, by its name.
    """
    return {
        table.name: table.fixed_rows or vocabulary_size(table.vocabulary) + FIRST
        for table in tables_of(problem)
    }


def has_pseudo(problem: ProblemSpec) -> bool:
    """Whether packed rows say which labels are pseudo-labels."""
    return any(task.pseudo_label is not None for task in problem.tasks)


def has_ids(feature: Feature) -> bool:
    """Whether the feature is looked up in a table."""
    return isinstance(feature, Categorical | Numerical) and bool(feature.encoder.has_ids)


def is_list(feature: Feature) -> bool:
    """Whether the feature has several ids per row."""
    return isinstance(feature, Categorical) and feature.max_values > 0


def number_width(feature: Feature) -> int:
    """How many numbers the feature gives the model."""
    if isinstance(feature, SequenceFeature):
        return 0
    if isinstance(feature, Categorical):
        return int(feature.encoder.width)
    if isinstance(feature, Numerical):
        return int(feature.encoder.width) + feature.indicator
    return 1


def fixed_table_rows(feature: Any) -> int | None:
    """Rows of a table that the declaration fixes; `None` for a fitted vocabulary."""
    if not isinstance(feature, Categorical | Numerical | Event) or feature.encoder.ids is None:
        return None
    return int(feature.encoder.ids) + FIRST
