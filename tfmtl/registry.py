"""Parts (backbones, balancers, optimizers, loss terms) by kind and name.

A configuration names a part and gives its keyword arguments, `{"name": "mmoe",
"num_experts": 4}`; `build` makes the object. A new part is one file with one decorator.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tfmtl.errors import SpecError, did_you_mean

T = TypeVar("T")
_PARTS: dict[str, dict[str, Any]] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Returns a decorator that registers a class or function as part `name` of `kind`.

    Raises:
        SpecError: Another part of this kind already has the name.
    """

    def add(part: T) -> T:
        known = _PARTS.setdefault(kind, {})
        if name in known and known[name].__qualname__ != getattr(part, "__qualname__", None):
            raise SpecError(f"{kind} {name!r} is already registered as {known[name]!r}.")
        known[name] = part
        return part

    return add


def names(kind: str) -> tuple[str, ...]:
    """The registered names of a kind, sorted."""
    return tuple(sorted(_PARTS.get(kind, {})))


def get(kind: str, name: str) -> Any:
    """The class or function registered as `name`.

    Raises:
        SpecError: The name is unknown; the message lists the known ones.
    """
    try:
        return _PARTS[kind][name]
    except KeyError:
        known = names(kind)
        raise SpecError(
            f"unknown {kind} {name!r}; known are {list(known)}.{did_you_mean(name, known)}"
        ) from None


def check(kind: str, config: Mapping[str, Any]) -> None:
    """Refuses a configuration whose name or arguments the part does not have."""
    if "name" not in config:
        raise SpecError(f"a {kind} needs a 'name', one of {list(names(kind))}; got {dict(config)}.")
    part = get(kind, config["name"])
    parameters = inspect.signature(part).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        init = getattr(part, "__init__", part)
        parameters = inspect.signature(init).parameters
    allowed = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    for argument in config:
        if argument != "name" and argument not in allowed:
            raise SpecError(
                f"{kind} {config['name']!r} has no argument {argument!r}; it takes "
                f"{sorted(allowed)}.{did_you_mean(argument, allowed)}"
            )


def build(kind: str, config: Mapping[str, Any], *args: Any) -> Any:
    """Makes the part that `config` names, from positional `args` and its keyword arguments."""
    check(kind, config)
    # A layer that keeps lists or dicts has Keras wrap what is in them, in the caller's own data.
    arguments = copy.deepcopy({k: v for k, v in config.items() if k != "name"})
    return get(kind, config["name"])(*args, **arguments)
