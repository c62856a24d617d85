"""Files as checked, split rows: in batches for the pipeline, as tables for notebooks."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from absl import logging

from tfmtl.data.checks import Checks
from tfmtl.data.labels import rows_to_keep
from tfmtl.data.readers import Source, open_table
from tfmtl.data.splits import assign, columns_to_read, default_split, folds
from tfmtl.experiment import SPLITS, Split
from tfmtl.features.declare import FOLD
from tfmtl.problem import ProblemSpec


def read_table(
    path: str, problem: ProblemSpec, source: Source | None = None, split: Split | None = None
) -> dict[str, pa.Table]:
    """Reads, checks and splits a file or folder, as the pipeline does.

    Args:
        path: A CSV, TSV or Parquet file, a folder of them, or a pattern.
        problem: What the rows must hold.
        source: How text is to be read.
        split: How rows are split; `splits.default_split` if not given.

    Returns:
        Tables `train`, `validation` and `test` with the problem's columns and `_fold` (see
        `splits.folds`); `.to_pandas()` makes a data frame of one.

    Raises:
        DataError: A check failed; the message says which, and where.
    """
    split = split or default_split(problem)
    checks = Checks(problem, split)
    parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in SPLITS}
    for batch, split_ids in split_batches(path, problem, source, split, checks):
        for index, name in enumerate(SPLITS):
            chosen = split_ids == index
            if chosen.any():
                parts[name].append(batch.filter(pa.array(chosen)))
    for line in checks.finish().summary():
        logging.info(line)
    return {name: pa.Table.from_batches(batches) for name, batches in parts.items()}


def split_batches(
    path: str,
    problem: ProblemSpec,
    source: Source | None,
    split: Split,
    checks: Checks,
    slices: Sequence[str] = (),
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Reads rows in one pass, with their fold and split, and without those to be dropped.

    Args:
        path: See `read_table`.
        problem: What the rows must hold.
        source: How text is to be read.
        split: How rows are split.
        checks: Is shown every row read; `finish` is the caller's to call.
        slices: Further columns to carry along.

    Yields:
        A batch with `_fold`, and the index of each row's split in `SPLITS`.
    """
    for batch in open_table(path, columns_to_read(problem, split, slices), source):
        first_row = checks.rows_seen
        split_ids = assign(split, batch, first_row)
        checks.update(batch, split_ids)
        fold = folds(problem, batch, split_ids, first_row)
        batch = pa.RecordBatch.from_arrays([*batch.columns, fold], [*batch.schema.names, FOLD])
        keep = rows_to_keep(problem, batch)
        if keep is not None:
            batch, split_ids = batch.filter(pa.array(keep)), split_ids[keep]
        yield batch, split_ids
