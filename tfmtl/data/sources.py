"""Which files make up a table, and how their text is to be read."""

import dataclasses
import glob
import os
from collections.abc import Sequence
from typing import Any

from tfmtl.errors import DataError, SpecError

# What tells a compressed or a Parquet file from text, whatever the file is called.
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
DOCUMENTS = (".md", ".rst", ".html", ".pdf", ".json", ".yaml", ".yml", ".py", ".ipynb", ".log")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """How files are read, where their defaults do not fit. Parquet needs none of it.

    Args:
        column_names: Names of the columns, for text files without a header line.
        delimiter: What separates values: one character, with spaces around it where the file
            has them (`", "`); values are then stripped. By default a tab in `.tsv` files and a
            comma in others.
        quote: Character around values that hold a delimiter.
        null_values: Text that means "missing". Parquet has nulls of its own, so there only
            empty text is missing.
        list_separator: What separates the values of a list column in text.
        encoding: Encoding of text files.
        multiline: Whether quoted values hold line breaks; slower.
        pattern: Which files of a folder are read; by default all but hidden ones, those that
            start with an underscore, and documents.

    Raises:
        SpecError: The delimiter is no single character.
    """

    column_names: Sequence[str] | None = None
    delimiter: str | None = None
    quote: str = '"'
    null_values: Sequence[str] = ("", "NA", "NaN", "nan", "null", "NULL", "?")
    list_separator: str = "|"
    encoding: str = "utf-8"
    multiline: bool = False
    pattern: str | None = None

    def __post_init__(self) -> None:
        # Tuples, so that a source equals the one its JSON makes.
        object.__setattr__(self, "null_values", tuple(self.null_values))
        if self.column_names is not None:
            object.__setattr__(self, "column_names", tuple(self.column_names))
        if self.delimiter is not None and len(self.separator("")) != 1:
            raise SpecError(
                f"Source(delimiter={self.delimiter!r}): one character separates values, with or "
                "without spaces around it, such as ',' or ', '."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `Source(**plain)` makes an equal source."""
        return dataclasses.asdict(self)

    @property
    def strips(self) -> bool:
        """Whether values are stripped of the delimiter's spaces."""
        return self.delimiter is not None and len(self.delimiter) > 1

    def separator(self, path: str) -> str:
        """The character between two values of the file `path`."""
        if self.delimiter is None:
            extensions = os.path.basename(path).lower().split(".")[1:]
            return "\t" if {"tsv", "tab"} & set(extensions) else ","
        return self.delimiter.strip(" ") or self.delimiter[:1]


def files_of(path: str, source: Source) -> list[str]:
    """The files of a table, sorted.

    Args:
        path: A file, a folder, or a pattern such as `logs/day=1/*.csv.gz`.
        source: Says by `pattern` which files of a folder count.

    Raises:
        DataError: There is no such file, or none that could be data.
    """
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        pattern = os.path.join(glob.escape(path), source.pattern or "*")
    else:
        pattern = path
    matches = sorted(glob.glob(pattern))
    if not matches:
        what = f"no file matches {pattern!r}" if glob.has_magic(path) else f"{path!r} is not there"
        if os.path.isdir(path):
            what = f"the folder {path!r} holds no file" + (
                f" that matches {source.pattern!r}" if source.pattern else ""
            )
        raise DataError(f"{what}. Give a file, a folder of files or a pattern.")
    chosen = source.pattern is not None or os.path.basename(pattern) != "*"
    files = [m for m in matches if os.path.isfile(m) and (chosen or _is_data(m))]
    if not files:
        raise DataError(
            f"{path!r}: none of {[os.path.basename(m) for m in matches][:10]} is a data file. "
            "Source(pattern='*.csv') says which files are read."
        )
    return files


def format_of(path: str) -> tuple[str, str | None]:
    """Returns `("parquet", None)` or `("text", compression)`, judged by the first bytes.

    Raises:
        DataError: The file cannot be opened, is empty, or is neither.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"file {path} cannot be read: {error.strerror}.") from None
    if not head:
        raise DataError(f"file {path} is empty (0 bytes).")
    if head.startswith(b"PAR1"):
        return "parquet", None
    for magic, compression in MAGIC.items():
        if head.startswith(magic):
            return "text", compression
    if b"\x00" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"file {path} is neither Parquet nor delimited text (it starts with {head[:4]!r}). "
            "Write it as CSV, TSV or Parquet."
        )
    return "text", None


def same_format(files: Sequence[str], source: Source) -> str:
    """Returns the one format of `files`, `parquet` or `text`.

    Raises:
        DataError: They differ in format or separator.
    """
    first: tuple[str, str] | None = None
    for path in files:
        kind, _ = format_of(path)
        found = (kind, source.separator(path) if kind == "text" else "")
        if first is not None and found != first:
            raise DataError(
                f"file {files[0]} is {_describe(first)}, file {path} is {_describe(found)}. Files "
                "of one table have one format; Source(pattern=...) says which are read."
            )
        first = found
    assert first is not None
    return first[0]


def _describe(found: tuple[str, str]) -> str:
    return "Parquet" if found[0] == "parquet" else f"text separated by {found[1]!r}"


def _is_data(path: str) -> bool:
    name = os.path.basename(path)
    if name.startswith((".", "_")) or name.lower().endswith(DOCUMENTS):
        return False
    return not name.upper().startswith(("README", "LICENSE", "LICENCE"))
