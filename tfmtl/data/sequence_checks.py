"""Checks of behaviour sequences: lists that do not fit together, and events that come too late."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.columns import plain
from tfmtl.data.events import NO_TIME, Fate, Lists, align, fate_of, uneven
from tfmtl.data.report import Report
from tfmtl.data.tallies import Oddities
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature


@dataclasses.dataclass
class Tally:
    """Counts of one sequence.

    Attributes:
        rows: Rows.
        empty_rows: Rows without a kept event.
        events: Events, before any is cut.
        kept: Events that are kept.
        late: Events that are not before their row.
        late_rows: Rows with such an event.
        untimed: Events without a time, which are dropped.
        unsorted_rows: Rows whose times are not in the declared order; they are sorted.
    """

    rows: int = 0
    empty_rows: int = 0
    events: int = 0
    kept: int = 0
    late: int = 0
    late_rows: int = 0
    untimed: int = 0
    unsorted_rows: int = 0


class SequenceChecks:
    """Checks the lists of sequences.

    Args:
        problem: Declares the sequences.
        report: Receives counts.
        oddities: Receives lists of unequal length, and events that are too late.
    """

    def __init__(self, problem: ProblemSpec, report: Report, oddities: Oddities) -> None:
        self.problem, self.report, self.oddities = problem, report, oddities
        self._tallies = {f.name: Tally() for f in problem.sequences}

    def update(self, batch: pa.RecordBatch, row_numbers: NDArray[Any]) -> None:
        """Takes in rows with their row numbers."""
        for feature in self.problem.sequences:
            flat, row_times = sequence_columns(feature, batch)
            lengths = {name: of_column for name, (_, of_column) in flat.items()}
            wrong = uneven(feature, lengths)
            if wrong is not None:
                self._note_uneven(feature, lengths, *wrong, row_numbers)
                continue
            lists = align(feature, flat)
            self._count(feature, lists, fate_of(feature, lists, row_times), row_times, row_numbers)

    def finish(self) -> None:
        """Adds the counts to the report."""
        self.report.sequences = {
            name: dataclasses.asdict(tally) for name, tally in self._tallies.items()
        }

    def _note_uneven(
        self,
        feature: SequenceFeature,
        lengths: dict[str, NDArray[Any]],
        column: str,
        wrong: NDArray[Any],
        row_numbers: NDArray[Any],
    ) -> None:
        leading = feature.leading.column
        row = int(np.argmax(wrong))
        examples = [""] * len(wrong)
        examples[row] = f"{lengths[leading][row]} and {lengths[column][row]} values"
        self.oddities.note(
            "error",
            f"sequence {feature.name!r}",
            f"rows have lists of unequal length in columns {leading!r} and {column!r}; place i of "
            "every column is one event",
            wrong,
            row_numbers,
            examples,
        )

    def _count(
        self,
        feature: SequenceFeature,
        lists: Lists,
        fate: Fate,
        row_times: NDArray[Any] | None,
        row_numbers: NDArray[Any],
    ) -> None:
        tally, rows, count = self._tallies[feature.name], lists.rows, len(lists.lengths)
        tally.rows += count
        tally.events += int(fate.event.sum())
        tally.kept += int(fate.kept.sum())
        tally.late += int(fate.late.sum())
        tally.untimed += int(fate.untimed.sum())
        tally.empty_rows += int((np.bincount(rows[fate.kept], minlength=count) == 0).sum())
        if feature.time is None:
            return
        late_rows = np.bincount(rows[fate.late], minlength=count) > 0
        tally.late_rows += int(late_rows.sum())
        times = lists.values[feature.time]
        step = np.diff(times) if feature.order == "oldest_first" else -np.diff(times)
        back = (step < 0) & (rows[1:] == rows[:-1]) & (times[1:] != NO_TIME)
        back &= times[:-1] != NO_TIME
        tally.unsorted_rows += len(np.unique(rows[1:][back]))
        if late_rows.any() and row_times is not None:
            self._note_late(feature, lists, fate, late_rows, row_times, row_numbers)

    def _note_late(
        self,
        feature: SequenceFeature,
        lists: Lists,
        fate: Fate,
        late_rows: NDArray[Any],
        row_times: NDArray[Any],
        row_numbers: NDArray[Any],
    ) -> None:
        kind, end = {
            "drop": ("warning", "they are left out"),
            "keep": ("warning", "they are kept (late='keep') and may hold the answer"),
            "refuse": ("error", "late='drop' would leave them out"),
        }[feature.late]
        place, row = int(np.argmax(fate.late)), int(np.argmax(late_rows))
        examples = [""] * len(late_rows)
        event, time = (
            lists.values[name][place] for name in (feature.leading.column, str(feature.time))
        )
        examples[row] = f"{event!r} at {time}, the row at {row_times[row]}"
        what = f"rows have events that are not before the row; {end}"
        where = f"sequence {feature.name!r}"
        self.oddities.note(kind, where, what, late_rows, row_numbers, examples)


def sequence_columns(
    feature: SequenceFeature, rows: pa.RecordBatch | pa.Table
) -> tuple[dict[str, tuple[NDArray[Any], NDArray[Any]]], NDArray[Any] | None]:
    """Values and lengths of a sequence's lists by column, and the rows' own times."""
    flat: dict[str, Any] = {}
    for column in feature.columns():
        array = rows.column(rows.schema.names.index(column.name))
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        flat[column.name] = plain(column, array)
    row_times = None if feature.row_time is None else flat.pop(feature.row_time)[0]
    return flat, row_times
