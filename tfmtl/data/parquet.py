"""Parquet files as typed batches."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tfmtl.data.sources import Source
from tfmtl.data.types import KINDS, Unparsable, missing_column, typed, unparsable_value
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

BATCH_ROWS = 65536


def read(path: str, columns: Mapping[str, Column], source: Source) -> Iterator[pa.RecordBatch]:
    """Reads the declared columns of one Parquet file; see `readers.open_table`."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"file {path} cannot be read as Parquet: {error}") from None
    known = file.schema_arrow.names
    for name in columns:
        if name not in known:
            raise missing_column(name, path, known)
    return _batches(file, path, columns, source)


def _batches(
    file: pq.ParquetFile, path: str, columns: Mapping[str, Column], source: Source
) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
            arrays = []
            for name, column in columns.items():
                # The first of several columns with this name.
                array = batch.column(batch.schema.names.index(name))
                arrays.append(_typed(array, column, source, path, done))
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
            done += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"file {path} cannot be read as Parquet from row {done + 1} on: {error}"
        ) from None


def _typed(array: pa.Array, column: Column, source: Source, path: str, done: int) -> pa.Array:
    try:
        return typed(array, column, source.list_separator, ("",))
    except Unparsable as error:
        if error.row is None:
            raise DataError(
                f"{KINDS[column.dtype]} column {column.name!r} {error.problem}: file {path}."
            ) from None
        where = f"file {path}, row {done + error.row + 1}"
        raise unparsable_value(column, where, error.problem) from None
