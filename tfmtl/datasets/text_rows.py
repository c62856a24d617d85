"""Raw text files as blocks of rows, with their last line looked at before anything else."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tfmtl.data import delimited
from tfmtl.data.sources import Source, format_of
from tfmtl.declare.features import Column
from tfmtl.errors import DataError, SpecError

LAST_LINES = ("check", "keep", "drop")
SEE = "last_line='drop' reads the file without this line, 'keep' takes it as it is."


class TextRows:
    """Rows of one delimited text file without quotes.

    Args:
        path: The file.
        columns: All its columns, in order: `string`, `int64` or `float32`.
        header: Whether its first line names the columns, in any order.
        last_line: What becomes of a last line without a line break. `check` refuses it, unless
            `is_whole` says that nothing can be missing; `keep` takes it; `drop` leaves it out.
        is_whole: Whether a last line without a line break is certainly whole.
        empty: Columns that may be empty; elsewhere an empty value is an error.

    Raises:
        DataError: The last line is cut off; the message names file and line.
        SpecError: `last_line` is unknown.
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[Column],
        *,
        header: bool = False,
        last_line: str = "check",
        is_whole: Callable[[str], bool] = lambda line: False,
        empty: Sequence[str] = (),
    ) -> None:
        check_last_line_setting(last_line)
        self.path = path
        self.columns = {column.name: column for column in columns}
        self.empty = set(empty)
        self.source = Source(
            column_names=None if header else tuple(self.columns),
            delimiter=",",
            # The raw files have no quotes; one in a value is a character like any other.
            quote="\x7f",
            null_values=("",),
            last_line="drop" if last_line == "drop" else "keep",
        )
        if last_line == "check":
            _check_last_line(path, is_whole)

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the number of a block's first row, from 0, and its columns `names`.

        Raises:
            DataError: A line has another number of values, or a value is not of its type, or is
                empty where it must not be; or the file cannot be read to its end.
        """
        columns = {name: self.columns[name] for name in names}
        first = 0
        for batch in delimited.read(self.path, columns, self.source):
            self._check_filled(batch, first)
            yield first, batch
            first += batch.num_rows

    def place(self, row: int) -> str:
        """File and line of a row, counted from 0."""
        return delimited.place(self.path, self.source, row)

    def wrong(self, row: int, problem: str) -> DataError:
        """The error that a row is wrong.

        Args:
            row: Its number, from 0.
            problem: What is wrong, as the rest of a sentence.
        """
        return DataError(f"{self.place(row)}: {problem}")

    def _check_filled(self, batch: pa.RecordBatch, first: int) -> None:
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            if array.null_count and name not in self.empty:
                row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
                raise self.wrong(first + row, f"column {name!r} is empty.")


def check_last_line_setting(last_line: str) -> None:
    """Refuses an unknown `last_line`."""
    if last_line not in LAST_LINES:
        raise SpecError(
            f"last_line={last_line!r}: one of {', '.join(map(repr, LAST_LINES))} would be right."
        )


def checked_choice(setting: str, value: str, known: Mapping[str, object] | Sequence[str]) -> None:
    """Refuses a value that is none of the known ones.

    Raises:
        SpecError: The message lists them.
    """
    if value not in known:
        raise SpecError(
            f"{setting}={value!r}: one of {', '.join(map(repr, known))} would be right."
        )


def _check_last_line(path: str, is_whole: Callable[[str], bool]) -> None:
    lines, last = _last_line(path)
    if last.endswith(b"\n") or not last:
        return
    text = last.decode("utf-8", "replace")
    if not is_whole(text):
        shown = text if len(text) <= 80 else f"{text[:40]}…{text[-40:]}"
        raise DataError(
            f"file {path}, line {lines}: the file ends within this line, {shown!r}; the download "
            f"is cut off. {SEE}"
        )


def _last_line(path: str) -> tuple[int, bytes]:
    """The number of lines of a file, and the last one with its line break."""
    compression = format_of(path)[1]
    if compression is None:
        with open(path, "rb") as file:
            file.seek(-1, 2)
            if file.read(1) == b"\n":
                # Nothing to complain about, and the lines of gigabytes need not be counted.
                return 0, b"\n"
    lines, part, offset = 0, b"", 0
    try:
        with pa.input_stream(path, compression=compression) as stream:
            while block := stream.read(delimited.BLOCK_BYTES):
                offset += len(block)
                lines += block.count(b"\n")
                end = block.rfind(b"\n")
                part = block[end + 1 :] if end >= 0 else part + block
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"file {path}, line {lines + 1}: the compressed file ends or breaks here: {error}. "
            "Download it again."
        ) from None
    return (lines + 1, part) if part else (lines, b"\n")
