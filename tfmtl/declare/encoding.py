"""The encoding of a feature, from what a user writes to the part that is registered for it.

`tfmtl.features.encodings` has the parts; they are declared here and compute there.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tfmtl import registry
from tfmtl.errors import SpecError, did_you_mean

Encoding = str | Mapping[str, Any] | Callable[..., Any]
"""A name, a mapping with a `name` and arguments, or a class of your own."""


def one_of(field: str, argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is none of those allowed; `field` names the feature."""
    if value not in allowed:
        raise SpecError(
            f"{field}: {argument}={value!r} is none of {list(allowed)}."
            f"{did_you_mean(value, allowed)}"
        )


def encoding_config(field: str, encoding: Encoding, short: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an encoding, with arguments that were given in short."""
    try:
        config = registry.config_of("encoding", encoding)
    except SpecError as error:
        raise SpecError(f"{field}: {error}") from None
    given = {argument: value for argument, value in short.items() if value is not None}
    for argument in given.keys() & config.keys():
        raise SpecError(
            f"{field}: {argument}= is given beside encoding={dict(config)}, which has it too; "
            "leave out one of them."
        )
    return {**config, **given}


def encoder_of(field: str, kind: str, config: Mapping[str, Any]) -> Any:
    """The encoding of a configuration, whose name and arguments are right for the feature."""
    name = config["name"]
    if ":" not in name:
        parts = {n: registry.get("encoding", n) for n in registry.names("encoding")}
        known = tuple(n for n, p in parts.items() if getattr(p, "feature_kind", None) == kind)
        one_of(field, "encoding", name, known)
    try:
        if getattr(registry.get("encoding", name), "feature_kind", None) != kind:
            raise SpecError(
                f"encoding={name!r} encodes no {kind} feature; one of your own is a subclass of "
                f"tfmtl.features.encodings.{kind.capitalize()}Encoding."
            )
        return registry.build("encoding", config)
    except SpecError as error:
        raise SpecError(f"{field}: {error}") from None


def check_dim(field: str, dim: int | None, config: Mapping[str, Any], encoder: Any) -> None:
    """Refuses a width below 1, and one of an embedding where there are no ids."""
    if dim is not None and dim < 1:
        raise SpecError(f"{field}: dim={dim} must be at least 1.")
    if dim is not None and not encoder.has_ids:
        raise SpecError(
            f"{field}: dim= is the width of an id's embedding, and encoding={config['name']!r} "
            "makes numbers."
        )
