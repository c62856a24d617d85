"""Hashes that tell whether code has changed."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def code_hash(paths: Sequence[str | Path]) -> str:
    """A hash of Python sources and of the versions of TensorFlow and TensorFlow Transform.

    Args:
        paths: Files, or folders with all files below them; relative to the project's root.
    """
    digest = hashlib.sha256()
    for package in ("tensorflow", "tensorflow-transform"):
        digest.update(importlib.metadata.version(package).encode())
    for path in paths:
        start = ROOT / path
        for file in [start] if start.is_file() else sorted(start.rglob("*.py")):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
