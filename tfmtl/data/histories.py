"""Histories from a log: each row's last events of its user, in one pass and bounded memory."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.columns import as_arrow, declared
from tfmtl.data.hashing import hash_text
from tfmtl.data.labels import numbers
from tfmtl.data.places import BadRow, Places
from tfmtl.data.splits import as_text
from tfmtl.data.types import ABSENT, lists
from tfmtl.declare.columns import Column
from tfmtl.declare.histories import Histories
from tfmtl.errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Run:
    """Events sorted by user and then by time.

    Attributes:
        users: Hashes of the users, uint64 `[events]`.
        times: int64 `[events]`.
        values: Their values, by column of the log.
    """

    users: NDArray[Any]
    times: NDArray[Any]
    values: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, places: NDArray[Any]) -> "Run":
        """Some of the events, in the order given."""
        chosen = pa.array(places)
        values = {name: array.take(chosen) for name, array in self.values.items()}
        return Run(self.users[places], self.times[places], values)

    def of_users(self, users: NDArray[Any]) -> "Run":
        """The events of some users, sorted hashes."""
        first = np.searchsorted(self.users, users, side="left")
        counts = np.searchsorted(self.users, users, side="right") - first
        starts = np.cumsum(counts) - counts
        return self.take(np.repeat(first - starts, counts) + np.arange(counts.sum()))


class HistoryBuilder:
    """Adds histories to the batches of a log, which come in order.

    What is kept per user is its last `length` events, whatever the length of the log.

    Args:
        histories: What is made of which columns.

    Example:
        >>> log = pa.table({"u": ["a", "a", "a"], "t": [1, 2, 3], "ad": ["x", "y", "z"]})
        >>> made = Histories(user="u", time="t", columns={"seen": "ad"}, length=2)
        >>> add_histories(log, made)["seen"].to_pylist()
        [None, ['x'], ['x', 'y']]
    """

    def __init__(self, histories: Histories) -> None:
        self.histories = histories
        self._runs: list[Run] = []

    def lists_of(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The list columns of a batch, whose events later batches see.

        Raises:
            BadRow: A row has no time, or stands before an earlier row of its user.
        """
        h = self.histories
        users = hash_text(as_text(_of(batch, h.user)))
        known = _of(batch, h.user).is_valid().to_numpy(zero_copy_only=False)
        times = _times(_of(batch, h.time), h.time)
        own = self._events(batch, users, times, known)
        past = _merged([*(run.of_users(np.unique(users)) for run in self._runs), own])
        self._check_order(users, times, known)
        first, last = self._spans(past, users, times)
        last = np.where(known, last, first)
        self._remember(own)
        lengths = last - first
        starts = np.cumsum(lengths) - lengths
        places = pa.array(np.repeat(first - starts, lengths) + np.arange(lengths.sum()))
        return {
            name: lists(past.values[source].take(places), lengths)
            for name, source in h.columns.items()
        }

    def _events(
        self, batch: pa.RecordBatch, users: NDArray[Any], times: NDArray[Any], known: NDArray[Any]
    ) -> Run:
        """The batch's own events, sorted."""
        chosen = known
        if self.histories.event_if is not None:
            chosen = known & (numbers(_of(batch, self.histories.event_if)) > 0.5)
        rows = np.flatnonzero(chosen)
        rows = rows[np.lexsort([rows, times[rows], users[rows]])]
        sources = dict.fromkeys(self.histories.columns.values())
        values = {name: _filled(_of(batch, name)) for name in sources}
        return Run(users, times, values).take(rows)

    def _spans(
        self, past: Run, users: NDArray[Any], times: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where each row's history begins and ends among the events, int `[rows]`."""
        h = self.histories
        # Places on one axis that orders users first and times second.
        distinct = np.unique(past.users)
        clock = np.unique(past.times)
        width = len(clock) + 1
        events = np.searchsorted(distinct, past.users) * width
        events = events + np.searchsorted(clock, past.times)
        user = np.searchsorted(distinct, users)
        seen = (user < len(distinct)) & np.isin(users, distinct)
        earliest = user * width
        before = earliest + np.searchsorted(clock, times - h.gap, side="left")
        begin = np.searchsorted(events, earliest, side="left")
        end = np.where(seen, np.searchsorted(events, before, side="left"), begin)
        return np.maximum(begin, end - h.length), end

    def _check_order(self, users: NDArray[Any], times: NDArray[Any], known: NDArray[Any]) -> None:
        order = np.lexsort([np.arange(len(users)), users])
        earlier = (users[order][1:] == users[order][:-1]) & (times[order][1:] < times[order][:-1])
        wrong = order[1:][earlier & known[order][1:]]
        if len(wrong):
            row = int(wrong.min())
            raise BadRow(
                row,
                f"histories: column {self.histories.time!r} is {times[row]} in ",
                ", before the time of an earlier row of the same user. Sort the log by time, or by "
                "user and time.",
            )

    def _remember(self, own: Run) -> None:
        run = own
        # Runs grow geometrically, so that an event is moved a logarithmic number of times.
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = self._newest(_merged([self._runs.pop(), run]))
        if len(run):
            self._runs.append(run)

    def _newest(self, run: Run) -> Run:
        """Without events that no later row of their user has among its newest."""
        ends = np.flatnonzero(np.append(run.users[1:] != run.users[:-1], True))
        counts = np.diff(np.append(-1, ends))
        latest = np.repeat(run.times[ends], counts)
        old = (run.times + self.histories.gap < latest).astype(np.int64)
        old_before = np.cumsum(old) - np.repeat((np.cumsum(old) - old)[ends - counts + 1], counts)
        total = np.repeat(old_before[ends], counts)
        return run.take(np.flatnonzero(total - old_before < self.histories.length))


def with_histories(
    batches: Iterable[pa.RecordBatch],
    histories: Histories,
    columns: Mapping[str, Column],
    places: Places | None = None,
) -> Iterator[pa.RecordBatch]:
    """Adds the lists to batches of a log, in one pass.

    Args:
        batches: The log, in order.
        histories: What is made of which columns.
        columns: What is returned, by name, in order; all but the lists must be in the batches.
        places: Gives the file and line of a row of the log, for messages.

    Raises:
        DataError: The log is not in order.
    """
    builder, rows = HistoryBuilder(histories), 0
    for batch in batches:
        try:
            made = builder.lists_of(batch)
        except BadRow as error:
            error.row += rows
            raise error.at(places or Places()) from None
        rows += batch.num_rows
        arrays = [
            made[name] if name in made else _as(_of(batch, name), column)
            for name, column in columns.items()
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


def add_histories(log: Any, histories: Histories) -> pa.Table:
    """Adds list columns of each row's last events to a log in memory.

    Args:
        log: An Arrow table or a pandas frame.
        histories: What is made of which columns.

    Returns:
        An Arrow table with the log's columns and the lists.

    Raises:
        DataError: A column is not there or of another type, or rows of a user are not in order.
    """
    table = log if isinstance(log, pa.Table) else pa.Table.from_pandas(log, preserve_index=False)
    for name in log_columns(histories, {}):
        if name not in table.column_names:
            raise DataError(
                f"histories: the log has no column {name!r}; its columns are "
                f"{table.column_names}.{did_you_mean(name, table.column_names)}"
            )
    typed = {
        name: as_arrow(table[name])
        for name in (histories.user, *histories.columns.values(), histories.event_if)
        if name is not None
    }
    for name, array in typed.items():
        integers = pa.types.is_integer(array.type) and name != histories.user
        kind = "int64" if integers else "string"
        kind = "float32" if name == histories.event_if else kind
        typed[name] = declared(Column(name=name, dtype=kind), array)
    typed[histories.time] = declared(
        Column(name=histories.time, dtype="int64"), table[histories.time]
    )
    (batch,) = pa.table(typed).combine_chunks().to_batches() or [None]
    if batch is None:
        raise DataError("histories: the log has no rows.")
    wanted = {n: Column(name=n, dtype="string", max_values=1) for n in histories.columns}
    (made,) = with_histories([batch], histories, wanted)
    for name in wanted:
        if name in table.column_names:
            raise DataError(f"histories: the log already has a column {name!r}.")
        table = table.append_column(name, made.column(made.schema.names.index(name)))
    return table


def log_columns(histories: Histories, columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns of the log that are read for the lists and for all else that is wanted.

    Args:
        histories: What is made of which columns.
        columns: What is wanted, lists among it.
    """
    needed = {n: column for n, column in columns.items() if n not in histories.columns}
    needed.setdefault(histories.user, Column(name=histories.user, dtype="string"))
    for name, source in histories.columns.items():
        dtype = columns[name].dtype if name in columns else "string"
        needed.setdefault(source, Column(name=source, dtype=dtype))
    if needed.get(histories.time, Column(name="", dtype="int64")).dtype != "int64":
        # A time that the problem only splits by is read as text otherwise.
        needed.pop(histories.time)
    needed[histories.time] = Column(name=histories.time, dtype="int64")
    if histories.event_if is not None:
        needed.setdefault(histories.event_if, Column(name=histories.event_if, dtype="float32"))
    return needed


def check_types(histories: Histories, columns: Mapping[str, Column]) -> None:
    """Refuses a list of another type than the column that it is made of.

    Raises:
        DataError: The message names both.
    """
    read = log_columns(histories, columns)
    for name, source in histories.columns.items():
        if name in columns and columns[name].dtype != read[source].dtype:
            raise DataError(
                f"histories: list {name!r} is declared as {columns[name].dtype} and made of column "
                f"{source!r}, which is read as {read[source].dtype}; give both one dtype."
            )


def _merged(runs: list[Run]) -> Run:
    if len(runs) == 1:
        return runs[0]
    users, times = (np.concatenate([getattr(r, part) for r in runs]) for part in ("users", "times"))
    values = {name: pa.concat_arrays([run.values[name] for run in runs]) for name in runs[0].values}
    # Stable: of equal times, an older run's events come first.
    return Run(users, times, values).take(np.lexsort([times, users]))


def _as(array: pa.Array, column: Column) -> pa.Array:
    # The time is read as an integer, and is text where it only orders rows.
    return (
        array.cast(pa.string())
        if column.dtype == "string" and not column.max_values and (pa.types.is_integer(array.type))
        else array
    )


def _of(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.names.index(name))


def _filled(array: pa.Array) -> pa.Array:
    """Missing values as inside lists, where there are no nulls."""
    if pa.types.is_string(array.type):
        return pc.fill_null(array, "")
    return pc.fill_null(array, pa.scalar(ABSENT["int64"], pa.int64()))


def _times(array: pa.Array, name: str) -> NDArray[Any]:
    if array.null_count:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise BadRow(row, f"histories: column {name!r} has no value in ", ".")
    return np.asarray(array.to_numpy(zero_copy_only=False), np.int64)
