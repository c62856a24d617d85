"""Rows of CSV, TSV or Parquet files as typed Arrow batches, in constant memory."""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from tfmtl.data import delimited, parquet
from tfmtl.data.sources import Source, files_of, same_format
from tfmtl.data.types import arrow_schema
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

__all__ = ["Source", "open_table"]

READERS = {"text": delimited.read, "parquet": parquet.read}


def open_table(
    path: str, columns: Mapping[str, Column], source: Source | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads the declared columns of a file, or of all files of a folder, in the files' order.

    Text may be compressed (gzip, bz2, zstd; told by content, not by name). A missing value is
    null. Further columns of the files are ignored; of two columns with one name the first
    counts. Numbers become text where text is declared, whole ones without a fraction (`3.0` is
    `"3"`).

    Args:
        path: A file, a folder or a pattern.
        columns: What to read, by name.
        source: How text is to be read.

    Yields:
        Batches with exactly `columns`, in their order: `string`, `int64` or `float32`, or lists
        of them for columns with `max_values`. A missing value inside a list is empty text, NaN
        or the least integer; an empty list is null.

    Raises:
        DataError: A file or a column is missing, or a value does not parse. The message names
            the file, the line (or row, for Parquet) and the column. Missing files and columns
            are found before the first row is read.
    """
    source = source or Source()
    files = files_of(path, source)
    read = READERS[same_format(files, source)]
    batches = [read(file, columns, source) for file in files]
    return _chained(path, columns, batches)


def _chained(
    path: str, columns: Mapping[str, Column], parts: list[Iterator[pa.RecordBatch]]
) -> Iterator[pa.RecordBatch]:
    rows = 0
    schema = arrow_schema(columns)
    for part in parts:
        for batch in part:
            if batch.num_rows:
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    if not rows:
        raise DataError(f"{path!r} holds no rows: its files have a header or a schema only.")
