"""Plain data: settings that are made equal again from their JSON, and files of it."""

import dataclasses
import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tfmtl.durable import whole_file
from tfmtl.errors import SpecError

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MOST_LETTERS = 150
"""Letters of a file's name that follows from a name of the user's."""


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
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def check_plain_name(field: str, name: Any) -> None:
    """Refuses what cannot be a folder, a word of a command and a part of a URL as it is.

    Letters of other alphabets are refused too: what serves a model may read a URL's bytes as
    another encoding than who asks it.

    Args:
        field: What is named, for the message.
        name: The name.

    Raises:
        SpecError: It is not 1 to 100 of the letters `a` to `z` and `A` to `Z`, digits, `_`, `-`
            and `.`, or it begins with `-` or `.`.
    """
    if isinstance(name, str) and PLAIN_NAME.fullmatch(name):
        return
    near = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("._-") if isinstance(name, str) else ""
    near = near.rstrip("_")[:100]
    raise SpecError(
        f"{field}={name!r} becomes a folder, a served model and part of a URL: 1 to 100 of the "
        "letters a to z and A to Z, digits, '_', '-' and '.', of which '-' and '.' not at the "
        f"front, would be right{f', such as {near!r}' if near else ''}."
    )


def file_name(name: str) -> str:
    """A name of a file for any name: the same for the same one, another for another.

    Example:
        >>> file_name("search"), file_name("../x"), file_name("a b")
        ('search', '%2E.%2Fx', 'a%20b')
    """
    # A plus means nothing to a file system, and joins the tasks of one component (MTMS).
    quoted = quote(name, safe="+")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) <= MOST_LETTERS:
        return quoted
    # Most file systems take 255 bytes, some of which are what a caller puts before and after.
    return f"{quoted[: MOST_LETTERS - 33]}-{hashlib.md5(name.encode()).hexdigest()}"


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
