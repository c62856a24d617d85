"""Reads files into checked and split rows: batches for the pipeline, tables for notebooks."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from absl import logging
from numpy.typing import NDArray

from tfmtl.data.checks import Checks
from tfmtl.data.columns import with_null_values
from tfmtl.data.labels import rows_to_keep
from tfmtl.data.places import BadRow
from tfmtl.data.readers import Source, open_table
from tfmtl.data.sources import null_values_in
from tfmtl.data.splits import as_text, assign, columns_to_read, default_split, folds, sampled
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Sampling, Split
from tfmtl.errors import DataError


def read_table(
    path: str,
    problem: ProblemSpec,
    source: Source | None = None,
    split: Split | None = None,
    sampling: Sampling | None = None,
) -> dict[str, pa.Table]:
    """Reads, checks and splits a file or folder, as the pipeline does.

    Args:
        path: A CSV, TSV or Parquet file, a folder of them, or a pattern.
        problem: Its columns are read.
        source: How text is to be read.
        split: How rows are split; `splits.default_split` if not given.
        sampling: Which training rows are left out; none if not given.

    Returns:
        Tables `train`, `validation` and `test` with the problem's columns and `_fold` (see
        `splits.folds`); `.to_pandas()` returns a data frame. With `whole()`, there is one table,
        `all`.

    Raises:
        DataError: A check failed. The message says which check, and where.
    """
    split = split or default_split(problem)
    checks = Checks(problem, split)
    parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in split.names}
    for batch, split_ids in split_batches(path, problem, source, split, checks, sampling=sampling):
        for index, name in enumerate(split.names):
            chosen = split_ids == index
            if chosen.any():
                parts[name].append(batch.filter(pa.array(chosen)))
    for line in checks.finish().summary():
        logging.info(line)
    schema = next(batches[0].schema for batches in parts.values() if batches)
    # `prepare` reads it, so that served rows have the same texts for "missing" as these files.
    schema = with_null_values(schema, null_values_in(path, source or Source()))
    return {
        name: pa.Table.from_batches(batches, schema) if batches else schema.empty_table()
        for name, batches in parts.items()
    }


def split_batches(
    path: str,
    problem: ProblemSpec,
    source: Source | None,
    split: Split,
    checks: Checks,
    slices: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> Iterator[tuple[pa.RecordBatch, NDArray[Any]]]:
    """Reads rows in one pass, with their fold and split, and without dropped rows.

    Args:
        path: See `read_table`.
        problem: Its columns are read.
        source: How text is to be read.
        split: How rows are split.
        checks: Takes in every row. The caller calls `finish`.
        slices: Further columns to read.
        sampling: Which training rows are left out.

    Yields:
        A batch with `_fold`, and the index of each row's split in `split.names`.
    """
    columns = columns_to_read(problem, split, slices, sampling)
    source = source or Source()
    sampled_values: set[str | None] = set()
    for batch in open_table(path, columns, source, places=checks.places):
        first_row = checks.rows_seen
        try:
            split_ids = assign(split, batch, first_row)
        except BadRow as error:
            raise error.at(checks.places) from None
        left_out = None
        if sampling is not None:
            left_out = ~sampled(sampling, batch, split_ids, first_row)
            sampled_values |= set(pc.unique(as_text(batch.column(sampling.column))).to_pylist())
        checks.update(batch, split_ids, left_out)
        fold = folds(problem, batch, split_ids, first_row)
        batch = pa.RecordBatch.from_arrays([*batch.columns, fold], [*batch.schema.names, FOLD])
        keep = rows_to_keep(problem, batch)
        if left_out is not None:
            keep = ~left_out if keep is None else keep & ~left_out
        if keep is not None:
            batch, split_ids = batch.filter(pa.array(keep)), split_ids[keep]
        yield batch, split_ids
    if sampling is not None and not sampled_values & set(sampling.rates):
        raise DataError(
            f"sampling: no row has any of {sorted(sampling.rates)} in column {sampling.column!r}, "
            f"so nothing would be left out; its values are {sorted(map(str, sampled_values))[:20]}."
        )
