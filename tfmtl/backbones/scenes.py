"""Backbones that treat scenes apart: which scene a row is of, and how many there are."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfmtl import registry
from tfmtl.declare.features import Categorical
from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.layers.fields import Fields


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


def scene_of(
    feature: Categorical, problem: ProblemSpec, packed: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Each row's scene `[batch]`, int32: 0 unknown, 1 missing, 2 and above known.

    Args:
        feature: The feature whose ids are the scenes; see `scene_feature`.
        problem: The declaration.
        packed: Packed tensors.
    """
    slots = layout_of(problem, (feature.side,)).ids
    (column,) = (s.start for s in slots if s.feature == feature)
    return tf.cast(packed[f"ids_{feature.side}"][:, column], tf.int32)


class ReadsScene:
    """Gives a backbone each row's scene; stands before `Backbone` among the base classes.

    The backbone's `call` takes `scene`, `[batch]` int32, and its constructor `num_scenes`, which a
    model derives from the declaration.
    """

    _problem: ProblemSpec

    @classmethod
    def check_declaration(cls, problem: ProblemSpec) -> None:
        """Refuses a problem without a feature whose ids are the scenes.

        Raises:
            SpecError: See `scene_feature`.
        """
        scene_feature(problem, _name_of(cls))

    @classmethod
    def derived(cls, problem: ProblemSpec, table_rows: Mapping[str, int]) -> dict[str, Any]:
        """`num_scenes`, the rows of the scene's table: unknown and missing scenes have one each."""
        return {"num_scenes": table_rows[scene_feature(problem, _name_of(cls)).name]}

    def describe(self, problem: ProblemSpec, fields: Fields | Mapping[str, Fields]) -> None:
        """Takes the fields and the scene's feature."""
        super().describe(problem, fields)  # type: ignore[misc]
        self._problem = problem

    def row_inputs(self, packed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`{"scene": [batch]}`."""
        feature = scene_feature(self._problem, _name_of(type(self)))
        return {"scene": scene_of(feature, self._problem, packed)}


def _name_of(backbone: type) -> str:
    registered = registry.names("backbone")
    names = [name for name in registered if registry.get("backbone", name) is backbone]
    return names[0] if names else backbone.__name__
