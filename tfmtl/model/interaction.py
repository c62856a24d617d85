"""The operation on a row's fields between embedding and backbone, where a model has one."""

from collections.abc import Mapping
from typing import Any

import tf_keras as keras

import tfmtl.operations  # noqa: F401  registers the interactions
from tfmtl import registry
from tfmtl.backbones.base import Backbone
from tfmtl.errors import SpecError


def check_interaction(
    interaction: Mapping[str, Any] | None, backbone: type[Backbone], dim: int
) -> None:
    """Refuses an interaction that does not exist, or does not fit the fields or the backbone.

    Args:
        interaction: Registered interaction and its arguments, if any.
        backbone: The class that reads the fields.
        dim: Width of the fields.

    Raises:
        SpecError: The message says what would be right.
    """
    if interaction is None:
        return
    layer = _layer(interaction, "interaction")
    if backbone.no_interaction:
        raise SpecError(
            f"interaction={dict(interaction)} stands below a backbone that reads the fields of "
            f"every row; not below {backbone.__name__}, {backbone.no_interaction}. Leave it out, "
            "or take another backbone."
        )
    # Errors about the width do not depend on the number of fields.
    layer.build((None, 1, dim))


def interactions_of(
    interaction: Mapping[str, Any] | None, embedding: Any
) -> keras.layers.Layer | dict[str, keras.layers.Layer] | None:
    """The interaction's layer, or one per embedding where there are several.

    Args:
        interaction: Registered interaction and its arguments, if any.
        embedding: The model's embedding, or several by name.
    """
    if interaction is None:
        return None
    if isinstance(embedding, Mapping):
        return {name: _layer(interaction, f"interaction_{name}") for name in embedding}
    return _layer(interaction, "interaction")


def interact(interaction: Any, fields: Any, training: bool = False) -> Any:
    """What the backbone reads of an embedding's fields.

    Args:
        interaction: The layer, one per embedding by name, or `None`.
        fields: `[batch, fields, dim]`, or that by name.
        training: Whether this is a step of training.
    """
    if interaction is None:
        return fields
    if isinstance(interaction, Mapping):
        return {name: layer(fields[name], training=training) for name, layer in interaction.items()}
    return interaction(fields, training=training)


def _layer(interaction: Mapping[str, Any], name: str) -> Any:
    registry.check("interaction", interaction)
    arguments = {key: value for key, value in interaction.items() if key != "name"}
    return registry.get("interaction", interaction["name"])(**arguments, name=name)
