"""Raw columns as the numbers that trees read, fitted on training rows only.

The values of a column with few different ones are categories of LightGBM. Another column (ids of
users) becomes two numbers: the smoothed mean label of its value, `(Σy + s·ȳ) / (n + s)`, and
`log(1 + n)`. For a training row the mean and `ȳ` are taken over the rows of the other folds, so
that they never contain its own label.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from tfmtl.data.columns import as_arrow, declared
from tfmtl.data.labels import numbers
from tfmtl.data.matches import match_numbers
from tfmtl.data.texts import text_of
from tfmtl.declare.features import FOLD, Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import DataError, did_you_mean
from tfmtl.features.raw import NO_INTEGER


@dataclasses.dataclass(frozen=True)
class TreeColumns:
    """Converts raw columns to codes, the same for all tasks.

    Attributes:
        columns: Raw columns in order, with their type: `string`, `int64` or `float32`.
        keys: Per column of ids, the sorted values that occur in training.
        log_counts: `log(1 + n)` of each value, for columns with too many values for categories.
    """

    columns: Mapping[str, str]
    keys: Mapping[str, np.ndarray]
    log_counts: Mapping[str, np.ndarray]

    def codes(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Each column of ids as positions `[rows]` in `keys`; −1 is unseen and −2 is missing.

        Raises:
            DataError: A column is not in the table, or its values are not of its type.
        """
        require(table, self.columns)
        by_column = {}
        for name, keys in self.keys.items():
            values = _ids(table, name, self.columns[name])
            codes = pc.index_in(values, value_set=pa.array(keys)).fill_null(-1)
            missing = pc.is_null(values).to_numpy()
            by_column[name] = np.where(missing, -2, codes.to_numpy())
        return by_column

    def names(self) -> list[str]:
        """Names of the matrix's columns."""
        return [
            part
            for name in self.columns
            for part in ((f"{name}_mean", f"{name}_count") if name in self.log_counts else (name,))
        ]

    def categories(self) -> list[str]:
        """The names of the columns that hold categories."""
        return [name for name in self.keys if name not in self.log_counts]

    def matrix(
        self, table: pa.Table, codes: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Float32 `[rows, names]`; a missing value is NaN, and so is an unseen category.

        Args:
            table: Rows.
            codes: The rows' `codes`.
            means: The mean label of each row, `[rows]`, by column of `log_counts`.
        """
        parts = []
        for name, dtype in self.columns.items():
            if dtype == "float32":
                parts.append(numbers(_column(table, name, pa.float64())))
            elif name in self.log_counts:
                parts += [means[name], _looked_up(self.log_counts[name], codes[name], 0.0)]
            else:
                parts.append(np.where(codes[name] < 0, np.nan, codes[name]))
        return np.stack([column.astype(np.float32) for column in parts], axis=1)


@dataclasses.dataclass(frozen=True)
class TargetMeans:
    """A task's smoothed mean labels.

    Attributes:
        prior: `ȳ` over the task's training rows, which an unseen value gets.
        means: The mean of each value, by column.
    """

    prior: float
    means: Mapping[str, np.ndarray]

    def of(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The mean of each row, `[rows]`, by column; NaN for a missing value."""
        return {
            name: _looked_up(means, codes[name], self.prior) for name, means in self.means.items()
        }


def fit_columns(problem: ProblemSpec, train: pa.Table, *, most_categories: int) -> TreeColumns:
    """Collects the values of ids in training rows.

    Columns of lists have no single value and are left out with a warning; of a sequence there are
    its length and its matches with the row's own values (`tfmtl.data.matches`).

    Args:
        problem: Declares the columns.
        train: Training rows.
        most_categories: A column with more values than this becomes a mean and a count.

    Raises:
        DataError: A declared column is not in the table, or no column is left.
    """
    declared = problem.feature_columns()
    # A row's time is compared with events' times, and is no feature by itself.
    times = {f.row_time for f in problem.sequences}
    read = {f.column for f in problem.features if not isinstance(f, SequenceFeature)}
    columns = {
        name: column.dtype
        for name, column in declared.items()
        if not column.max_values and (name in read or name not in times)
    }
    lists = [name for name, column in declared.items() if column.max_values and not column.whole]
    columns |= dict.fromkeys(match_names(problem), "float32")
    if lists:
        logging.warning("Trees read single values; the lists %s are left out.", lists)
    if not columns:
        raise DataError(f"trees read single values, and all features are lists: {lists}.")
    require(train, columns)
    keys, log_counts = {}, {}
    for name, dtype in columns.items():
        if dtype == "float32":
            continue
        seen = pc.value_counts(_ids(train, name, dtype).drop_null())
        values = seen.field("values").to_numpy(zero_copy_only=False)
        order = np.argsort(values)
        # Not of dtype `object`, which NumPy could only save by pickling.
        keys[name] = values[order].astype(str if dtype == "string" else np.int64)
        if len(keys[name]) > most_categories:
            counts = seen.field("counts").to_numpy(zero_copy_only=False)
            log_counts[name] = np.log1p(counts[order])
    return TreeColumns(columns, keys, log_counts)


def match_names(problem: ProblemSpec) -> list[str]:
    """Names of the columns that `with_matches` adds."""
    names = []
    for feature in problem.sequences:
        names.append(f"{feature.name}/length")
        for event in feature.events:
            if event.of is not None:
                name = feature.event_name(event)
                names += [f"{name}_matches"] + [f"{name}_age"] * (feature.time is not None)
    return names


def raw_columns(problem: ProblemSpec, columns: TreeColumns) -> dict[str, object]:
    """The columns that rows need for trees: those that are read, and those of sequences."""
    made = match_names(problem)
    raw: dict[str, object] = {n: dtype for n, dtype in columns.columns.items() if n not in made}
    return raw | {c.name: c for feature in problem.sequences for c in feature.columns()}


def with_matches(problem: ProblemSpec, table: pa.Table) -> pa.Table:
    """The table with the numbers of each sequence, see `tfmtl.data.matches`."""
    for feature in problem.sequences:
        for name, values in match_numbers(problem, feature, table).items():
            table = table.append_column(name, pa.array(values, from_pandas=True))
    return table


def fit_means(
    columns: TreeColumns,
    codes: Mapping[str, np.ndarray],
    labels: np.ndarray,
    seen: np.ndarray,
    fold: np.ndarray,
    *,
    smoothing: float,
) -> tuple[TargetMeans, dict[str, np.ndarray]]:
    """Computes mean labels for later rows, and out-of-fold ones for the training rows.

    Args:
        columns: The fitted columns.
        codes: The training rows' codes.
        labels: `[rows]`.
        seen: `[rows]`, whether the task is observed; other labels are ignored.
        fold: `[rows]`, the training rows' folds.
        smoothing: Weight of the prior in rows, `s`.

    Returns:
        The means, and per column those of the training rows, `[rows]`, from the other folds.
    """

    def fitted(rows: np.ndarray) -> TargetMeans:
        prior = float(labels[rows].mean()) if rows.any() else 0.0
        means = {}
        for name in columns.log_counts:
            known = rows & (codes[name] >= 0)
            size, places = len(columns.keys[name]), codes[name][known]
            totals = np.bincount(places, labels[known], size)
            counts = np.bincount(places, minlength=size)
            means[name] = (totals + smoothing * prior) / (counts + smoothing)
        return TargetMeans(prior, means)

    out_of_fold = {name: np.full(len(labels), np.nan) for name in columns.log_counts}
    for held_out in np.unique(fold) if out_of_fold else ():
        rows = fold == held_out
        others = fitted(seen & ~rows).of({name: codes[name][rows] for name in out_of_fold})
        for name, means in others.items():
            out_of_fold[name][rows] = means
    return fitted(seen), out_of_fold


def folds_of(problem: ProblemSpec, train: pa.Table, *, folds: int, seed: int) -> np.ndarray:
    """The training rows' folds, `[rows]`; rows of one request (or else user) share one.

    Args:
        problem: Names the request and the user.
        train: Training rows. If they have the column `_fold`, as `read_table` returns it, the folds
            follow from it.
        folds: Number of folds.
        seed: Seed with which folds are drawn otherwise.
    """
    if FOLD in train.column_names:
        return train[FOLD].to_numpy() % folds
    group = problem.request_id or problem.user_id
    random = np.random.default_rng(seed)
    if group is None or group not in train.column_names:
        return random.integers(0, folds, train.num_rows)
    values = pc.dictionary_encode(text_of(as_arrow(train[group]), exact=False))
    places = pc.fill_null(values.indices, len(values.dictionary)).to_numpy(zero_copy_only=False)
    return random.integers(0, folds, len(values.dictionary) + 1)[places]


def require(table: pa.Table, columns: Mapping[str, object]) -> None:
    """Refuses a table that lacks a column.

    Raises:
        DataError: A column is missing; the message names it and the most similar name.
    """
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(
            f"columns {missing} are declared but not given; got {table.column_names}."
            f"{did_you_mean(missing[0], table.column_names)}"
        )


def _looked_up(table: np.ndarray, codes: np.ndarray, unseen: float) -> np.ndarray:
    # The codes −1 (unseen) and −2 (missing) index the last two values.
    return np.append(table, [np.nan, unseen])[codes]


def _ids(table: pa.Table, name: str, dtype: str) -> pa.ChunkedArray:
    # The text and the integers that files have, so that a frame's 7.0 is their 7.
    values = pa.chunked_array([declared(Column(name=name, dtype=dtype), table[name])])
    if dtype == "string":
        return values
    return pc.if_else(pc.equal(values, NO_INTEGER), pa.scalar(None, pa.int64()), values)


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return table[name].cast(kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"column {name!r} is declared as {kind} and holds {table[name].type}: {error}"
        ) from error
