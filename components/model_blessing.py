"""A ModelBlessing as Pusher, TFX's resolvers and ours read it."""

import os

from tfx import types
from tfx.components.evaluator import constants
from tfx.utils import io_utils

# TFX's name for the component that a blessing came from.
COMPONENT = "component_id"


def mark(
    blessing: types.Artifact,
    *,
    blessed: bool,
    model: types.Artifact,
    baseline: types.Artifact | None,
    component: str,
) -> None:
    """Writes whether a model is blessed into the artifact's properties and folder.

    Args:
        blessing: The artifact.
        blessed: Whether the model may be pushed.
        model: The model.
        baseline: The model it was compared with.
        component: The component that judged; empty where TFX does not say.
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
