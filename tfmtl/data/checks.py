"""Checks of the rows before anything is trained on them, in one pass and bounded memory."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.data.hashing import hash_text
from tfmtl.data.labels import (
    in_space,
    label_values,
    numbers,
    observed,
    rows_to_keep,
    task_values,
    without,
)
from tfmtl.data.leaks import EqualColumns, strongest_features
from tfmtl.data.places import Places
from tfmtl.data.report import Report
from tfmtl.data.sampling import IdSet, RowSample
from tfmtl.data.spellings import Spellings
from tfmtl.data.splits import as_text, columns_to_read
from tfmtl.data.tallies import Extremes, Oddities, add_labels, no_labels
from tfmtl.data.types import ABSENT
from tfmtl.declare.features import Categorical, Numerical
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Split
from tfmtl.declare.tasks import Task
from tfmtl.errors import DataError, did_you_mean

GIVEN_AWAY = 0.999
SAMPLE_ROWS = 200_000
TEXT_LABELS_SHOWN = 20
LARGEST_LABEL = 1e18
FEWEST_STEPS = 1000
FAR_OUT = 1e6


class Checks:
    """Gathers what `finish` judges.

    Example:
        checks = Checks(problem, split)
        for batch in open_table(path, columns):
            checks.update(batch, assign(split, batch, checks.rows_seen))
        report = checks.finish()

    Args:
        problem: What the rows must fit.
        split: How they were split.
        sample_rows: Training rows that single features are judged on.
    """

    def __init__(
        self, problem: ProblemSpec, split: Split, *, sample_rows: int = SAMPLE_ROWS
    ) -> None:
        self.problem = problem
        self.split = split
        self.report = Report(rows=dict.fromkeys(split.names, 0))
        self.rows_seen = 0
        self.places = Places()
        self._columns = problem.feature_columns()
        self._spaces = _steps(problem)
        self._sample = RowSample(sample_rows)
        self._equal = EqualColumns(problem)
        self._oddities = Oddities()
        self._spellings = {
            name: Spellings()
            for name, column in columns_to_read(problem, split).items()
            if column.dtype == "string" and not column.max_values
        }
        self._extremes = {f.column: Extremes() for f in _of_kind(problem, Numerical)}
        self._sizes = {t.name: Extremes() for t in problem.tasks if t.kind == "regression"}
        self._outside = {f.name: np.zeros(2, np.int64) for f in _identities(problem)}
        self._filled = {name: np.zeros(len(split.names), np.int64) for name in self._columns}
        self._text_labels: dict[str, set[str]] = {
            t.label: set() for t in problem.tasks if t.positive is not None
        }
        ids = {problem.request_id, problem.user_id} - {None}
        if split.rule == "hash":
            ids.discard(split.column)  # Cannot be shared, by construction.
        self._ids = {name: [IdSet() for _ in split.names] for name in sorted(map(str, ids))}
        for task in problem.tasks:
            self.report.tasks[task.name] = {s: no_labels(task) for s in split.names}

    def update(
        self, batch: pa.RecordBatch, split_ids: np.ndarray, left_out: np.ndarray | None = None
    ) -> None:
        """Takes in rows, before `drop_if` is applied, with their splits (`splits.assign`).

        Args:
            batch: The rows.
            split_ids: Their splits.
            left_out: Rows that a sampling leaves out, bool `[rows]`: counted, and not looked at.
        """
        numbers_of_rows = np.arange(self.rows_seen, self.rows_seen + batch.num_rows)
        self.rows_seen += batch.num_rows
        if left_out is not None:
            self.report.left_out += int(left_out.sum())
            batch = batch.filter(pa.array(~left_out))
            split_ids, numbers_of_rows = split_ids[~left_out], numbers_of_rows[~left_out]
        for first, second in self._spaces:
            key = f"{second} without {first}"
            rows = int(without(self.problem, first, second, batch).sum())
            self.report.contradictions[key] = self.report.contradictions.get(key, 0) + rows
        keep = rows_to_keep(self.problem, batch)
        if keep is not None:
            self.report.dropped += int((~keep).sum())
            batch = batch.filter(pa.array(keep))
            split_ids, numbers_of_rows = split_ids[keep], numbers_of_rows[keep]
        for index, split in enumerate(self.split.names):
            self.report.rows[split] += int((split_ids == index).sum())
        self._equal.update(batch)
        for name in self.problem.indicators:
            values = numbers(batch.column(batch.schema.names.index(name)))
            bad = (values != 0) & (values != 1)
            what = "values of an indicator are neither 0 nor 1"
            self._oddities.note("error", f"indicator {name!r}", what, bad, numbers_of_rows, values)
        for task in self.problem.tasks:
            self._count_task(task, batch, split_ids, numbers_of_rows)
        self._count_features(batch, split_ids, numbers_of_rows)
        self._gather_ids(batch, split_ids)
        train = split_ids == 0
        rows = batch if train.all() else batch.filter(pa.array(train))
        self._sample.add(rows, numbers_of_rows[train])

    def finish(self) -> Report:
        """Returns the counts and the warnings.

        Raises:
            DataError: The rows are not fit for training; the message has a line for each
                reason.
        """
        report = self.report
        report.errors += self._oddities.lines("error", self.places.of)
        report.warnings += self._oddities.lines("warning", self.places.of)
        for what, rows in report.contradictions.items():
            if rows:
                second, first = what.split(" without ")
                dropped = self.problem.drop_if == (first, second)
                advice = "dropped, as drop_if says" if dropped else self._kept(first, second)
                report.warnings.append(f"{rows:,} rows have {what} ({advice}).")
        self._judge_splits()
        for task in self.problem.tasks:
            self._judge_task(task)
        self._judge_features()
        self._judge_values()
        self._judge_ids()
        if len(report.errors) == 1:
            raise DataError(report.errors[0])
        if report.errors:
            raise DataError("\n- ".join(["the data are not fit for training:", *report.errors]))
        return report

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

    def _count_task(
        self, task: Task, batch: pa.RecordBatch, split_ids: np.ndarray, row_numbers: np.ndarray
    ) -> None:
        values = label_values(task, batch)
        where = f"label {task.label!r} of task {task.name!r}"
        if task.kind == "regression":
            bad, what = np.isinf(values), "values are not finite"
            beyond = np.isfinite(values) & (np.abs(values) > LARGEST_LABEL)
            too_large = f"values are above {LARGEST_LABEL:g}, whose squares float32 cannot hold"
            self._oddities.note("error", where, too_large, beyond, row_numbers, values)
            self._sizes[task.name].add(values[np.isfinite(values)])
        elif task.soft:
            bad, what = (values < 0) | (values > 1), "values of a soft label lie outside [0, 1]"
        else:
            bad = ~np.isnan(values) & (values != 0) & (values != 1)
            what = "values of a binary label are neither 0 nor 1"
        self._oddities.note("error", where, what, bad, row_numbers, values)
        if task.pseudo_label is None:
            self._oddities.note(
                "warning", where, "rows have no value", np.isnan(values), row_numbers
            )
        else:
            pseudo = numbers(batch.column(batch.schema.names.index(task.pseudo_label)))
            where = f"pseudo_label {task.pseudo_label!r} of task {task.name!r}"
            bad = (pseudo < 0) | (pseudo > 1)
            what = "values lie outside [0, 1]"
            self._oddities.note("error", where, what, bad, row_numbers, pseudo)
            neither = in_space(self.problem, task, batch) & np.isnan(values) & np.isnan(pseudo)
            what = "rows of its space have neither a label nor a pseudo-label"
            self._oddities.note("warning", f"task {task.name!r}", what, neither, row_numbers)
        if task.weight is not None:
            weights = numbers(batch.column(batch.schema.names.index(task.weight)))
            where = f"weight {task.weight!r} of task {task.name!r}"
            wrong = (weights < 0) | np.isinf(weights)
            self._oddities.note(
                "error", where, "values are negative or infinite", wrong, row_numbers, weights
            )
            self._oddities.note(
                "warning", where, "rows have no value", np.isnan(weights), row_numbers
            )
        seen = self._text_labels.get(task.label)
        if seen is not None and len(seen) < TEXT_LABELS_SHOWN:
            text = batch.column(batch.schema.names.index(task.label))
            seen.update(v for v in pc.unique(text).to_pylist() if v is not None)
        values = task_values(self.problem, task, batch)
        chosen = observed(self.problem, task, batch, values)
        for index, split in enumerate(self.split.names):
            counts = self.report.tasks[task.name][split]
            add_labels(counts, task, values[chosen & (split_ids == index)])

    def _count_features(
        self, batch: pa.RecordBatch, split_ids: np.ndarray, row_numbers: np.ndarray
    ) -> None:
        for name, column in self._columns.items():
            array = batch.column(batch.schema.names.index(name))
            if array.null_count < len(array):
                filled = split_ids
                if array.null_count:
                    filled = split_ids[array.is_valid().to_numpy(zero_copy_only=False)]
                self._filled[name] += np.bincount(filled, minlength=len(self.split.names))
            where = f"column {name!r}"
            if column.max_values:
                lengths = pc.fill_null(pc.list_value_length(array), 0)
                cut = lengths.to_numpy(zero_copy_only=False) > column.max_values
                what = f"lists are longer than max_values={column.max_values} and are cut off"
                self._oddities.note("warning", where, what, cut, row_numbers)
            elif column.dtype == "float32":
                values = numbers(array)
                what = "values are infinite"
                self._oddities.note("error", where, what, np.isinf(values), row_numbers, values)
                if name in self._extremes:
                    self._extremes[name].add(values[np.isfinite(values)])
        for name, spellings in self._spellings.items():
            spellings.update(batch.column(batch.schema.names.index(name)))
        for feature in _identities(self.problem):
            self._count_identity(feature, batch, row_numbers)

    def _count_identity(
        self, feature: Categorical, batch: pa.RecordBatch, row_numbers: np.ndarray
    ) -> None:
        array = batch.column(batch.schema.names.index(feature.column))
        row = np.arange(len(array))
        if feature.max_values:
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            row, array = np.repeat(row, lengths), array.flatten()
        known = array.is_valid().to_numpy(zero_copy_only=False)
        ids = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        known &= ids != ABSENT["int64"]
        size = feature.encoding["size"]
        outside = known & ((ids < 0) | (ids >= size))
        self._outside[feature.name] += (int(outside.sum()), int(known.sum()))
        what = f"values lie outside 0 … {size - 1} and are all the one unknown id"
        where = f"column {feature.column!r} of feature {feature.name!r}"
        self._oddities.note("warning", where, what, outside, row_numbers[row], ids)

    def _judge_values(self) -> None:
        report = self.report
        for name, spellings in self._spellings.items():
            line = spellings.line()
            if line is not None:
                report.warnings.append(f"column {name!r}: {line}")
        for feature in _identities(self.problem):
            size = feature.encoding["size"]
            outside, known = self._outside[feature.name]
            if known and outside == known:
                report.errors.append(
                    f"feature {feature.name!r}: all {known:,} values of column "
                    f"{feature.column!r} lie outside 0 … {size - 1}, so that each is the "
                    "one unknown id. encoding='vocabulary' or 'hash' reads any integers."
                )
        for name, seen in self._extremes.items():
            steps = seen.steps()
            if steps is not None and steps < FEWEST_STEPS:
                report.warnings.append(
                    f"column {name!r}: values from {seen.least:.10g} to {seen.most:.10g} are only "
                    f"{steps:,.0f} steps of float32 apart, which keeps 7 digits. Give the "
                    "difference to a fixed value, such as the seconds since midnight or the age "
                    "in hours."
                )
        for name, seen in self._sizes.items():
            if seen.times_the_rest() > FAR_OUT:
                report.warnings.append(
                    f"label {self.problem.task(name).label!r} of task {name!r}: one value, "
                    f"{seen.largest():g}, is {seen.times_the_rest():,.0f} times the mean size of "
                    "the others, and will rule loss and error. Check it, or cut it off."
                )

    def _gather_ids(self, batch: pa.RecordBatch, split_ids: np.ndarray) -> None:
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

    def _judge_task(self, task: Task) -> None:
        space = f"@{self.problem.space_of(task)}"
        for split, counts in self.report.tasks[task.name].items():
            if not self.report.rows[split]:
                continue
            first = split == self.split.names[0]
            found = self.report.errors if first else self.report.warnings
            rows = f"{counts['observed']:,} observed rows ({space}) of {split}"
            if task.kind == "binary":
                for side in ("positives", "negatives"):
                    if not counts[side]:
                        hint = self._hint(task) if side == "positives" else ""
                        found.append(
                            f"task {task.name!r} has no {side}: label {task.label!r} has none "
                            f"among {rows}.{hint}"
                        )
            elif not counts["observed"]:
                found.append(f"task {task.name!r} has no label: none of {rows}.")
            elif first and counts["least"] == counts["most"]:
                found.append(
                    f"task {task.name!r}: label {task.label!r} is {counts['least']:g} in "
                    f"all {rows}."
                )

    def _hint(self, task: Task) -> str:
        if task.positive is None:
            return ""
        seen = sorted(self._text_labels[task.label])[:TEXT_LABELS_SHOWN]
        if task.positive in seen:
            return ""
        return (
            f" Its values are {seen}; positive={task.positive!r} is none of them."
            f"{did_you_mean(task.positive, seen)}"
        )

    def _judge_features(self) -> None:
        report = self.report
        reader: dict[str, str] = {}
        for feature in self.problem.features:
            for column in feature.columns():
                reader.setdefault(column.name, feature.name)
        for name, filled in self._filled.items():
            report.missing[name] = report.rows[self.split.names[0]] - int(filled[0])
            for index, split in enumerate(self.split.names):
                if report.rows[split] and not filled[index]:
                    (report.errors if index == 0 else report.warnings).append(
                        f"feature {reader[name]!r} has no value in any of {report.rows[split]:,} "
                        f"rows of {split}: column {name!r} is empty. Remove it, or fill it in."
                    )
        equal = set()
        if sum(report.rows.values()):
            for name, label in self._equal.pairs:
                if not self._filled[name].sum():
                    continue
                equal.add(reader[name])
                report.errors.append(
                    f"feature {reader[name]!r} equals label {label!r} in all "
                    f"{sum(report.rows.values()):,} rows (column {name!r}): it is the answer. "
                    "Remove the feature."
                )
        rows = self._sample.table()
        if rows is None:
            return
        for feature_name, task, auc in strongest_features(self.problem, rows, limit=GIVEN_AWAY):
            if feature_name not in equal:
                report.errors.append(
                    f"feature {feature_name!r} alone gives task {task!r} an AUC of {auc:.5f} on "
                    f"its own rows (@{self.problem.space_of(task)}): it is probably known only "
                    "after the outcome. Remove the feature."
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


def _of_kind(problem: ProblemSpec, kind: type) -> list:
    return [feature for feature in problem.features if isinstance(feature, kind)]


def _identities(problem: ProblemSpec) -> list[Categorical]:
    return [f for f in _of_kind(problem, Categorical) if f.encoding["name"] == "identity"]


def _steps(problem: ProblemSpec) -> list[tuple[str, str]]:
    # Pairs of labels where the second cannot be without the first.
    steps = [
        (task.observed_if, task.label)
        for task in problem.tasks
        if task.observed_if in problem.labels and task.kind == "binary"
    ]
    if problem.drop_if is not None:
        steps.append(problem.drop_if)
    return list(dict.fromkeys(steps))
