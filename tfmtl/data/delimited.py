"""Delimited text (CSV, TSV) as typed batches."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from absl import logging
from pyarrow import csv as arrow_csv

from tfmtl.data.sources import Source, format_of
from tfmtl.data.texts import Unparsable
from tfmtl.data.types import (
    TYPES,
    double_column,
    missing_column,
    parses,
    typed,
    unparsable_value,
)
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

BLOCK_BYTES = 4 << 20
READING = (OSError, EOFError, UnicodeError, pa.ArrowException, csv.Error)
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
        if names.count(name) > 1:
            raise double_column(name, path, names)
    return _batches(path, columns, source, names, lines)


def names_in(path: str, source: Source) -> list[str]:
    """Names of the file's columns."""
    return _header(path, source)[0]


def place(path: str, source: Source, row: int) -> str:
    """The file and line of row `row`, counted from 0, for messages."""
    _, lines = _header(path, source)
    try:
        for number, (line, _) in enumerate(_numbered(path, source, lines)):
            if number == row:
                return f"file {path}, line {line}"
    except READING:
        pass
    return f"file {path}, row {row + 1}"


def _batches(
    path: str, columns: Mapping[str, Column], source: Source, names: list[str], lines: int
) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        with _Lines(path, source) as stream:
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
            missed = stream.lines - lines != done
    except (pa.ArrowException, OSError, UnicodeError, Unparsable) as error:
        raise _fault(path, columns, source, names, lines, done, error) from None
    if missed and not source.multiline:
        _check_line_breaks(path, source, lines)


class _Lines(io.RawIOBase):
    """The bytes of a text file; counts its lines while it is read."""

    def __init__(self, path: str, source: Source) -> None:
        compression = format_of(path, source.encoding)[1]
        self._stream = pa.input_stream(path, compression=compression)
        self._breaks, self._last = 0, b"\n"
        self._drops, self._path = source.last_line == "drop", path
        # Whole lines that are not handed out yet, and the beginning of the next one.
        self._whole, self._part = b"", b""

    @property
    def lines(self) -> int:
        return self._breaks + (self._last != b"\n")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def read(self, size: int = -1) -> bytes:
        most = None if size is None or size < 0 else size
        block: bytes = self._whole_lines(most) if self._drops else self._stream.read(most)
        self._breaks += block.count(b"\n")
        self._last = block[-1:] or self._last
        return block

    def _whole_lines(self, size: int | None) -> bytes:
        while not self._whole:
            read = self._stream.read(size or BLOCK_BYTES)
            if not read:
                if self._part:
                    logging.warning("file %s: a last line that is cut off is left out", self._path)
                self._part = b""
                return b""
            whole, found, rest = (self._part + read).rpartition(b"\n")
            self._whole, self._part = whole + found, rest
        block = self._whole[:size]
        self._whole = self._whole[len(block) :]
        return block

    def close(self) -> None:
        self._stream.close()
        super().close()


def _check_line_breaks(path: str, source: Source, lines: int) -> None:
    # Fewer rows than lines: there are blank lines, or a quoted value that holds line breaks. Such a
    # quote may never be closed, and then all rows below it become part of one value.
    line = _first_broken(path, source, lines)
    if line is not None:
        raise DataError(_line_break(f"file {path}, line {line}"))


def _first_broken(path: str, source: Source, lines: int) -> int | None:
    before = lines
    for line, row in _numbered(path, source, lines):
        if any("\n" in value or "\r" in value for value in row):
            return before + 1
        before = line
    return None


def _line_break(where: str) -> str:
    return (
        f"{where}: a quoted value holds a line break. If it is meant to, say so by "
        "Source(multiline=True); if not, a quote is not closed."
    )


def _numbered(path: str, source: Source, lines: int) -> Iterator[tuple[int, list[str]]]:
    # Yields the rows below the header, each with the number of its last line.
    with _text(path, source) as text:
        for _ in range(lines):
            text.readline()
        rows = _rows(text, path, source)
        for row in rows:
            if row:
                yield lines + rows.line_num, row


def _open(
    stream: io.RawIOBase,
    path: str,
    columns: Mapping[str, Column],
    source: Source,
    names: list[str],
    lines: int,
) -> Iterator[pa.RecordBatch]:
    # Arrow needs unique names, but two columns that are not read may share a name.
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
    # Returns the names of the columns, and how many lines precede the first row.
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
    except READING as error:
        raise DataError(f"file {path}: its header line cannot be read: {error}.") from None
    raise DataError(f"file {path} is empty: it holds blank lines only.")


def _text(path: str, source: Source) -> io.TextIOWrapper:
    stream = pa.input_stream(path, compression=format_of(path, source.encoding)[1])
    encoding = "utf-8-sig" if source.encoding.lower() in ("utf-8", "utf8") else source.encoding
    return io.TextIOWrapper(
        io.BufferedReader(stream), encoding=encoding, errors="surrogateescape", newline=""
    )


def _undecoded(text: str) -> bool:
    # `surrogateescape` replaces a byte that it cannot decode by one of these characters.
    return any("\udc80" <= c <= "\udcff" for c in text)


def _rows(text: io.TextIOWrapper, path: str, source: Source) -> Any:
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
    # Arrow says what failed, but mostly not where. The file is read a second time, slowly, and the
    # rows after the last good batch are checked one by one.
    positions = {name: names.index(name) for name in columns}
    row_number, broken, before = 0, None, lines
    try:
        for line_number, row in _numbered(path, source, lines):
            row_number += 1
            if broken is None and any("\n" in value for value in row):
                broken = before + 1
            before = line_number
            if row_number <= done:
                continue
            line = f"file {path}, line {line_number}"
            if len(row) != len(names):
                return _ragged(line, row, names, source)
            for name, column in columns.items():
                value = row[positions[name]]
                if _undecoded(value):
                    return DataError(
                        f"{line}, column {name!r}: the text is not {source.encoding}."
                        + ENCODING_HINT
                    )
                parts = value.split(source.list_separator) if column.max_values else [value]
                for part in parts:
                    if part.strip() not in source.null_values and not _fits(part, column):
                        return unparsable_value(column, line, part)
    except READING:
        pass
    if broken is not None and not source.multiline:
        return DataError(_line_break(f"file {path}, line {broken}"))
    return DataError(f"file {path} cannot be read after row {done}: {error}")


def _fits(value: str, column: Column) -> bool:
    # Python parses faster than Arrow. The few values on which they differ are left to Arrow.
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
