"""Assigns rows to training, validation and test, and training rows to folds."""

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data import times
from tfmtl.data.hashing import hash_rows, hash_text, mix, share
from tfmtl.data.places import BadRow
from tfmtl.data.texts import EXACT_FLOAT32, text_of
from tfmtl.declare.features import FOLD, Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Sampling, Split, by_hash, by_row_number, time_of
from tfmtl.errors import SpecError

FOLD_RANGE = 2**31
SAMPLING_STREAM = 0x5A3B1C9D00000000


def columns_to_read(
    problem: ProblemSpec,
    split: Split,
    slices: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> dict[str, Column]:
    """Every raw column that the problem, the split, the slices and the sampling need.

    Raises:
        SpecError: The split's or the sampling's column is a list, or a sampling would leave
            out rows that are tested on.
    """
    columns = problem.columns()
    if FOLD in columns:
        raise SpecError(f"column {FOLD!r} is written by the split; give yours another name.")
    if sampling is not None and split.rule == "whole":
        raise SpecError(
            "sampling leaves out training rows, and with split=whole() every row is tested on "
            "too. Leave sampling out, or split by_hash(…)."
        )
    for name in (*slices, split.column, sampling.column if sampling else None):
        if name is not None:
            columns.setdefault(name, Column(name=name, dtype="string"))
    if sampling is not None and columns[sampling.column].max_values:
        raise SpecError(
            f"sampling: column {sampling.column!r} is a list; sampling reads one value."
        )
    if split.column is not None and columns[split.column].max_values:
        raise SpecError(f"split {split}: the column is a list; a split reads one value.")
    return columns


def sampled(
    sampling: Sampling, batch: pa.RecordBatch, split_ids: NDArray[Any], first_row: int
) -> NDArray[Any]:
    """Which rows a sampling keeps, bool `[rows]`: all but some of the training rows.

    Args:
        sampling: The rates.
        batch: Rows with the sampling's column.
        split_ids: The rows' splits, as `assign` gives them.
        first_row: Number of the batch's first row among all rows, from 0.
    """
    values = as_text(batch.column(batch.schema.names.index(sampling.column)))
    rates = np.ones(batch.num_rows)
    for value, rate in sampling.rates.items():
        rates[pc.equal(values, value).fill_null(False).to_numpy(zero_copy_only=False)] = rate
    rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.uint64)
    # Not the random numbers that choose the rows of the checks' sample.
    chance = share(mix(rows ^ np.uint64(SAMPLING_STREAM)))
    kept: NDArray[Any] = (split_ids != 0) | (chance < rates)
    return kept


def default_split(problem: ProblemSpec) -> Split:
    """Splits by a hash of the request; without one, of the user; without both, by row number."""
    column = problem.request_id or problem.user_id
    return by_row_number() if column is None else by_hash(column)


def assign(split: Split, batch: pa.RecordBatch, first_row: int) -> NDArray[Any]:
    """Returns int8 `[rows]`, the index in `split.names`: 0 for train, 1 for validation, 2 for test.

    `by_hash` maps `hashing.hash_text` of the value's text to `[0, 1)` and compares it with the
    cumulative shares. A number is hashed as text, so the declared type does not matter.

    Args:
        split: The rule.
        batch: Rows with the rule's column.
        first_row: Number of the batch's first row among all rows, from 0.

    Raises:
        BadRow: A row has no value to split by, or a value that the rule does not know.
    """
    if split.rule == "whole":
        return np.zeros(batch.num_rows, np.int8)
    if split.rule == "row_number":
        assert split.modulo is not None
        number = np.arange(first_row, first_row + batch.num_rows) % split.modulo
        return _by_bounds(number, np.round(np.cumsum(split.shares[:2]) * split.modulo))
    assert split.column is not None
    values = batch.column(batch.schema.names.index(split.column))
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise BadRow(
            first_row + row,
            f"split {split}: ",
            " has no value, so it belongs to no split. Fill it in, or split by another column.",
        )
    if split.rule == "hash":
        if pa.types.is_floating(values.type):
            beyond = np.abs(values.to_numpy(zero_copy_only=False)) > EXACT_FLOAT32
            why = (
                "above 2**24, where a float32 feature no longer tells ids apart. Declare the "
                "column as categorical(…), or split by another"
            )
            _refuse(split, values, beyond, first_row, why)
        hashes = hash_text(as_text(values), salt=split.salt)
        return _by_bounds(share(hashes), np.cumsum(split.shares[:2]))
    if split.rule == "time":
        return _by_time(split, values, first_row)
    return _by_column(split, values, first_row)


def folds(
    problem: ProblemSpec, batch: pa.RecordBatch, split_ids: NDArray[Any], first_row: int
) -> pa.Array:
    """Returns the column `FOLD`, int64 `[rows]`, from which the folds of training rows follow.

    A training row has a hash in `[0, 2³¹)` of its request, or of its row number if no request is
    declared or known. Its fold is `FOLD % folds`, so all rows of a request are in one fold. Every
    other row has −1.

    Args:
        problem: Declares the request.
        batch: Rows.
        split_ids: What `assign` returned for them.
        first_row: Number of the first of them.
    """
    hashes = hash_rows(first_row, batch.num_rows, salt=FOLD)
    if problem.request_id is not None:
        # With the salt, folds are independent of a split by the same column.
        requests = batch.column(batch.schema.names.index(problem.request_id))
        known = requests.is_valid().to_numpy(zero_copy_only=False)
        hashes = np.where(known, hash_text(as_text(requests), salt=FOLD), hashes)
    fold = (hashes >> np.uint64(33)).astype(np.int64)
    return pa.array(np.where(split_ids == 0, fold, -1), pa.int64())


def as_text(array: pa.Array) -> pa.Array:
    """A scalar column as text; whole numbers have no fraction, so that 3 and 3.0 are equal."""
    return text_of(array, exact=False)


def _by_bounds(values: NDArray[Any], bounds: NDArray[Any]) -> NDArray[Any]:
    return np.searchsorted(bounds, values, side="right").astype(np.int8)


def _by_time(split: Split, values: pa.Array, first_row: int) -> NDArray[Any]:
    assert split.bounds is not None
    bounds = [time_of(bound) for bound in split.bounds]
    if isinstance(bounds[0], datetime.datetime):
        micros, bad = times.parse(as_text(values), aware=bounds[0].tzinfo is not None)
        if bad is not None:
            bad.reason += f"; the bounds are {split.bounds[0]!r} and {split.bounds[1]!r}"
            row = values[bad.row].as_py()
            raise BadRow(
                first_row + bad.row, f"split {split}: the value {row!r} of ", f" {bad.reason}."
            )
        return _by_bounds(micros, times.micros_of(bounds))
    if pa.types.is_string(values.type):
        number = pc.match_substring_regex(values, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")
        good = number.to_numpy(zero_copy_only=False)
        _refuse(split, values, ~good, first_row, f"no number, but {split.bounds[0]!r} is")
        values = pc.utf8_trim_whitespace(values).cast(pa.float64())
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return _by_bounds(numbers, np.asarray(bounds, np.float64))


def _by_column(split: Split, values: pa.Array, first_row: int) -> NDArray[Any]:
    assert split.values is not None
    known = [value for part in split.values for value in part]
    owner = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in split.values])
    values = as_text(values)
    index = pc.index_in(values, value_set=pa.array(known, pa.string()))
    unknown = index.is_null().to_numpy(zero_copy_only=False)
    named = dict(zip(split.names, (list(part) for part in split.values), strict=True))
    _refuse(split, values, unknown, first_row, f"in no split; the splits are {named}")
    split_ids: NDArray[Any] = owner[index.to_numpy(zero_copy_only=False)]
    return split_ids


def _refuse(split: Split, values: pa.Array, bad: NDArray[Any], first_row: int, why: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        before = f"split {split}: the value {values[row].as_py()!r} of "
        raise BadRow(first_row + row, before, f" is {why}.")
