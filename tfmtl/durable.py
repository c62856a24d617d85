"""Files and folders that are whole or not there, after a kill and after a power cut.

What is written gets another name first. It is handed to the disk (`fsync`), and then renamed:
whoever finds the name finds all of it. A folder can be sealed besides, so that what happens to
its files later is noticed before they are read.
"""

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from tfmtl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEAL = "seal.json"
"""The file of a sealed folder that has the size, and mostly the CRC-32, of every other file."""


class Damaged(DataError):
    """What a run had written is not as it was; the message names the file and what is wrong."""


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Opens a file to write, which appears at `path` when the block ends, and only then.

    Args:
        path: The file. One that is there stays as it is until the new one is whole.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "numbers")
        >>> with whole_file(path) as file:
        ...     _ = file.write(b"1, 2, 3")
        ...     print(os.path.exists(path))
        False
        >>> open(path).read()
        '1, 2, 3'
    """
    building = _building(path)
    try:
        with open(building, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(building, path)
    except BaseException:
        # On a full disk the half that was written is in the way.
        with contextlib.suppress(OSError):
            os.remove(building)
        raise
    _sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """Gives an empty folder to fill, which appears at `path` when the block ends, and only then.

    Args:
        path: The folder. One that is there is replaced; between the two there is none for a
            moment, and never half of one.
    """
    building = _building(path)
    remove(building)
    os.makedirs(building)
    try:
        yield building
        sync(building)
        remove(path)
        os.rename(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _sync_folder(os.path.dirname(path))


def remove(path: str) -> None:
    """Removes a folder or a file, where there is one; a folder goes at once, not file by file."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.remove(path)
        return
    leaving = _hidden(path, "leaving")
    shutil.rmtree(leaving, ignore_errors=True)
    os.rename(path, leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def sync(folder: str) -> None:
    """Hands a folder and all that is in it to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _fsync(os.path.join(parent, name))
        _fsync(parent)


def seal(folder: str, *, content: bool = True) -> None:
    """Notes the size and the CRC-32 of every file of a folder, for `check_whole`.

    Args:
        folder: The folder.
        content: Whether the CRC-32 is noted, for which all files are read.
    """
    files = {
        os.path.relpath(path := os.path.join(parent, name), folder): _mark(path, content)
        for parent, _, names in os.walk(folder)
        for name in names
    }
    files.pop(SEAL, None)
    with whole_file(os.path.join(folder, SEAL)) as file:
        file.write(json.dumps(files, indent=1, sort_keys=True).encode())


def check_whole(folder: str, *, sealed: bool = True) -> None:
    """Refuses a folder whose files are not as they were when it was sealed.

    Args:
        folder: The folder.
        sealed: Whether it must be sealed. Otherwise one without a seal passes unchecked.

    Raises:
        Damaged: A file is missing, or has another size or content.
    """
    path = os.path.join(folder, SEAL)
    if not os.path.exists(path):
        if sealed:
            raise Damaged(f"{folder} is damaged: it has no {SEAL}")
        return
    files = read_json(path)
    if not isinstance(files, dict):
        raise Damaged(f"{path} is damaged: it holds no list of files")
    for name, mark in files.items():
        inner = os.path.join(folder, name)
        if not os.path.isfile(inner):
            raise Damaged(f"{inner} is missing")
        size = os.path.getsize(inner)
        if size != mark["bytes"]:
            raise Damaged(f"{inner} is damaged: it has {size:,} of {mark['bytes']:,} bytes")
        if "crc32" in mark and _mark(inner) != mark:
            raise Damaged(f"{inner} is damaged: its content has changed since it was written")


def read_json(path: str) -> Any:
    """Reads a JSON file.

    Raises:
        Damaged: It is no JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise Damaged(f"{path} is damaged: it is no JSON ({error})") from error


def read_arrays(path: str) -> "dict[str, NDArray[Any]]":
    """Reads an `.npz` file, and checks the CRC-32 of all of it.

    Raises:
        Damaged: It is missing, cut off or changed.
    """
    # Here, because the command line reads this module first, and NumPy is half of that time.
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError) as error:
        raise Damaged(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _building(path: str) -> str:
    return _hidden(path, "building")


def _hidden(path: str, state: str) -> str:
    # A dot at the front: patterns such as `at-*` and TensorFlow Serving pass over it.
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name}.{state}")


def _mark(path: str, content: bool = True) -> dict[str, int]:
    if not content:
        return {"bytes": os.path.getsize(path)}
    crc, size = 0, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return {"bytes": size, "crc32": crc}


def _sync_folder(path: str) -> None:
    _fsync(path or ".")


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
