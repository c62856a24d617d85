"""The encoding of a feature, from what a user writes to the part that is registered for it.

`tfmtl.features.encodings` has the parts; they are declared here and compute there.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tfmtl import registry
from tfmtl.declare.checks import check_arguments, check_setting, one_of
from tfmtl.errors import SpecError, did_you_mean

Encoding = str | Mapping[str, Any] | Callable[..., Any]
"""A name, a mapping with a `name` and arguments, or a class of your own."""


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
    if isinstance(name, str) and ":" not in name:
        parts = {n: registry.get("encoding", n) for n in registry.names("encoding")}
        known = tuple(n for n, p in parts.items() if getattr(p, "feature_kind", None) == kind)
        check_setting(f"{field}: encoding", name, str, one_of(known))
    try:
        part = registry.get("encoding", name)
        if getattr(part, "feature_kind", None) != kind:
            raise SpecError(
                f"encoding={name!r} encodes no {kind} feature; one of your own is a subclass of "
                f"tfmtl.features.encodings.{kind.capitalize()}Encoding."
            )
        return _built(part, config)
    except ValueError as error:  # `SpecError` is one, too.
        raise SpecError(f"{field}: {error}") from None


def _built(part: Any, config: Mapping[str, Any]) -> Any:
    arguments = {name: value for name, value in config.items() if name != "name"}
    try:
        encoder = registry.build("encoding", config)
    except TypeError as error:
        # A constructor that stumbles over a type says so in Python's words.
        check_arguments("encoding.", part, arguments)
        raise SpecError(f"encoding={dict(config)}: {error}") from error
    check_arguments("encoding.", part, arguments)
    return encoder


def check_dim(field: str, dim: int | None, config: Mapping[str, Any], encoder: Any) -> None:
    """Refuses the width of an embedding where there are no ids."""
    if dim is not None and not encoder.has_ids:
        raise SpecError(
            f"{field}: dim= is the width of an id's embedding, and encoding={config['name']!r} "
            "makes numbers."
        )


def check_categorical(feature: Any) -> None:
    """Refuses fields of a `Categorical` that contradict each other or its encoding.

    Raises:
        SpecError: The message names the feature and the field.
    """
    field, config, encoder = f"categorical {feature.name!r}", feature.encoding, feature.encoder
    if feature.dtype not in encoder.dtypes:
        raise SpecError(
            f"{field}: dtype={feature.dtype!r} is none of {list(encoder.dtypes)}, which "
            f"encoding={config['name']!r} reads.{did_you_mean(feature.dtype, encoder.dtypes)}"
        )
    if feature.weights is not None and not feature.max_values:
        raise SpecError(
            f"{field}: weights={feature.weights!r} weigh a list's values; give max_values=."
        )
    if feature.weights is not None and feature.pooling == "max":
        raise SpecError(f"{field}: pooling='max' has no weights; use 'mean' or 'sum'.")
    if feature.max_values and not encoder.has_ids:
        raise SpecError(
            f"{field}: encoding={config['name']!r} makes numbers, and only the ids of a list are "
            "pooled; leave out max_values=."
        )
    check_dim(field, feature.dim, config, encoder)
