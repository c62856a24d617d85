"""A field of an experiment, replaced by its dotted path: `--set`, and what a search tries."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmtl.errors import SpecError, did_you_mean


def replaced(node: Any, path: str, value: Any) -> Any:
    """A copy of a dataclass with one field replaced, which is checked as any new one is.

    Args:
        node: The dataclass.
        path: Names joined by dots; a number is a place in a list.
        value: The field's new value.

    Raises:
        SpecError: The path names no field, or the value is refused.
    """
    return _replaced(node, path, path.split("."), value)


def _replaced(node: Any, path: str, keys: list[str], value: Any) -> Any:
    key, *rest = keys
    if isinstance(node, Mapping):
        return {**node, key: _replaced(node.get(key), path, rest, value) if rest else value}
    if isinstance(node, tuple):
        if not key.isdecimal() or int(key) >= len(node):
            raise SpecError(
                f"{path!r}: {key!r} is no place in a list of {len(node)}; places are counted "
                "from 0."
            )
        place = int(key)
        new = _replaced(node[place], path, rest, value) if rest else value
        return (*node[:place], new, *node[place + 1 :])
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        before = path.removesuffix(".".join(keys)).removesuffix(".")
        raise SpecError(
            f"{path!r}: {before!r} is {node!r}, which has no field {key!r}; give {before!r} a "
            "value as a whole."
        )
    known = [f.name for f in dataclasses.fields(node)]
    if key not in known:
        raise SpecError(
            f"{path!r}: {type(node).__name__} has no field {key!r}; it has {known}."
            f"{did_you_mean(key, known)}"
        )
    new = _replaced(getattr(node, key), path, rest, value) if rest else value
    return dataclasses.replace(node, **{key: new})
