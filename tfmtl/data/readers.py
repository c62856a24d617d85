"""Rows of CSV, TSV or Parquet files as typed Arrow batches, in constant memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

import pyarrow as pa

from tfmtl.data import delimited, parquet
from tfmtl.data.histories import check_types, log_columns, with_histories
from tfmtl.data.places import Places
from tfmtl.data.reader import read_raw
from tfmtl.data.sources import Source, files_of, partition_of, same_format
from tfmtl.data.texts import Unparsable
from tfmtl.data.types import arrow_schema, typed, unparsable_value
from tfmtl.declare.features import Column
from tfmtl.errors import DataError
from tfmtl.text import printable

__all__ = ["Source", "open_table"]

READERS = {"text": delimited, "parquet": parquet}


def open_table(
    path: str,
    columns: Mapping[str, Column],
    source: Source | None = None,
    *,
    places: Places | None = None,
) -> Iterator[pa.RecordBatch]:
    """Reads the declared columns of a file, or of all files below a folder, in the files' order.

    Text may be compressed (gzip, bz2, zstd; recognised by content, not by name). A missing value
    is null. Columns that are not declared are ignored. Where text is declared, values of any type
    are converted to text, and equal values have equal text (`3`, `3.0` and a decimal 3.00 are
    `"3"`; see `tfmtl.data.texts`). If a file lacks a column and its folder is named after it, as
    in `dt=2024-01-02/part-0.parquet`, the column has the folder's value.

    Args:
        path: A file, a folder or a pattern.
        columns: What to read, by name.
        source: How text is to be read.
        places: Receives where each file begins, for messages about rows.

    Yields:
        Batches with exactly `columns`, in their order: `string`, `int64` or `float32`, or lists
        of them for columns with `max_values`. A missing value inside a list is empty text, NaN
        or the least integer; an empty list is null.

    Raises:
        DataError: A file or a column is missing, two columns have the same name, or a value does
            not parse. The message names the file, the line (the row for Parquet) and the column.
            Missing files and columns are reported before the first row is read.
    """
    source = source or Source()
    if source.histories is not None and columns.keys() & source.histories.columns.keys():
        check_types(source.histories, columns)
        places = places or Places()
        log = dataclasses.replace(source, histories=None)
        batches = open_table(path, log_columns(source.histories, columns), log, places=places)
        return with_histories(batches, source.histories, columns, places)
    if source.reader is not None:
        return read_raw(path, columns, source, places or Places())
    files = files_of(path, source)
    for file in files:
        if printable(file) != file:
            raise DataError(
                f"file {file!r}: the name holds characters that cannot be shown, such as line "
                "breaks. Give the file another name."
            )
    reader = READERS[same_format(files, source)]
    parts = [(_place(reader, file, source), _read(reader, file, columns, source)) for file in files]
    return _chained(path, columns, parts, places or Places())


def _place(reader: ModuleType, file: str, source: Source) -> Callable[[int], str]:
    return lambda row: reader.place(file, source, row)


def _read(
    reader: ModuleType, file: str, columns: Mapping[str, Column], source: Source
) -> Iterator[pa.RecordBatch]:
    partition = {n: value for n, value in partition_of(file).items() if n in columns}
    if partition:
        file_columns = reader.names_in(file, source)
        partition = {n: value for n, value in partition.items() if n not in file_columns}
    if not partition:
        batches: Iterator[pa.RecordBatch] = reader.read(file, columns, source)
        return batches
    inside = {n: column for n, column in columns.items() if n not in partition}
    return _with_partition(reader.read(file, inside, source), file, columns, source, partition)


def _with_partition(
    batches: Iterator[pa.RecordBatch],
    file: str,
    columns: Mapping[str, Column],
    source: Source,
    partition: Mapping[str, str | None],
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        arrays = []
        for name, column in columns.items():
            if name in partition:
                value = pa.array([partition[name]], pa.string())
                try:
                    one = typed(value, column, source.list_separator, source.null_values)
                except Unparsable as error:
                    raise unparsable_value(column, f"folder of {file}", error.problem) from None
                arrays.append(pa.concat_arrays([one]).take(pa.array([0] * batch.num_rows)))
            else:
                arrays.append(batch.column(batch.schema.names.index(name)))
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _chained(
    path: str,
    columns: Mapping[str, Column],
    parts: list[tuple[Callable[[int], str], Iterator[pa.RecordBatch]]],
    places: Places,
) -> Iterator[pa.RecordBatch]:
    rows = 0
    schema = arrow_schema(columns)
    for place, part in parts:
        places.begin(rows, place)
        for batch in part:
            if batch.num_rows:
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    if not rows:
        raise DataError(f"{path!r} holds no rows: its files have a header or a schema only.")
