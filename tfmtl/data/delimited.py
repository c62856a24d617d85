"""Delimited text (CSV, TSV) as typed batches."""

import csv
import io
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from tfmtl.data.sources import Source, format_of
from tfmtl.data.types import (
    TYPES,
    Unparsable,
    missing_column,
    parses,
    typed,
    unparsable_value,
)
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

BLOCK_BYTES = 4 << 20
ENCODING_HINT = " Source(encoding='latin-1') names another encoding."


def read(path: str, columns: Mapping[str, Column], source: Source) -> Iterator[pa.RecordBatch]:
    """Reads the declared columns of one text file; see `readers.open_table`."""
    names, lines = _header(path, source)
    for name in columns:
        if name not in names:
            hint = ""
            if source.column_names is None and len(names) == 1:
                hint = " If its separator is another, say so by Source(delimiter=...)."
            elif source.column_names is None and any(parses(n, "float32") for n in names):
                hint = " If it has no header line, say so by Source(column_names=...)."
            raise missing_column(name, path, names, hint)
    return _batches(path, columns, source, names, lines)


def _batches(
    path: str, columns: Mapping[str, Column], source: Source, names: list[str], lines: int
) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        with pa.input_stream(path, compression=format_of(path)[1]) as stream:
            for batch in _open(stream, path, columns, source, names, lines):
                arrays = []
                for name, column in columns.items():
                    array = batch.column(name)
                    if source.strips and column.dtype == "string" and not column.max_values:
                        array = pc.utf8_trim_whitespace(array)
                    if column.max_values or source.strips:
                        array = typed(array, column, source.list_separator, source.null_values)
                    arrays.append(array)
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
                done += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeError, Unparsable) as error:
        raise _fault(path, columns, source, names, lines, done, error) from None


def _open(
    stream: pa.NativeFile,
    path: str,
    columns: Mapping[str, Column],
    source: Source,
    names: list[str],
    lines: int,
) -> Iterator[pa.RecordBatch]:
    # Arrow wants every name once; of two columns with one name the first counts.
    unique = [n if n not in names[:i] else f"{n}\x00{i}" for i, n in enumerate(names)]
    nulls = list(source.null_values)
    if source.strips:
        nulls += [" " + n for n in nulls] + [n + " " for n in nulls] + [f" {n} " for n in nulls]
    types = {n: pa.string() if c.max_values else TYPES[c.dtype] for n, c in columns.items()}
    try:
        reader = arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(
                block_size=BLOCK_BYTES,
                column_names=unique,
                skip_rows=lines,
                encoding=source.encoding,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=source.separator(path),
                quote_char=source.quote,
                newlines_in_values=source.multiline,
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types=types,
                null_values=nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        raise
    yield from reader


def _header(path: str, source: Source) -> tuple[list[str], int]:
    # Names of the columns, and how many lines stand before the first row.
    if source.column_names is not None:
        return list(source.column_names), 0
    try:
        with _text(path, source) as text:
            rows = _rows(text, path, source)
            for row in rows:
                if _undecoded("".join(row)):
                    raise DataError(
                        f"file {path}, line {rows.line_num}: the header is not {source.encoding}."
                        + ENCODING_HINT
                    )
                if row:
                    return [name.strip() for name in row], rows.line_num
    except (OSError, UnicodeError, pa.ArrowException, csv.Error) as error:
        raise DataError(f"file {path}: its header line cannot be read: {error}.") from None
    raise DataError(f"file {path} is empty: it holds blank lines only.")


def _text(path: str, source: Source) -> io.TextIOWrapper:
    stream = pa.input_stream(path, compression=format_of(path)[1])
    encoding = "utf-8-sig" if source.encoding.lower() in ("utf-8", "utf8") else source.encoding
    return io.TextIOWrapper(
        io.BufferedReader(stream), encoding=encoding, errors="surrogateescape", newline=""
    )


def _undecoded(text: str) -> bool:
    # What `surrogateescape` makes of a byte it cannot decode.
    return any("\udc80" <= c <= "\udcff" for c in text)


def _rows(text: io.TextIOWrapper, path: str, source: Source):
    csv.field_size_limit(1 << 30)
    return csv.reader(
        text,
        delimiter=source.separator(path),
        quotechar=source.quote,
        skipinitialspace=source.strips,
    )


def _fault(
    path: str,
    columns: Mapping[str, Column],
    source: Source,
    names: list[str],
    lines: int,
    done: int,
    error: Exception,
) -> DataError:
    # Arrow says what failed but hardly where; a second, slow reading from the batch that failed
    # on finds the line.
    where = {name: names.index(name) for name in columns}
    unknown = DataError(f"file {path} cannot be read after row {done}: {error}")
    row_number = 0
    try:
        with _text(path, source) as text:
            for _ in range(lines):
                text.readline()
            rows = _rows(text, path, source)
            for row in rows:
                if not row:
                    continue
                row_number += 1
                if row_number <= done:
                    continue
                line = f"file {path}, line {lines + rows.line_num}"
                if len(row) != len(names):
                    return _ragged(line, row, names, source)
                for name, column in columns.items():
                    value = row[where[name]]
                    if _undecoded(value):
                        return DataError(
                            f"{line}, column {name!r}: the text is not {source.encoding}."
                            + ENCODING_HINT
                        )
                    parts = value.split(source.list_separator) if column.max_values else [value]
                    for part in parts:
                        if part.strip() not in source.null_values and not _fits(part, column):
                            return unparsable_value(column, line, part)
    except (OSError, EOFError, pa.ArrowException, csv.Error):
        return unknown
    return unknown


def _fits(value: str, column: Column) -> bool:
    # Python's own parsing is fast, and differs from Arrow's in few values, which Arrow decides.
    if column.dtype == "string":
        return True
    try:
        number = float(value) if column.dtype == "float32" else int(value)
    except ValueError:
        return parses(value, column.dtype)
    return ("_" not in value and abs(number) < 2**63) or parses(value, column.dtype)


def _ragged(line: str, row: list[str], names: list[str], source: Source) -> DataError:
    hint = " Where quoted values hold line breaks, say so by Source(multiline=True)."
    expected = "column_names=" if source.column_names is not None else "the header"
    return DataError(
        f"{line} has {len(row)} values, {expected} names {len(names)}."
        + ("" if source.multiline else hint)
    )
