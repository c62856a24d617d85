"""A part that is registered for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tfmtl import registry


@contextlib.contextmanager
def registered(kind: str, name: str, part: Any) -> Iterator[None]:
    """Registers a part within the block."""
    registry.names(kind)
    registry._PARTS[kind][name] = part
    try:
        yield
    finally:
        del registry._PARTS[kind][name]
