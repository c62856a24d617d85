"""What a day's run takes from earlier ones: a window of days, and the model to start from."""

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

# In a model's folder, beside what is served: the state that the next slot starts from.
SLOT = "slot"
Artifacts = dict[str, list[types.Artifact]]


class Spans(resolver.ResolverStrategy):
    """Resolves the artifacts of days, one a day, in order.

    TFX's own strategy returns all that a day ever had: also what was read of it before a file or
    a setting changed. Here a day has the artifact that was made or used last.

    Args:
        first: Span of the first day.
        last: Span of the last.
    """

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def resolve_artifacts(
        self, store: metadata_store.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        """Returns the artifacts of every key by day.

        Raises:
            DataError: A day has none.
        """
        return {key: self._by_day(store, found) for key, found in input_dict.items()}

    def _by_day(self, store, artifacts: list[types.Artifact]) -> list[types.Artifact]:
        newest = {artifact.span: artifact for artifact in _by_use(store, artifacts)}
        wanted = range(self.first, self.last + 1)
        missing = [span for span in wanted if span not in newest]
        if missing:
            raise DataError(f"span {missing[0]} of {self.first} to {self.last} was never read.")
        return [newest[span] for span in wanted]


class LastBlessedSlot(resolver.ResolverStrategy):
    """Resolves the model of the last slot before this one that was blessed.

    A slot's model is the one that was made or used last; it counts as blessed where the latest
    word of every evaluator that judged it is yes. Inputs are `model` and `model_blessing`, all
    of them.

    Args:
        slot: The slot to be trained. Models of later ones, of an earlier run, do not count.
    """

    def __init__(self, slot: int):
        self.slot = slot

    def resolve_artifacts(
        self, store: metadata_store.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        """Returns one model and one blessing, or none, under the keys of `input_dict`."""
        words: dict[int, dict[str, types.Artifact]] = {}
        for blessing in _by_use(store, input_dict["model_blessing"]):
            judged = blessing.get_int_custom_property(
                constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY
            )
            evaluator = blessing.get_string_custom_property(COMPONENT)
            words.setdefault(judged, {})[evaluator] = blessing
        models = {slot_of(m.uri): m for m in _by_use(store, input_dict["model"])}
        before = (slot for slot in models if slot is not None and slot < self.slot)
        for slot in sorted(before, reverse=True):
            said = [*words.get(models[slot].id, {}).values()]
            if said and all(map(_is_yes, said)):
                return {"model": [models[slot]], "model_blessing": said[-1:]}
        return {"model": [], "model_blessing": []}


def slot_of(uri: str) -> int | None:
    """The slot that a Model artifact's state is of; `None` where it has none."""
    path = os.path.join(uri, SLOT, "slot.json")
    if not os.path.exists(path):
        return None
    try:
        return int(read_json(path)["slot"])
    except Damaged as damage:
        logging.warning("%s. That slot is passed over.", damage)
        return None


def _by_use(store, artifacts: Iterable[types.Artifact]) -> list[types.Artifact]:
    # A component that is taken from the cache puts its artifacts out again, so that the order
    # of ids is not that of runs where settings were changed and changed back.
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
