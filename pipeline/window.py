"""What the run of a day reads from earlier runs: a window of days and the previous model."""

import os
from collections.abc import Iterable

from absl import logging
from ml_metadata import proto as mlmd_proto
from ml_metadata.metadata_store import metadata_store
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

from components.model_blessing import COMPONENT
from tfmtl.durable import Damaged, read_json
from tfmtl.errors import DataError

# The folder beside the SavedModel with the state that the next slot starts from.
SLOT = "slot"
Artifacts = dict[str, list[types.Artifact]]


class Spans(resolver.ResolverStrategy):
    """Resolves the artifacts of a range of days, one per day, in order.

    TFX's own strategy returns every artifact of a day, also those from before a file or a setting
    changed. This one returns the artifact that was created or used last.

    Args:
        first: Span of the first day.
        last: Span of the last day.
    """

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def resolve_artifacts(
        self, store: metadata_store.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        """Returns the artifacts of each key, ordered by day.

        Raises:
            DataError: A day has no artifact.
        """
        return {key: self._by_day(store, all_days) for key, all_days in input_dict.items()}

    def _by_day(
        self, store: metadata_store.MetadataStore, artifacts: list[types.Artifact]
    ) -> list[types.Artifact]:
        newest = {artifact.span: artifact for artifact in _by_use(store, artifacts)}
        spans = range(self.first, self.last + 1)
        missing = [span for span in spans if span not in newest]
        if missing:
            raise DataError(f"span {missing[0]} of {self.first} to {self.last} was never read.")
        return [newest[span] for span in spans]


class LastBlessedSlot(resolver.ResolverStrategy):
    """Resolves the model of the latest blessed slot before a slot.

    The model of a slot is the one that was created or used last. It counts as blessed if the
    latest blessing of each of its evaluators is positive. Inputs are `model` and `model_blessing`
    (all of them).

    Args:
        slot: The slot to be trained. Models of later slots, from an earlier run, are ignored.
    """

    def __init__(self, slot: int):
        self.slot = slot

    def resolve_artifacts(
        self, store: metadata_store.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        """Returns one model and one blessing, or neither, under the keys of `input_dict`."""
        verdicts: dict[int, dict[str, types.Artifact]] = {}
        for blessing in _by_use(store, input_dict["model_blessing"]):
            judged = blessing.get_int_custom_property(
                constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY
            )
            evaluator = blessing.get_string_custom_property(COMPONENT)
            verdicts.setdefault(judged, {})[evaluator] = blessing
        models = {slot_of(m.uri): m for m in _by_use(store, input_dict["model"])}
        before = (slot for slot in models if slot is not None and slot < self.slot)
        for slot in sorted(before, reverse=True):
            blessings = [*verdicts.get(models[slot].id, {}).values()]
            if blessings and all(map(_is_yes, blessings)):
                return {"model": [models[slot]], "model_blessing": blessings[-1:]}
        return {"model": [], "model_blessing": []}


def slot_of(uri: str) -> int | None:
    """The slot of a Model artifact's state; `None` if it has no state."""
    path = os.path.join(uri, SLOT, "slot.json")
    if not os.path.exists(path):
        return None
    try:
        return int(read_json(path)["slot"])
    except Damaged as damage:
        logging.warning("%s. That slot is passed over.", damage)
        return None


def _by_use(
    store: metadata_store.MetadataStore, artifacts: Iterable[types.Artifact]
) -> list[types.Artifact]:
    # A cached component outputs its old artifacts again. After settings were changed and changed
    # back, the order of ids is therefore not the order of the runs.
    listed = list(artifacts)
    last: dict[int, int] = {}
    ids = [artifact.id for artifact in listed]
    for event in store.get_events_by_artifact_ids(ids) if ids else ():
        if event.type == mlmd_proto.Event.OUTPUT:
            last[event.artifact_id] = max(last.get(event.artifact_id, 0), event.execution_id)
    return sorted(listed, key=lambda artifact: last.get(artifact.id, 0))


def _is_yes(blessing: types.Artifact) -> bool:
    blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
    return blessed == constants.BLESSED_VALUE
