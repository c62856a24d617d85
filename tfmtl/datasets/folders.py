"""Finds the raw files of a data set in the folder where somebody unpacked them."""

import os
from collections.abc import Iterable, Sequence

from tfmtl.errors import DataError, did_you_mean

ENDINGS = ("", ".gz", ".bz2", ".zst")
DEPTH = 2
"""Archives often unpack into folders of their own; files are looked for so many folders down."""


def named_files(folder: str, names: Iterable[str], what: str) -> list[str]:
    """The files with some names, compressed or not, in a folder or up to two folders below it.

    Args:
        folder: The folder.
        names: Their names, without the ending of a compressed file.
        what: The data set, for the message.

    Returns:
        The files, in the order of `names`.

    Raises:
        DataError: One is missing or there twice; or the folder is none.
    """
    names = list(names)
    if not os.path.isdir(folder):
        raise DataError(
            f"{folder!r} is no folder; {what} is a folder with {_listed(names)}, as downloaded."
        )
    files: dict[str, list[str]] = {}
    for path in _files(folder, DEPTH):
        files.setdefault(_plain(os.path.basename(path)), []).append(path)
    missing = [name for name in names if name not in files]
    if missing:
        near = did_you_mean(missing[0], files)
        raise DataError(
            f"{what}: the folder {folder!r} has no file {_listed(missing)}; {what} has "
            f"{_listed(names)}, and the folder has {_listed(sorted(files)[:20])}.{near}"
        )
    for name in names:
        if len(files[name]) > 1:
            raise DataError(
                f"{what}: {name!r} is there more than once: {_listed(files[name])}. Leave one."
            )
    return [files[name][0] for name in names]


def file_names(folder: str) -> list[str]:
    """Names of the files in a folder and up to two folders below it, without `.gz` and such."""
    return sorted({_plain(os.path.basename(path)) for path in _files(folder, DEPTH)})


def _files(folder: str, depth: int) -> list[str]:
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            found += _files(path, depth - 1) if depth else []
        else:
            found.append(path)
    return found


def _plain(name: str) -> str:
    for ending in ENDINGS[1:]:
        name = name.removesuffix(ending)
    return name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no file"
