"""The check of every setting: its type follows from its annotation, its range is stated beside it.

A dataclass calls `check_settings` where it is made, so that a setting is checked however it came:
from a constructor, from JSON, from `dataclasses.replace` or from `--set`.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Training:
        epochs: int = 10
        learning_rate: float = 1e-3

        def __post_init__(self) -> None:
            freeze(self)
            check_settings("training.", self, {"epochs": at_least(1), "learning_rate": above(0)})
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tfmtl.errors import SpecError, did_you_mean

T = TypeVar("T")
INFINITY = float("inf")
LONGEST = 200
"""Characters of a wrong value that a message shows."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a setting of the right type must hold besides.

    Attributes:
        words: What would be right, after "must be".
        holds: Whether a value is right. Of a list, every value is asked.
        names: The values that are right, where they can be listed.
    """

    words: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def at_least(low: float) -> Limit:
    """Numbers from `low` on."""
    return Limit(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Limit:
    """Numbers above `low`."""
    return Limit(f"above {low}", lambda value: value > low)


def between(low: float, high: float) -> Limit:
    """Numbers from `low` to `high`."""
    return Limit(f"from {low} to {high}", lambda value: low <= value <= high)


def below(low: float, high: float) -> Limit:
    """Numbers from `low` on that lie below `high`."""
    return Limit(f"in [{low}, {high})", lambda value: low <= value < high)


def inside(low: float, high: float) -> Limit:
    """Numbers above `low` and below `high`."""
    return Limit(f"above {low} and below {high}", lambda value: low < value < high)


def one_of(names: Sequence[str]) -> Limit:
    """Some names."""
    return Limit(f"one of {list(names)}", lambda value: value in names, tuple(names))


def filled() -> Limit:
    """Text that has at least one visible character."""
    return Limit("text with a visible character", lambda value: bool(value.strip()))


SEED = between(0, 2**31 - 1)


def check_settings(owner: str, settings: Any, limits: Mapping[str, Limit]) -> None:
    """Checks the fields of a dataclass.

    Args:
        owner: What stands before a field's name in messages, such as `training.`.
        settings: The object. Its lists are tuples already; see `tfmtl.plain.freeze`.
        limits: The range of a field by name; a field without one may have any value of its type.

    Raises:
        SpecError: The message names the field, the value and what would be right.
    """
    kind: Any = type(settings)
    hints = _hints(kind)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        check_setting(
            f"{owner}{field.name}", value, hints.get(field.name, Any), limits.get(field.name)
        )


def check_setting(name: str, value: Any, hint: Any, limit: Limit | None = None) -> None:
    """Checks one value.

    Args:
        name: The dotted name of the setting.
        value: What was given.
        hint: The type that it is annotated with.
        limit: Its range.

    Raises:
        SpecError: See `check_settings`.

    Example:
        >>> check_setting("training.epochs", True, int, at_least(1))
        Traceback (most recent call last):
        tfmtl.errors.SpecError: training.epochs=True must be a whole number, at least 1.
    """
    optional = ", or None" if _fits(None, hint) and hint is not Any else ""
    if not _fits(value, hint):
        _check_items(name, value, hint)
        if isinstance(value, str) and _wants_names(hint):
            raise SpecError(f"{name}={value!r} must be several names: ({value!r},).")
        names = _known(limit, value)
        right = names or f"{_words(hint)}{f', {limit.words}' if limit else ''}"
        raise SpecError(f"{name}={shown(value)} must be {right}{optional}.")
    if limit is None or value is None:
        return
    # A setting of several types, such as a number or a word, has a range for the numbers.
    values = value if isinstance(value, tuple | list) else (value,)
    if all(limit.holds(each) for each in values):
        return
    if limit.names:
        wrong = next(each for each in values if not limit.holds(each))
        raise SpecError(
            f"{name}={value!r} is none of {list(limit.names)}{optional}."
            f"{did_you_mean(str(wrong), limit.names)}"
        )
    each = ", each of them" if isinstance(value, tuple | list) else ""
    raise SpecError(f"{name}={shown(value)} must be {limit.words}{each}{optional}.")


def check_arguments(owner: str, part: Any, arguments: Mapping[str, Any]) -> None:
    """Checks the types of a part's keyword arguments, where its constructor is annotated.

    Args:
        owner: What stands before an argument's name in messages, such as `model.backbone.`.
        part: A class or function.
        arguments: Values by name.

    Raises:
        SpecError: See `check_settings`.
    """
    for base in inspect.getmro(part) if isinstance(part, type) else (part,):
        made_by = vars(base).get("__init__") if isinstance(part, type) else base
        hints = _hints(made_by) if inspect.isfunction(made_by) else {}
        for name in arguments.keys() & hints.keys():
            check_setting(f"{owner}{name}", arguments[name], hints[name])
        if hints:
            arguments = {n: value for n, value in arguments.items() if n not in hints}


def from_plain(kind: type[T], owner: str, plain: Any) -> T:
    """Makes a dataclass from a mapping that came from JSON.

    Args:
        kind: The dataclass.
        owner: What the mapping is called, such as `training`.
        plain: The mapping.

    Raises:
        SpecError: It is no mapping, or has a field that there is not, or lacks one that has no
            default.
    """
    if not isinstance(plain, Mapping):
        raise SpecError(f"{owner}={shown(plain)} must be the fields of {kind.__name__} by name.")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for name in plain:
        if name not in fields:
            raise SpecError(
                f"{owner}.{name}: {kind.__name__} has no field {name!r}; it has {list(fields)}."
                f"{did_you_mean(str(name), fields)}"
            )
    missing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in plain and field.default is field.default_factory is missing:
            raise SpecError(f"{owner}.{name} is missing; {kind.__name__} needs it.")
    return kind(**plain)


def shown(value: Any) -> str:
    """A wrong value as a message shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


@functools.cache
def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError):  # A name that is imported for the type checker alone.
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; a type that is not known here fits."""
    # A class since Python 3.11, and no class that anything is an instance of.
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float)
        return number and not isinstance(value, bool) and -INFINITY < value < INFINITY
    if origin is tuple and arguments[-1] is not ...:
        return (
            isinstance(value, tuple | list)
            and len(value) == len(arguments)
            and all(map(_fits, value, arguments))
        )
    if origin in (tuple, list) or _is(origin, Sequence):
        return isinstance(value, tuple | list) and all(_fits(v, arguments[0]) for v in value)
    if _is(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items()
        )
    return isinstance(value, hint) if origin is None and isinstance(hint, type) else True


def _check_items(name: str, value: Any, hint: Any) -> None:
    """Refuses the value of a mapping that is wrong, so that the message is about it alone."""
    arguments = typing.get_args(hint)
    if _is(typing.get_origin(hint), Mapping) and isinstance(value, Mapping):
        for key, item in value.items():
            if _fits(key, arguments[0]):
                check_setting(f"{name}[{key!r}]", item, arguments[1])


def _is(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _wants_names(hint: Any) -> bool:
    return not _fits("", hint) and _fits(("",), hint)


def _known(limit: Limit | None, value: Any) -> str:
    return limit.words if limit is not None and limit.names else ""


_WORDS: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    bool: ("True or False", "True or False"),
    str: ("text", "texts"),
    Any: ("anything", "anything"),
}


def _words(hint: Any, many: bool = False) -> str:
    """An annotated type in words, of one value or of many."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint][many]
    if origin in (typing.Union, types.UnionType):
        kinds = [each for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(_words(each, many) for each in kinds))
    if origin is tuple and arguments[-1] is not ...:
        inner = ", ".join(_words(each) for each in arguments)
        return f"{'lists' if many else 'a list'} of {len(arguments)} ({inner})"
    if origin in (tuple, list) or _is(origin, Sequence):
        return f"{'lists' if many else 'a list'} of {_words(arguments[0], True)}"
    if _is(origin, Mapping):
        inner = f"{_words(arguments[1], True)} by {_words(arguments[0])}"
        return f"{'mappings' if many else 'a mapping'} of {inner}"
    name = getattr(hint, "__name__", str(hint))
    return f"{name}s" if many else f"of type {name}"
