"""Writes a ModelBlessing that Pusher, TFX's resolvers and those of this project can read."""

import os

from tfx import types
from tfx.components.evaluator import constants
from tfx.utils import io_utils

# TFX's name of the property with the component that made a blessing.
COMPONENT = "component_id"


def mark(
    blessing: types.Artifact,
    *,
    blessed: bool,
    model: types.Artifact,
    baseline: types.Artifact | None,
    component: str,
) -> None:
    """Records in the artifact's properties and folder whether a model is blessed.

    Args:
        blessing: The artifact.
        blessed: Whether the model may be pushed.
        model: The model.
        baseline: The model that it was compared with.
        component: The id of the evaluating component; empty if TFX does not give it.
    """
    for judged, uri, identity in (
        (
            model,
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY,
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY,
        ),
        (
            baseline,
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY,
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY,
        ),
    ):
        if judged is not None:
            blessing.set_string_custom_property(uri, judged.uri)
            blessing.set_int_custom_property(identity, judged.id)
    if component:
        blessing.set_string_custom_property(COMPONENT, component)
    name, value = constants.NOT_BLESSED_FILE_NAME, constants.NOT_BLESSED_VALUE
    if blessed:
        name, value = constants.BLESSED_FILE_NAME, constants.BLESSED_VALUE
    io_utils.write_string_file(os.path.join(blessing.uri, name), "")
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
