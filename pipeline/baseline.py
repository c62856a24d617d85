"""Chooses the earlier model that a new one is compared with."""

import os

from ml_metadata.metadata_store import metadata_store
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

from components.model_blessing import COMPONENT


class LatestOtherBlessedModel(resolver.ResolverStrategy):
    """Resolves the latest blessed model, except the model that is being evaluated.

    TFX's own strategy returns the evaluated model itself when a run is repeated. The component
    would then run again and compare the model with itself, instead of using the cache. TFX's
    strategy also supports only one evaluator. Here a model counts as blessed if the latest
    blessing of each of its evaluators is positive. Inputs are `candidate` (the evaluated model),
    `model` and `model_blessing` (all of them).
    """

    def resolve_artifacts(
        self, store: metadata_store.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns one model and its blessing, or neither, under the keys of `input_dict`."""
        judged = {model.id for model in input_dict["candidate"]}
        # An old model may have been removed to make room, which ML Metadata does not hear of.
        models = {m.id: m for m in input_dict["model"] if not m.uri or os.path.isdir(m.uri)}
        newest = sorted(input_dict["model_blessing"], key=lambda b: b.id, reverse=True)
        latest: dict[tuple[int, str], types.Artifact] = {}
        for blessing in newest:
            evaluator = blessing.get_string_custom_property(COMPONENT)
            latest.setdefault((_model_of(blessing), evaluator), blessing)
        refused = {model_id for (model_id, _), last in latest.items() if not _is_yes(last)}
        for (model_id, _), blessing in latest.items():
            if model_id in models and model_id not in judged | refused:
                return {
                    "candidate": input_dict["candidate"],
                    "model": [models[model_id]],
                    "model_blessing": [blessing],
                }
        return {"candidate": input_dict["candidate"], "model": [], "model_blessing": []}


def _model_of(blessing: types.Artifact) -> int:
    return blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY)


def _is_yes(blessing: types.Artifact) -> bool:
    blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
    return blessed == constants.BLESSED_VALUE
