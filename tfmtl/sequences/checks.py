"""Whether a sequence's pooling fits its columns, before anything is built."""

from typing import Any

from tfmtl import registry
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import SpecError
from tfmtl.sequences.base import SequencePooling


def pooling_of(feature: SequenceFeature) -> Any:
    """Makes the pooling of a sequence.

    Raises:
        SpecError: There is no such pooling, an argument is wrong, or it does not fit the columns.
    """
    field, name = f"sequence {feature.name!r}", feature.pooling["name"]
    try:
        pooling = registry.build("sequence_pooling", feature.pooling)
    except ValueError as error:
        raise SpecError(f"{field}: pooling: {error}") from error
    if not isinstance(pooling, SequencePooling):
        raise SpecError(
            f"{field}: pooling={name!r} is no subclass of tfmtl.sequences.SequencePooling."
        )
    try:
        pooling.check_columns(feature)
    except SpecError as error:
        raise SpecError(f"{field}: {error}") from error
    return pooling


def reads_target(feature: SequenceFeature) -> bool:
    """Whether the row's own values decide what is pooled, or how."""
    part = registry.get("sequence_pooling", feature.pooling["name"])
    return feature.search is not None or bool(part.reads_target)


def has_weights(feature: SequenceFeature) -> bool:
    """Whether a sequence has weights besides its tables."""
    part = registry.get("sequence_pooling", feature.pooling["name"])
    return feature.fields == "joint" or bool(part.has_weights)


def without_target() -> list[str]:
    """The registered poolings that do not read the target."""
    parts = registry.parts("sequence_pooling")
    return sorted(name for name, part in parts.items() if not part.reads_target)


def without_weights() -> list[str]:
    """The registered poolings without weights."""
    parts = registry.parts("sequence_pooling")
    return sorted(name for name, part in parts.items() if not part.has_weights)
