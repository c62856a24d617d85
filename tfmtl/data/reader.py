"""Readers of data sets whose raw files are no plain table: they are joined or grouped first."""

import abc
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from tfmtl.data.places import Places
from tfmtl.data.sources import Source, one_path, reader_of
from tfmtl.data.texts import Unparsable
from tfmtl.data.types import arrow_schema, missing_column, typed, unparsable_value
from tfmtl.declare.features import Column
from tfmtl.errors import DataError


class Reader(abc.ABC):
    """Makes a table of a data set's raw files.

    A subclass is registered as a part of kind "reader" and named by `Source(reader=…)`. Its
    keyword arguments are the reader's settings.
    """

    @abc.abstractmethod
    def files(self, path: str) -> list[str]:
        """The files that the table is made of, in the order in which they are read.

        Args:
            path: A folder, or a file if the data set is one file.

        Raises:
            DataError: A file is missing; the message names it.
        """

    @abc.abstractmethod
    def columns(self) -> Mapping[str, Column]:
        """The columns that the reader can give, by name, with their natural types."""

    @abc.abstractmethod
    def read(
        self, path: str, columns: Sequence[str], places: Places
    ) -> Iterator[Mapping[str, pa.Array]]:
        """Yields blocks of rows, in an order that depends on the files alone.

        Args:
            path: As in `files`.
            columns: The names to give, all of them known.
            places: Receives where rows come from, for messages.

        Raises:
            DataError: A file is damaged; the message names the file and the line.
        """


def read_raw(
    path: str, columns: Mapping[str, Column], source: Source, places: Places
) -> Iterator[pa.RecordBatch]:
    """Rows of a source's reader as batches with exactly `columns`; see `readers.open_table`."""
    reader: Reader = reader_of(source)
    known = reader.columns()
    for name in columns:
        if name not in known:
            raise missing_column(name, path, list(known))
    path = one_path(path)
    # A missing file is an error before the first row is read.
    reader.files(path)
    return _typed_batches(reader.read(path, list(columns), places), path, columns, source, places)


def _typed_batches(
    blocks: Iterator[Mapping[str, pa.Array]],
    path: str,
    columns: Mapping[str, Column],
    source: Source,
    places: Places,
) -> Iterator[pa.RecordBatch]:
    rows, schema = 0, arrow_schema(columns)
    for block in blocks:
        arrays = []
        for name, column in columns.items():
            try:
                arrays.append(typed(block[name], column, source.list_separator, ("",)))
            except Unparsable as error:
                where = f"file {path}" if error.row is None else places.of(rows + error.row)
                raise unparsable_value(column, where, error.problem, error.remedy) from None
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        rows += batch.num_rows
        if batch.num_rows:
            yield batch
    if not rows:
        raise DataError(f"{path!r} gives no rows to the reader {dict(source.reader or {})}.")
