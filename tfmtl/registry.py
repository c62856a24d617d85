"""Parts by kind and name: backbones, interactions, losses, metrics, encodings, balancers and so on.

A configuration names a part and gives its keyword arguments, `{"name": "mmoe", "num_experts": 4}`;
`build` makes the object. A new part of the library is one file with one decorator, and one import
in its room's `__init__`. A part of your own needs neither: register it under a name, or give the
class or function itself, which is known by where it is defined (`"my_shop.parts:Tower"`).

This file names the rooms of the parts as text and imports a room when one of its parts is first
asked for, so that a declaration can be made without TensorFlow.
"""

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tfmtl.errors import SpecError, did_you_mean

T = TypeVar("T")

ROOMS: Mapping[str, str] = {
    "backbone": "tfmtl.backbones",
    "interaction": "tfmtl.operations",
    "pooling": "tfmtl.operations",
    "hidden": "tfmtl.operations",
    "sequence_pooling": "tfmtl.sequences",
    "balancer": "tfmtl.balancing",
    "loss": "tfmtl.losses",
    "term": "tfmtl.losses",
    "metric": "tfmtl.metrics",
    "encoding": "tfmtl.features.encodings",
    "optimizer": "tfmtl.model.optimizers",
    "reader": "tfmtl.datasets",
}
"""Where the library's own parts of each kind register themselves."""

_PARTS: dict[str, dict[str, Any]] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Returns a decorator that registers a class or function as part `name` of `kind`.

    Raises:
        SpecError: There is no such kind, the name holds a colon, or another part of this kind
            already has the name.
    """
    _check_kind(kind)
    if ":" in name:
        raise SpecError(
            f"{kind} {name!r}: a registered name has no colon; 'module:Class' names a part by "
            "where it is defined, without registration."
        )

    def add(part: T) -> T:
        known = _PARTS.setdefault(kind, {})
        if name in known and not _same(known[name], part):
            raise SpecError(f"{kind} {name!r} is already registered as {known[name]!r}.")
        known[name] = part
        return part

    return add


def names(kind: str) -> tuple[str, ...]:
    """The registered names of a kind, sorted."""
    _load(kind)
    return tuple(sorted(_PARTS.get(kind, {})))


def parts(kind: str) -> Mapping[str, Any]:
    """The registered parts of a kind by name, in the order of their registration."""
    _load(kind)
    return dict(_PARTS.get(kind, {}))


def get(kind: str, name: str) -> Any:
    """The class or function registered as `name`, or defined at `"module:qualified.name"`.

    Raises:
        SpecError: The name is unknown; the message lists the known ones. Or the module or what
            is in it cannot be found.
    """
    _load(kind)
    if isinstance(name, str) and ":" in name:
        return _defined_at(kind, name)
    try:
        return _PARTS[kind][name]
    except (KeyError, TypeError):
        known = names(kind)
        raise SpecError(
            f"unknown {kind} {name!r}; known are {list(known)}.{did_you_mean(str(name), known)}"
        ) from None


def reference(kind: str, part: Any) -> str:
    """The name by which `get` finds a class or function: its registered one, or where it is.

    Raises:
        SpecError: It is defined inside a function or is a lambda, where nothing can find it.
    """
    for name, known in _PARTS.get(kind, {}).items():
        if known is part:
            return name
    place = _place(part)
    if place is None or "<" in place:
        raise SpecError(
            f"{kind} {part!r}: a part of your own is a class or function at the top of a module, "
            "so that a training process can find it again; or register it under a name, as "
            f"@tfmtl.register({kind!r}, 'my_name')."
        )
    return place


def config_of(kind: str, part: Any) -> dict[str, Any]:
    """A part's configuration from a name, a class or function, or a mapping with a `name`.

    Raises:
        SpecError: It is none of these; or see `reference`.
    """
    if isinstance(part, str):
        return {"name": part}
    if isinstance(part, Mapping):
        if "name" not in part:
            raise SpecError(f"a {kind} needs a 'name', one of {_listed(kind)}; got {dict(part)}.")
        own = part["name"]
        return {**part, "name": own if isinstance(own, str) else reference(kind, own)}
    if callable(part):
        return {"name": reference(kind, part)}
    raise SpecError(
        f"a {kind} is a name, a class or function, or a mapping such as {{'name': …}}; got "
        f"{part!r}."
    )


def check(kind: str, config: Mapping[str, Any]) -> None:
    """Refuses a configuration whose name or arguments the part does not have."""
    if "name" not in config:
        raise SpecError(f"a {kind} needs a 'name', one of {_listed(kind)}; got {dict(config)}.")
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
    # A Keras layer wraps the lists and dicts that it keeps, in place: in a copy, not in the
    # caller's configuration.
    arguments = copy.deepcopy({k: v for k, v in config.items() if k != "name"})
    return get(kind, config["name"])(*args, **arguments)


def _check_kind(kind: str) -> None:
    if kind not in ROOMS:
        raise SpecError(
            f"there are no parts of kind {kind!r}; kinds are {sorted(ROOMS)}."
            f"{did_you_mean(kind, ROOMS)}"
        )


def _load(kind: str) -> None:
    _check_kind(kind)
    importlib.import_module(ROOMS[kind])


def _listed(kind: str) -> list[str]:
    return list(names(kind))


def _same(known: Any, part: Any) -> bool:
    """Whether a part is the known one, or the same definition run again."""
    return known is part or (_place(part) is not None and _place(known) == _place(part))


def _place(part: Any) -> str | None:
    name = getattr(part, "__qualname__", None)
    return name and f"{part.__module__}:{name}"


def _defined_at(kind: str, name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        part: Any = importlib.import_module(module)
        for attribute in path.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"{kind} {name!r} cannot be found: {error}. It is read as 'module:Class'; the module "
            "must be importable where the model is trained."
        ) from error
    return part
