"""Plain data: settings that are made equal again from their JSON, and files of it."""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Mapping
from typing import Any


def freeze(node: Any) -> None:
    """Puts tuples and plain numbers into the fields of a frozen dataclass, in place."""
    # JSON knows lists only; tuples everywhere make a round trip equal.
    for field in dataclasses.fields(node):
        object.__setattr__(node, field.name, _tuples(getattr(node, field.name)))


def write_json(path: str, plain: Any, **options: Any) -> None:
    """Writes JSON so that a reader sees all of it or none.

    Args:
        path: The file.
        plain: What `json` can write.
        **options: As `json.dump` takes them.
    """
    write_text(path, json.dumps(plain, **options))


def write_text(path: str, text: str) -> None:
    """Writes text so that a reader sees all of it or none.

    Args:
        path: The file.
        text: The text.
    """
    with open(f"{path}.building", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.building", path)


def finite(value: Any) -> Any:
    """Plain data whose undefined numbers are null, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    # NumPy's numbers, of a column's quantile or of a grid, are none to JSON.
    return value.item() if hasattr(value, "item") else value
