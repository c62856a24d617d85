"""Multi-task, multi-scene ranking of ads and recommendations on TensorFlow.

The public names and where each of them lives stand in `__init__.pyi`, so that an editor and a type
checker see them. Here they are loaded on first use: whoever declares a problem does not wait for
TensorFlow.
"""

import ast
import importlib
import os
from pathlib import Path
from typing import Any

# TFRS needs Keras 2, and whoever imports TensorFlow first decides what `tf.keras` is.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from tfmtl._version import __version__  # noqa: E402

_HOME = {
    name.name: str(statement.module)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for name in statement.names
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  names of the stub


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tfmtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
