"""Files as checked in-memory tables, for notebooks and small data."""

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
    columns = columns_to_read(problem, split)
    checks = Checks(problem, split)
    parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in SPLITS}
    for batch in open_table(path, columns, source):
        first_row = checks.rows_seen
        split_ids = assign(split, batch, first_row)
        checks.update(batch, split_ids)
        fold = folds(problem, batch, split_ids, first_row)
        batch = pa.RecordBatch.from_arrays([*batch.columns, fold], [*batch.schema.names, FOLD])
        keep = rows_to_keep(problem, batch)
        for index, name in enumerate(SPLITS):
            chosen = split_ids == index
            chosen = chosen if keep is None else chosen & keep
            if chosen.any():
                parts[name].append(batch.filter(pa.array(chosen)))
    for line in checks.finish().summary():
        logging.info(line)
    return {name: pa.Table.from_batches(batches) for name, batches in parts.items()}
