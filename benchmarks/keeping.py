"""Figures kept in a folder, so that an interrupted run continues, and none of another run is used.

A file is named after what the figures depend on: the paper, the arm, and a hash of the data's
content, the code and the settings. If one of them changes, the figures are measured again.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from pipeline.fingerprint import code_hash
from tfmtl.durable import Damaged, read_json
from tfmtl.plain import write_json

NAME_LETTERS = 120


def kept(
    keep: str | None,
    paper: str,
    code: tuple[str, ...],
    name: str,
    make: Callable[[], Any],
    *,
    settings: Any = None,
    path: str | None = None,
) -> Any:
    """Returns the data kept under a name; if there are none, makes and keeps them.

    Args:
        keep: The folder; without it nothing is kept.
        paper: The paper's name, the first part of the file's name.
        code: Sources that the figures depend on.
        name: What is measured, as text: data set, size, seed and arm.
        make: Returns the figures as plain data.
        settings: All further settings, as plain data, such as an experiment's JSON.
        path: Files or a folder that the figures are measured on, of which all content counts.
    """
    if keep is None:
        return make()
    file = file_of(keep, paper, code, name, settings=settings, path=path)
    if os.path.exists(file):
        try:
            return read_json(file)["figures"]
        except (Damaged, KeyError, TypeError):
            os.remove(file)
    os.makedirs(keep, exist_ok=True)
    start = time.perf_counter()
    figures = make()
    seconds = time.perf_counter() - start
    write_json(file, {"name": name, "seconds": seconds, "figures": figures})
    return figures


def file_of(
    keep: str,
    paper: str,
    code: tuple[str, ...],
    name: str,
    *,
    settings: Any = None,
    path: str | None = None,
) -> str:
    """The file in which `kept` keeps figures; see there."""
    return os.path.join(keep, f"{_start(paper, code, name, path)}{_digest([name, settings])}.json")


def is_kept(
    keep: str | None, paper: str, code: tuple[str, ...], name: str, path: str | None
) -> bool:
    """Whether figures of this name, code and data are kept, with whatever further settings."""
    if keep is None or not os.path.isdir(keep):
        return False
    start = _start(paper, code, name, path)
    return any(each.startswith(start) for each in os.listdir(keep))


def _start(paper: str, code: tuple[str, ...], name: str, path: str | None) -> str:
    parts = [_hash_of(code), None if path is None else content_hash(path)]
    return f"{paper}-{name[:NAME_LETTERS]}-{_digest(parts)}-"


def _digest(parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@functools.cache
def content_hash(path: str) -> str:
    """A hash of a file, or of the names and the content of all files below a folder.

    It is computed once per process: the files of a long run are not changed meanwhile.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in _files(path):
        name = os.path.relpath(file, path)
        digest.update(f"{name} {os.path.getsize(file)}\n".encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


@functools.cache
def _hash_of(code: tuple[str, ...]) -> str:
    # Computed once: if a file is edited during a long run, the loaded code stays the same.
    return code_hash(code)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
    )
