"""Reads plain data into dataclasses, and refuses unknown keys and wrong types."""

import dataclasses
from typing import Any, TypeVar

from tfmtl.errors import SpecError, did_you_mean

T = TypeVar("T")


def of_type(kind: type[T], value: Any, where: str) -> T:
    """Returns the value if it has this type.

    Args:
        kind: `dict`, `list`, `int` or `str`.
        value: The value that was read.
        where: The name of the value in the error.

    Raises:
        SpecError: It has another type.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SpecError(f"{where}: is a {kind.__name__}; got {value!r}.")
    return value


def fields_of(kind: type, plain: Any, where: str) -> dict[str, Any]:
    """Returns the keyword arguments of a dataclass.

    Args:
        kind: The dataclass.
        plain: The data that was read.
        where: The name of the data in the error.

    Raises:
        SpecError: It is not a mapping, has a key that is not a field, or lacks a field without a
            default.
    """
    fields = dataclasses.fields(kind)
    known = [field.name for field in fields]
    for key in of_type(dict, plain, where):
        if key not in known:
            raise SpecError(
                f"{where}: there is no {key!r}; it has {known}.{did_you_mean(key, known)}"
            )
    for field in fields:
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if field.name not in plain and not optional:
            raise SpecError(f"{where}: {field.name!r} is missing; got {sorted(plain)}.")
    return dict(plain)
