"""Checks of the rows before anything is trained on them, in one pass and bounded memory."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.feature_checks import FeatureChecks
from tfmtl.data.hashing import hash_text
from tfmtl.data.label_checks import LabelChecks
from tfmtl.data.labels import rows_to_keep, without
from tfmtl.data.places import Places
from tfmtl.data.report import Report
from tfmtl.data.sampling import IdSet
from tfmtl.data.sequence_checks import SequenceChecks
from tfmtl.data.splits import as_text
from tfmtl.data.tallies import Oddities
from tfmtl.data.value_checks import ValueChecks
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Split
from tfmtl.errors import DataError

SAMPLE_ROWS = 200_000


class Checks:
    """Takes in all rows batch by batch; `finish` says whether they are fit for training.

    Example:
        checks = Checks(problem, split)
        for batch in open_table(path, columns):
            checks.update(batch, assign(split, batch, checks.rows_seen))
        report = checks.finish()

    Args:
        problem: The declaration that the rows must fit.
        split: How the rows were split.
        sample_rows: Size of the sample of training rows on which single features are judged.
    """

    def __init__(
        self, problem: ProblemSpec, split: Split, *, sample_rows: int = SAMPLE_ROWS
    ) -> None:
        self.problem = problem
        self.split = split
        self.report = Report(rows=dict.fromkeys(split.names, 0))
        self.rows_seen = 0
        self.places = Places()
        self._oddities = Oddities()
        self._label_pairs = _label_pairs(problem)
        self._labels = LabelChecks(problem, split, self.report, self._oddities)
        self._features = FeatureChecks(problem, split, self.report, sample_rows=sample_rows)
        self._sequences = SequenceChecks(problem, self.report, self._oddities)
        self._values = ValueChecks(problem, split, self.report, self._oddities)
        ids = {problem.request_id, problem.user_id} - {None}
        if split.rule == "hash":
            ids.discard(split.column)  # Two splits cannot share them, by construction.
        self._ids = {name: [IdSet() for _ in split.names] for name in sorted(map(str, ids))}

    def update(
        self, batch: pa.RecordBatch, split_ids: NDArray[Any], left_out: NDArray[Any] | None = None
    ) -> None:
        """Takes in rows, before `drop_if` is applied, with their splits (`splits.assign`).

        Args:
            batch: The rows.
            split_ids: Their splits.
            left_out: Rows that a `Sampling` leaves out, bool `[rows]`. They are counted and not
                checked.
        """
        row_numbers = np.arange(self.rows_seen, self.rows_seen + batch.num_rows)
        self.rows_seen += batch.num_rows
        if left_out is not None:
            self.report.left_out += int(left_out.sum())
            batch = batch.filter(pa.array(~left_out))
            split_ids, row_numbers = split_ids[~left_out], row_numbers[~left_out]
        for first, second in self._label_pairs:
            key = f"{second} without {first}"
            rows = int(without(self.problem, first, second, batch).sum())
            self.report.contradictions[key] = self.report.contradictions.get(key, 0) + rows
        keep = rows_to_keep(self.problem, batch)
        if keep is not None:
            self.report.dropped += int((~keep).sum())
            batch = batch.filter(pa.array(keep))
            split_ids, row_numbers = split_ids[keep], row_numbers[keep]
        for index, split in enumerate(self.split.names):
            self.report.rows[split] += int((split_ids == index).sum())
        self._labels.update(batch, split_ids, row_numbers)
        self._values.update(batch, row_numbers)
        self._sequences.update(batch, row_numbers)
        self._features.update(batch, split_ids, row_numbers)
        self._gather_ids(batch, split_ids)

    def finish(self) -> Report:
        """Returns the counts and the warnings.

        Raises:
            DataError: The rows are not fit for training. The message gives every reason.
        """
        report = self.report
        report.errors += self._oddities.lines("error", self.places.of)
        report.warnings += self._oddities.lines("warning", self.places.of)
        self._judge_contradictions()
        self._judge_splits()
        self._labels.finish()
        self._features.finish()
        self._values.finish()
        self._sequences.finish()
        self._judge_ids()
        if len(report.errors) == 1:
            raise DataError(report.errors[0])
        if report.errors:
            raise DataError("\n- ".join(["the data are not fit for training:", *report.errors]))
        return report

    def _judge_contradictions(self) -> None:
        for what, rows in self.report.contradictions.items():
            if rows:
                second, first = what.split(" without ")
                dropped = self.problem.drop_if == (first, second)
                advice = "dropped, as drop_if says" if dropped else self._kept(first, second)
                self.report.warnings.append(f"{rows:,} rows have {what} ({advice}).")

    def _kept(self, first: str, second: str) -> str:
        problem = self.problem
        kept = f"kept; drop_if=({first!r}, {second!r}) would drop them"
        joint = [t.name for t in problem.tasks if t.label == second]
        negative = [n for n in joint if problem.label_before(problem.task(n)) == first]
        if negative:
            kept += (
                f"; negatives of {', '.join(map(repr, negative))}, which is {first} and {second}: "
                "orphans='positive' would make them positives"
            )
        elif problem.orphans == "positive":
            kept += f"; positives of {second!r} on all rows, as orphans='positive' says"
        return kept

    def _gather_ids(self, batch: pa.RecordBatch, split_ids: NDArray[Any]) -> None:
        for name, sets in self._ids.items():
            array = batch.column(batch.schema.names.index(name))
            known = array.is_valid().to_numpy(zero_copy_only=False)
            hashes = hash_text(as_text(array))
            for index, ids in enumerate(sets):
                ids.add(hashes[known & (split_ids == index)])

    def _judge_splits(self) -> None:
        for split, rows in self.report.rows.items():
            if not rows:
                self.report.errors.append(
                    f"split {split!r} is empty: {self.split} put none of the {self.rows_seen:,} "
                    "rows there. Other bounds, values or shares would."
                    if self.split.rule != "whole"
                    else f"no row is left of {self.rows_seen:,}, so there is nothing to train on."
                )

    def _judge_ids(self) -> None:
        for name, sets in self._ids.items():
            for (a, first), (b, second) in itertools.combinations(enumerate(self.split.names), 2):
                shared = sets[a].shared_with(sets[b])
                if not shared:
                    continue
                self.report.shared[f"{name}: {first} and {second}"] = shared
                if name == self.problem.request_id:
                    self.report.errors.append(
                        f"{shared:,} of {len(sets[b].ids()):,} requests of {second} stand in "
                        f"{first} too: splitting by {self.split.rule} cuts requests "
                        f"({name!r}) apart. Split by_hash({name!r}), or at bounds between them."
                    )


def _label_pairs(problem: ProblemSpec) -> list[tuple[str, str]]:
    # Pairs of labels where the second should not be positive without the first.
    pairs = [
        (task.observed_if, task.label)
        for task in problem.tasks
        if task.observed_if in problem.labels and task.kind == "binary"
    ]
    if problem.drop_if is not None:
        pairs.append(problem.drop_if)
    return list(dict.fromkeys(pairs))
