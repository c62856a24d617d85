"""Which files make up a table, and how their text is to be read."""

import dataclasses
import fnmatch
import glob
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfmtl.declare.histories import Histories
from tfmtl.errors import DataError, SpecError
from tfmtl.plain import freeze
from tfmtl.registry import build, config_of

# First bytes of compressed files, which are recognised whatever the file is called.
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
DOCUMENTS = (".md", ".rst", ".html", ".pdf", ".json", ".yaml", ".yml", ".py", ".ipynb", ".log")

LAST_LINES = ("keep", "drop")

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """How text files are read, where the defaults do not fit. Parquet files have one notation.

    Args:
        column_names: Names of the columns, for text files without a header line.
        delimiter: What separates values: one character, with spaces around it where the file
            has them (`", "`); values are then stripped. By default a tab in `.tsv` files and a
            comma in others.
        quote: Character around values that hold a delimiter.
        null_values: Text that means "missing". Parquet files can hold nulls, so only empty text is
            missing there.
        list_separator: What separates the values of a list column in text.
        encoding: Encoding of text files.
        multiline: Whether quoted values hold line breaks; slower. Without it such a file is
            refused: a quote that is never closed would make many rows one value.
        pattern: Which files of a folder are read, at any depth; by default all but hidden ones,
            those that start with an underscore, and documents.
        last_line: `keep`, or `drop`: leaves out a last line that does not end in a line break,
            which a broken download has cut off.
        reader: Reads the raw files of a data set that is no plain table: a registered reader and
            its settings, `{"name": "ali_ccp"}`. See `tfmtl.datasets`. The other fields then have
            no effect.
        histories: How list columns that the files do not have are made from their rows, which
            stand in the order of time; see `tfmtl.Histories`.

    Raises:
        SpecError: The delimiter is not a single character, or a setting is unknown.
    """

    column_names: Sequence[str] | None = None
    delimiter: str | None = None
    quote: str = '"'
    null_values: Sequence[str] = ("", "NA", "NaN", "nan", "null", "NULL", "?")
    list_separator: str = "|"
    encoding: str = "utf-8"
    multiline: bool = False
    pattern: str | None = None
    last_line: str = "keep"
    reader: Any = None
    histories: Histories | None = None

    def __post_init__(self) -> None:
        for field in ("null_values", "column_names"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise SpecError(f"Source({field}={value!r}) must be several texts: ({value!r},).")
        histories: Any = self.histories
        if isinstance(histories, Mapping):
            object.__setattr__(self, "histories", Histories(**histories))
        # Tuples, so that a source equals the one that is read from its JSON.
        object.__setattr__(self, "null_values", tuple(self.null_values))
        if self.column_names is not None:
            object.__setattr__(self, "column_names", tuple(self.column_names))
        if self.last_line not in LAST_LINES:
            raise SpecError(
                f"Source(last_line={self.last_line!r}): one of {', '.join(LAST_LINES)} would be "
                "right."
            )
        if self.reader is not None:
            object.__setattr__(self, "reader", config_of("reader", self.reader))
            freeze(self)
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
    """The files of a table, sorted; for a folder, all files below it, at any depth.

    Args:
        path: A file, a folder, or a pattern such as `logs/day=1/*.csv.gz`. A folder that a
            pattern matches stands for the files below it.
        source: Its `pattern` selects files of a folder.

    Raises:
        DataError: There is no such file, or none that could be data; or a link leads nowhere.
    """
    if source.reader is not None:
        files: list[str] = reader_of(source).files(one_path(path))
        return files
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        files = sorted(_below(path, path, source, ()))
        if not files:
            _nothing_in(path, source)
        return files
    matches = sorted(glob.glob(path))
    if not matches:
        if os.path.islink(path):
            raise _bad_link(path)
        what = f"no file matches {path!r}" if glob.has_magic(path) else f"{path!r} is not there"
        raise DataError(f"{what}. Give a file, a folder of files or a pattern.")
    chosen = os.path.basename(path) != "*"
    files = []
    for match in matches:
        if os.path.isdir(match):
            if chosen or not _is_hidden(match):
                root = match if chosen else os.path.dirname(match)
                files += sorted(_below(match, root, source, ()))
        elif _counts(match, os.path.dirname(match), source, chosen):
            files += [match] if _is_file(match) else []
    if not files:
        raise _no_data(path, matches)
    return files


def reader_of(source: Source) -> Any:
    """The `tfmtl.data.reader.Reader` that a source names.

    Raises:
        SpecError: Its name or one of its settings is unknown or wrong.
    """
    return build("reader", source.reader)


def one_path(path: str) -> str:
    """The folder or the file of a path that may be a pattern, as TFX gives them.

    Raises:
        DataError: The pattern fits none or several.
    """
    if os.path.exists(path):
        return path
    folder, name = os.path.split(path)
    matches = glob.glob(folder if name == "*" else path)
    if len(matches) != 1:
        problem = "is not there" if not matches else f"fits {len(matches)} files or folders"
        raise DataError(
            f"{path!r} {problem}; a reader of raw files wants one folder, with the files as they "
            "were downloaded."
        )
    return matches[0]


def _below(folder: str, root: str, source: Source, above: tuple[str, ...]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder!r} is a link to a folder above it, without end. Remove the link.")
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read: {error.strerror}.") from None
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            if not _is_hidden(path):
                yield from _below(path, root, source, (*above, real))
        elif _counts(path, root, source, False) and _is_file(path):
            yield path


def _counts(path: str, root: str, source: Source, chosen: bool) -> bool:
    if source.pattern is None:
        return chosen or _is_data(path)
    within = os.path.relpath(path, root)
    return any(
        fnmatch.fnmatchcase(name, source.pattern) for name in (within, os.path.basename(path))
    )


def _is_file(path: str) -> bool:
    # A link to a missing file is an error: ignored, it would silently reduce the rows.
    if os.path.islink(path) and not os.path.exists(path):
        raise _bad_link(path)
    return os.path.isfile(path)


def _bad_link(path: str) -> DataError:
    return DataError(
        f"{path!r} is a link to {os.readlink(path)!r}, which is not there or leads round in a "
        "circle. Remove the link, or bring its target back."
    )


def _nothing_in(folder: str, source: Source) -> None:
    names = sorted(os.listdir(folder))
    if not names or source.pattern is not None:
        such = f" that matches {source.pattern!r}" if source.pattern else ""
        raise DataError(
            f"the folder {folder!r} holds no file{such}. Give a file, a folder of files or a "
            "pattern."
        )
    raise _no_data(folder, names)


def _no_data(path: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path!r}: none of {[os.path.basename(n) for n in names][:10]} is a data file. "
        "Source(pattern='*.csv') says which files are read."
    )


def partition_of(path: str) -> dict[str, str | None]:
    """The column values in the names of a path's folders, in the notation of Hive and Spark.

    Example:
        >>> partition_of("logs/dt=2024-01-02/scene=a%20b/part-0.parquet")
        {'dt': '2024-01-02', 'scene': 'a b'}
    """
    parts = {}
    for folder in os.path.dirname(path).split(os.sep):
        name, equals, value = folder.partition("=")
        if name and equals:
            text = urllib.parse.unquote(value)
            parts[urllib.parse.unquote(name)] = None if text == NO_PARTITION else text
    return parts


def null_values_in(path: str, source: Source) -> tuple[str, ...]:
    """Text that means "missing" in a table: the source's in text files, empty text in Parquet.

    Args:
        path: A file, a folder or a pattern, with or without TFX's placeholders.
        source: How text is to be read.
    """
    if source.reader is not None:
        return ("",)
    placed = re.sub(r"\{[A-Z]+(:\d+)?\}", "*", path)
    path = placed if not os.path.exists(path) else path
    try:
        kind, _ = format_of(files_of(path, source)[0], source.encoding)
    except DataError:
        kind = "text"
    return ("",) if kind == "parquet" else tuple(source.null_values)


def format_of(path: str, encoding: str = "utf-8") -> tuple[str, str | None]:
    """Returns `("parquet", None)` or `("text", compression)`, judged by the first bytes.

    Args:
        path: The file.
        encoding: That of its text.

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
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    if not wide and (head.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_utf16(head)):
        little = not head.startswith(b"\xfe\xff") and (head[:2] == b"\xff\xfe" or not head[1])
        name = (
            "utf-16" if head[:1] in (b"\xff", b"\xfe") else "utf-16-le" if little else "utf-16-be"
        )
        raise DataError(
            f"file {path} is UTF-16 text, and is read as {encoding}. Source(encoding={name!r}) "
            "says so."
        )
    if b"\x00" in head and not wide:
        raise DataError(
            f"file {path} is neither Parquet nor delimited text (it starts with {head[:4]!r}). "
            "Write it as CSV, TSV or Parquet."
        )
    return "text", None


def _is_utf16(head: bytes) -> bool:
    # In English text every second byte is zero.
    even, odd = head[:64:2].count(0), head[1:64:2].count(0)
    half = len(head[:64]) // 2
    return half >= 2 and (even, odd) in ((0, half), (half, 0))


def same_format(files: Sequence[str], source: Source) -> str:
    """Returns the one format of `files`, `parquet` or `text`.

    Raises:
        DataError: They differ in format or separator.
    """
    first: tuple[str, str] | None = None
    for path in files:
        kind, _ = format_of(path, source.encoding)
        form = (kind, source.separator(path) if kind == "text" else "")
        if first is not None and form != first:
            raise DataError(
                f"file {files[0]} is {_describe(first)}, file {path} is {_describe(form)}. Files "
                "of one table have one format; Source(pattern=...) says which are read."
            )
        first = form
    assert first is not None
    return first[0]


def _describe(form: tuple[str, str]) -> str:
    return "Parquet" if form[0] == "parquet" else f"text separated by {form[1]!r}"


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith((".", "_"))


def _is_data(path: str) -> bool:
    name = os.path.basename(path)
    if _is_hidden(path) or name.lower().endswith(DOCUMENTS):
        return False
    return not name.upper().startswith(("README", "LICENSE", "LICENCE"))
