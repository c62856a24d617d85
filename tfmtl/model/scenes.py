"""What backbones that treat scenes apart ask of a model, and which scene a row is of."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfmtl.declare.features import Categorical
from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError


def scene_feature(problem: ProblemSpec, asker: str) -> Categorical:
    """The feature whose ids are the scenes.

    Args:
        problem: The declaration.
        asker: What the error says needs it.

    Raises:
        SpecError: No scene is declared, or no such feature.
    """
    if problem.scene is None:
        raise SpecError(
            f"{asker} treats scenes apart, but the problem declares none. Name the scene's column, "
            "ProblemSpec(scene='scene'), and declare it as a feature, categorical('scene')."
        )
    feature = problem.scene_feature()
    if feature is not None:
        return feature
    raise SpecError(
        f"{asker} reads a row's scene from the ids of scene={problem.scene!r}, but no "
        f"single-valued categorical feature reads that column. Declare "
        f"categorical({problem.scene!r}); features are {[f.name for f in problem.features]}."
    )


def with_scenes(
    problem: ProblemSpec, table_rows: Mapping[str, int], backbone: Mapping[str, Any]
) -> dict[str, Any]:
    """A backbone's configuration with `num_scenes`, the rows of the scene's table.

    Args:
        problem: The declaration.
        table_rows: Rows of each feature's table, by feature name.
        backbone: Configuration of a backbone of many scenes.

    Raises:
        SpecError: See `scene_feature`; or `num_scenes` is there already.
    """
    if "num_scenes" in backbone:
        raise SpecError(
            f"{backbone['name']}: num_scenes={backbone['num_scenes']} follows from the table of "
            f"the scene's feature, with a row for an unknown and one for a missing scene. Leave "
            "it out."
        )
    return {**backbone, "num_scenes": table_rows[scene_feature(problem, backbone["name"]).name]}


def scene_of(
    feature: Categorical, problem: ProblemSpec, packed: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Each row's scene `[batch]`, int32: 0 unknown, 1 missing, 2 and above known.

    Args:
        feature: What `scene_feature` found.
        problem: The declaration.
        packed: Packed tensors.
    """
    slots = layout_of(problem, (feature.side,)).ids
    (column,) = (s.start for s in slots if s.feature == feature)
    return tf.cast(packed[f"ids_{feature.side}"][:, column], tf.int32)
