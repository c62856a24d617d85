"""Behaviour sequences: what a user did before the row, as aligned list columns.

    sequence(
        "clicked",
        events=(
            event("clicked_ads", of="ad_id"),
            event("clicked_categories", of="category"),
            event("clicked_actions", encoding="identity", size=4),
        ),
        order="oldest_first", time="clicked_times", row_time="event_time",
        max_length=50, pooling="din",
    )

Place `i` of every column is one event. The first column leads: an event exists where it has a
value. Packed events stand newest first, so that place `p` is the `p`-th last event of any row.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfmtl import registry
from tfmtl.declare.checks import at_least, check_settings, filled, from_plain, one_of
from tfmtl.declare.columns import LIMITS, Column
from tfmtl.declare.encoding import Encoding, check_dim, encoder_of, encoding_config
from tfmtl.errors import SpecError
from tfmtl.plain import freeze

ORDERS = ("oldest_first", "newest_first")
LATE = ("drop", "refuse", "keep")
SHARES = ("table", "vocabulary")
FIELDS = ("each", "joint")
TIME_UNITS: Mapping[str, int] = {"s": 60, "ms": 60_000, "d": 1}
"""The age, in each unit, that the first bucket of ages ends at."""
AGE_BUCKETS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One of the aligned columns of a sequence. Made by `event`, which documents the fields."""

    kind: ClassVar[str] = "categorical"
    column: str
    of: str | None = None
    share: str = "table"
    dtype: str | None = None
    encoding: Mapping[str, Any] | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        limits = {**LIMITS, "share": one_of(SHARES)}
        check_settings(f"event {self.column!r}: ", self, limits)
        if self.of is None and self.encoding is None:
            raise SpecError(f"event {self.column!r}: give of=, or an encoding.")
        if self.of is None and self.share != "table":
            raise SpecError(
                f"event {self.column!r}: share={self.share!r} shares nothing without of=."
            )
        if self.encoding is not None:
            _check_event(self)

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoding, of `tfmtl.features.encodings.CategoricalEncoding`."""
        assert self.encoding is not None  # A problem fills in what `of` refers to.
        return encoder_of(f"event {self.column!r}", self.kind, self.encoding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFeature:
    """What a user did before the row. Made by `sequence`, which documents the fields."""

    kind: ClassVar[str] = "sequence"
    name: str
    side: str
    events: tuple[Event, ...]
    max_length: int
    order: str
    time: str | None
    row_time: str | None
    time_unit: str
    late: str
    gap: int
    pooling: Mapping[str, Any]
    fields: str | None
    search: str | None
    search_length: int

    def __post_init__(self) -> None:
        if isinstance(self.events, list | tuple):
            made = (_event_of(self.name, i, e) for i, e in enumerate(self.events))
            object.__setattr__(self, "events", tuple(made))
        events = self.events
        freeze(self)
        object.__setattr__(self, "events", events)
        field = f"sequence {self.name!r}"
        check_settings(
            f"{field}: ",
            self,
            {
                **{name: LIMITS[name] for name in ("name", "side")},
                "max_length": at_least(1),
                "order": one_of(ORDERS),
                "time": filled(),
                "row_time": filled(),
                "time_unit": one_of(tuple(TIME_UNITS)),
                "late": one_of(LATE),
                "gap": at_least(0),
                "search_length": at_least(1),
                "fields": one_of(FIELDS),
            },
        )
        if not self.events:
            raise SpecError(f"{field}: events=() declares no column; give at least one event(…).")
        names = [e.column for e in self.events] + ([self.time] if self.time else [])
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"{field}: column {name!r} is named twice; each event has its own.")
        if self.time is None and (self.row_time, self.gap, self.late) != (None, 0, "drop"):
            raise SpecError(
                f"{field}: row_time=, late= and gap= say which events are too late, which only "
                "time= can tell; give the list column with the events' times."
            )
        if self.row_time is not None and self.row_time in names:
            raise SpecError(f"{field}: row_time={self.row_time!r} is a column of the events.")
        matched = [e.column for e in self.events if e.of is not None]
        if self.search is not None and self.search not in matched:
            raise SpecError(
                f"{field}: search={self.search!r} is no event column with of=; those are {matched}."
            )

    @property
    def leading(self) -> Event:
        """The column that says where an event is."""
        return self.events[0]

    def event_name(self, event: Event) -> str:
        """The name of an event column's field, `clicked/clicked_ads`."""
        return f"{self.name}/{event.column}"

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        lists = [(e.column, e.dtype or "string") for e in self.events]
        if self.time is not None:
            lists.append((self.time, "int64"))
        columns = [
            Column(name=name, dtype=dtype, max_values=self.max_length, whole=True)
            for name, dtype in lists
        ]
        if self.time is not None and self.row_time is not None:
            columns.append(Column(name=self.row_time, dtype="int64"))
        return tuple(columns)


def event(
    column: str,
    *,
    of: str | None = None,
    share: str = "table",
    dtype: str | None = None,
    encoding: Encoding | None = None,
    size: int | None = None,
    min_count: int | None = None,
    dim: int | None = None,
) -> Event:
    """Declares one of the aligned columns of a sequence.

    Args:
        column: Raw list column.
        of: A single-valued `categorical` whose values the events are. Type, encoding, ids and width
            are that feature's. The pooling compares events with that feature's value, the target.
        share: With `of`: `table` looks events up in the feature's own table; `vocabulary` shares
            the ids and gives the events a table of their own.
        dtype: Without `of`, as in `categorical`.
        encoding: Without `of`, as in `categorical`; a vocabulary by default.
        size: Without `of`, as in `categorical`.
        min_count: Without `of`, as in `categorical`.
        dim: Without `of`, as in `categorical`.

    Raises:
        SpecError: The arguments contradict each other, or the encoding is unknown.
    """
    field = f"event {column!r}"
    if of is not None:
        given = {"dtype": dtype, "encoding": encoding, "size": size, "min_count": min_count}
        refuse_beside_of(field, of, {**given, "dim": dim})
        return Event(column=column, of=of, share=share)
    short = {"size": size, "min_count": min_count}
    config = encoding_config(field, "vocabulary" if encoding is None else encoding, short)
    encoder = encoder_of(field, Event.kind, config)
    return Event(
        column=column,
        share=share,
        dtype=encoder.dtypes[0] if dtype is None else dtype,
        encoding=config,
        dim=dim,
    )


def sequence(
    name: str,
    *,
    events: Sequence[Event],
    order: str,
    max_length: int = 50,
    side: str = "user",
    time: str | None = None,
    row_time: str | None = None,
    time_unit: str = "s",
    late: str = "drop",
    gap: int = 0,
    pooling: Any = "din",
    fields: str | None = None,
    search: str | None = None,
    search_length: int = 50,
) -> SequenceFeature:
    """Declares a behaviour sequence: aligned list columns of earlier events.

    A gap in the leading column (the first of `events`) is no event, and gaps are closed up. Where
    only another column has a gap, its id is that of a missing value. A missing list, an empty list
    and a list of gaps are the same: an empty history.

    Args:
        name: Name of the sequence. Its fields are `name/column`, or `name` with `fields="joint"`.
        events: The columns; see `event`.
        order: How the lists stand in the data, `oldest_first` or `newest_first`. There is no
            default: a wrong guess would keep the oldest events.
        max_length: The newest events that are kept, `L`.
        side: As in `categorical`; histories are mostly the user's.
        time: List column of int64 with the events' times. Lists are then sorted by it, and an
            event is kept only if `time + gap < row_time`. With whole days as times only
            the events of earlier days are kept.
        row_time: Column of int64 with the row's own time; `ProblemSpec.time` if not given.
        time_unit: `s`, `ms` or `d`. It scales the buckets of ages, which some poolings read.
        late: What is done with events that are too late, which would leak the row's own outcome:
            `drop` (and count), `refuse` (`DataError`) or `keep` (with a warning).
        gap: How long before the row an event is known, in units of the times.
        pooling: A registered pooling of sequences by name, with its arguments, or a class of
            your own: `mean`, `sum`, `max`, `attentive`, `decay`, `self_attention`, and `din`,
            `target_attention`, `tim`, `bst`, which read the target. See `tfmtl.sequences`.
        fields: `each`: one field per event column, all pooled by the same weights; `joint`: one
            field of all columns. By default `each`, and `joint` for a pooling that mixes columns.
        search: An event column with `of`: only the events whose value is the target's are pooled
            (hard search, Pi et al., CIKM 2020). An unknown value matches nothing.
        search_length: The newest matching events that are pooled. Others are not even looked up,
            so that `max_length` may be long.

    Raises:
        SpecError: The arguments contradict each other.
    """
    return SequenceFeature(
        name=name,
        side=side,
        events=tuple(events),
        max_length=max_length,
        order=order,
        time=time,
        row_time=row_time,
        time_unit=time_unit,
        late=late,
        gap=gap,
        pooling=registry.config_of("sequence_pooling", pooling),
        fields=fields,
        search=search,
        search_length=search_length,
    )


def refuse_beside_of(field: str, of: str, given: Mapping[str, Any]) -> None:
    """Refuses arguments that `of` already decides.

    Raises:
        SpecError: One of `given` is not `None`.
    """
    for argument, value in given.items():
        if value is not None:
            raise SpecError(
                f"{field}: {argument}={value!r} is given beside of={of!r}, and is that feature's; "
                "leave it out."
            )


def _check_event(event: Event) -> None:
    field, config, encoder = f"event {event.column!r}", event.encoding, event.encoder
    assert config is not None
    if event.dtype not in encoder.dtypes:
        raise SpecError(
            f"{field}: dtype={event.dtype!r} is none of {list(encoder.dtypes)}, which "
            f"encoding={config['name']!r} reads."
        )
    if not encoder.has_ids:
        raise SpecError(
            f"{field}: encoding={config['name']!r} makes numbers, and only ids are pooled."
        )
    check_dim(field, event.dim, config, encoder)


def _event_of(name: str, place: int, given: Any) -> Any:
    if isinstance(given, Event):
        return given
    return from_plain(Event, f"sequence {name!r}: events.{place}", given)
