"""Features that share a vocabulary and a table: `of="ad_id"` is filled in from that feature."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfmtl.declare.features import Categorical, Feature
from tfmtl.declare.sequences import Event, SequenceFeature
from tfmtl.errors import SpecError, did_you_mean


def resolved(features: Sequence[Feature], time: str | None) -> tuple[Feature, ...]:
    """The features, with what `of` and a sequence's `row_time` refer to filled in.

    Args:
        features: As declared.
        time: The problem's column of times.

    Raises:
        SpecError: `of` names no feature whose table can be shared, or a sequence with times has no
            row time.
    """
    owners = {f.name: f for f in features if isinstance(f, Categorical) and f.of is None}
    whole: list[Feature] = []
    for feature in features:
        if isinstance(feature, Categorical) and feature.of is not None:
            owner = _owner(f"categorical {feature.name!r}", feature.of, owners)
            feature = dataclasses.replace(feature, **_from(owner))
        elif isinstance(feature, SequenceFeature):
            feature = _sequence(feature, owners, time)
        whole.append(feature)
    return tuple(whole)


def _sequence(
    feature: SequenceFeature, owners: dict[str, Categorical], time: str | None
) -> SequenceFeature:
    field = f"sequence {feature.name!r}"
    events = []
    for event in feature.events:
        if event.of is not None:
            owner = _owner(f"{field}: event {event.column!r}", event.of, owners)
            if owner.max_values:
                raise SpecError(
                    f"{field}: event {event.column!r} is of={event.of!r}, which is a list; events "
                    "are compared with one value per row."
                )
            event = dataclasses.replace(event, **_from(owner))
        events.append(event)
    row_time = feature.row_time
    if feature.time is not None and row_time is None:
        if time is None:
            raise SpecError(
                f"{field}: time={feature.time!r} has to be compared with the row's own time; give "
                "row_time=, or ProblemSpec(time=…)."
            )
        row_time = time
    return dataclasses.replace(feature, events=tuple(events), row_time=row_time)


def _from(owner: Categorical) -> dict[str, Any]:
    return {"dtype": owner.dtype, "encoding": owner.encoding, "dim": owner.dim}


def _owner(field: str, of: str, owners: dict[str, Categorical]) -> Categorical:
    if of not in owners:
        raise SpecError(
            f"{field}: of={of!r} is no categorical feature with a table of its own; those are "
            f"{list(owners)}.{did_you_mean(of, owners)}"
        )
    if not owners[of].encoder.has_ids:
        raise SpecError(
            f"{field}: of={of!r} has encoding={owners[of].encoding['name']!r}, which makes numbers "
            "and has no table."
        )
    return owners[of]


def shared_with(features: Sequence[Feature]) -> tuple[tuple[str, Event | Categorical], ...]:
    """Every column that shares a vocabulary, as the vocabulary's name and the column's owner."""
    pairs: list[tuple[str, Event | Categorical]] = []
    for feature in features:
        if isinstance(feature, Categorical) and feature.of is not None:
            pairs.append((feature.of, feature))
        elif isinstance(feature, SequenceFeature):
            pairs += [(e.of, e) for e in feature.events if e.of is not None]
    return tuple(pairs)
