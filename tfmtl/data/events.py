"""The events of sequences in flat arrays: which exist, which are too late, which are the newest.

The rule is that of `tfmtl.features.events`, for lists that stand one after another in memory. The
checks count with it, and rows in memory are cut with it before they are padded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfmtl.data.types import ABSENT
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import DataError

NO_TIME = ABSENT["int64"]


@dataclasses.dataclass(frozen=True)
class Lists:
    """The aligned lists of one sequence, of several rows one after another.

    Attributes:
        lengths: Places per row, int `[rows]`.
        values: Values by column, `[places]`, `ABSENT` where there is none.
    """

    lengths: NDArray[Any]
    values: Mapping[str, NDArray[Any]]

    @property
    def rows(self) -> NDArray[Any]:
        """The row of each place."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def take(self, kept: NDArray[Any]) -> "Lists":
        """The lists of some places, by mask."""
        lengths = np.bincount(self.rows[kept], minlength=len(self.lengths))
        return Lists(lengths, {name: values[kept] for name, values in self.values.items()})


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of each place of the lists, bool `[places]` each.

    Attributes:
        event: There is an event: a value in the leading column, and a time where there are times.
        untimed: There is a value in the leading column and no time.
        late: The event is not known before the row.
        kept: The event is among the newest `max_length` that are early enough.
    """

    event: NDArray[Any]
    untimed: NDArray[Any]
    late: NDArray[Any]
    kept: NDArray[Any]


def uneven(
    feature: SequenceFeature, lengths: Mapping[str, NDArray[Any]]
) -> tuple[str, NDArray[Any]] | None:
    """A column whose lists are of another length than the leading column's, and in which rows.

    A list that is missing or empty is no mistake: the column has no values in that row.
    """
    leading = lengths[feature.leading.column]
    for name, of_column in lengths.items():
        wrong = (of_column != leading) & (of_column > 0)
        if wrong.any():
            return name, wrong
    return None


def align(
    feature: SequenceFeature, columns: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
) -> Lists:
    """The columns' values side by side.

    Args:
        feature: The sequence.
        columns: Values and lengths by column, as `tfmtl.data.columns.plain` returns them.

    Raises:
        DataError: Two lists of a row differ in length.
    """
    lengths = {name: of_column for name, (_, of_column) in columns.items()}
    wrong = uneven(feature, lengths)
    leading = feature.leading.column
    if wrong is not None:
        name, rows = wrong
        row = int(np.argmax(rows))
        raise DataError(
            f"sequence {feature.name!r}: row {row + 1}: column {leading!r} has "
            f"{lengths[leading][row]} values and column {name!r} has {lengths[name][row]}; place "
            "i of every column is one event, so they need one length."
        )
    wanted, values = lengths[leading], {}
    for name, (flat, of_column) in columns.items():
        if not np.array_equal(of_column, wanted):
            filled = np.full(int(wanted.sum()), _absent(flat), flat.dtype)
            filled[np.repeat(of_column > 0, wanted)] = flat
            flat = filled
        values[name] = flat
    return Lists(wanted, values)


def fate_of(feature: SequenceFeature, lists: Lists, row_times: NDArray[Any] | None) -> Fate:
    """What becomes of each place.

    Args:
        feature: The sequence.
        lists: Its columns.
        row_times: The rows' own times, int64 `[rows]`; `None` without times.
    """
    leading = lists.values[feature.leading.column]
    event = np.asarray(leading != _absent(leading))
    untimed = late = np.zeros(len(event), bool)
    times = None
    if feature.time is not None and row_times is not None:
        times, of_rows = lists.values[feature.time], np.repeat(row_times, lists.lengths)
        untimed = event & (times == NO_TIME)
        event = event & ~untimed
        late = event & (of_rows != NO_TIME) & (times + feature.gap >= of_rows)
    kept = event if feature.late == "keep" else event & ~late
    return Fate(event, untimed, late, _newest(feature, lists, kept, times))


def _newest(
    feature: SequenceFeature, lists: Lists, kept: NDArray[Any], times: NDArray[Any] | None
) -> NDArray[Any]:
    rows = lists.rows
    counts = np.bincount(rows[kept], minlength=len(lists.lengths))
    long = np.flatnonzero(kept & (counts > feature.max_length)[rows])
    if not len(long):
        return kept
    age = -long if feature.order == "oldest_first" else long
    order = np.lexsort([age, *(() if times is None else (-times[long],)), rows[long]])
    of_row = rows[long][order]
    starts = np.flatnonzero(np.append(True, of_row[1:] != of_row[:-1]))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = kept.copy()
    kept[long[order[rank >= feature.max_length]]] = False
    return kept


def _absent(values: NDArray[Any]) -> Any:
    return ABSENT["int64"] if values.dtype.kind == "i" else ABSENT["string"]


def late_events(
    feature: SequenceFeature, lists: Lists, fate: Fate, row_times: NDArray[Any] | None
) -> str:
    """Says how many events are too late, with an example."""
    place = int(np.argmax(fate.late))
    row = int(lists.rows[place])
    assert row_times is not None and feature.time is not None
    return (
        f"sequence {feature.name!r}: {int(fate.late.sum()):,} events in "
        f"{len(np.unique(lists.rows[fate.late])):,} rows are not before their row (late='refuse'), "
        f"first in row {row + 1}: {lists.values[feature.leading.column][place]!r} at "
        f"{feature.time}={lists.values[feature.time][place]}, the row's own "
        f"{feature.row_time}={row_times[row]}. late='drop' would leave them out."
    )
