"""Parquet files as typed batches."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tfmtl.data import pickled_types
from tfmtl.data.sources import Source
from tfmtl.data.texts import Unparsable
from tfmtl.data.types import (
    KINDS,
    double_column,
    missing_column,
    typed,
    unparsable_value,
)
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

BATCH_ROWS = 65536
# UnicodeError: in a damaged file the names of columns may not be valid text.
READING = (pa.ArrowException, OSError, UnicodeError)


def open_file(path: str) -> pq.ParquetFile:
    """Opens a Parquet file, without running code from it.

    Raises:
        DataError: It is damaged, or one of its columns is a pickled Python object.
    """
    pickled_types.close()
    try:
        file = pq.ParquetFile(path)
        pickled_types.refuse(path, file.schema_arrow)
        file.schema_arrow.names  # noqa: B018  (decodes the names)
    except READING as error:
        raise DataError(f"file {path} cannot be read as Parquet: {error}") from None
    return file


def read(path: str, columns: Mapping[str, Column], source: Source) -> Iterator[pa.RecordBatch]:
    """Reads the declared columns of one Parquet file; see `readers.open_table`."""
    file = open_file(path)
    known = file.schema_arrow.names
    for name in columns:
        if name not in known:
            raise missing_column(name, path, known)
        if known.count(name) > 1:
            raise double_column(name, path, known)
    return _batches(file, path, columns, source)


def names_in(path: str, source: Source) -> list[str]:
    """Names of the file's columns."""
    return list(open_file(path).schema_arrow.names)


def place(path: str, source: Source, row: int) -> str:
    """The file and row number of row `row`, counted from 0, for messages."""
    return f"file {path}, row {row + 1}"


def _batches(
    file: pq.ParquetFile, path: str, columns: Mapping[str, Column], source: Source
) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
            arrays = []
            for name, column in columns.items():
                array = batch.column(batch.schema.names.index(name))
                arrays.append(_typed(array, column, source, path, done))
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
            done += batch.num_rows
    except READING as error:
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
        raise unparsable_value(column, where, error.problem, error.remedy) from None
