"""One model per scene, with nothing shared: the baseline of every model of many scenes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.backbones.scenes import ReadsScene
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.layers.grouped import GroupedDense, tiles_of
from tfmtl.layers.grouped_mlp import GroupedMLP
from tfmtl.registry import register
from tfmtl.sequences.checks import has_weights, without_weights

T = TypeVar("T")


@register("backbone", "per_scene")
@keras.saving.register_keras_serializable(package="tfmtl")
class PerScene(ReadsScene, Backbone):
    """For each scene a Shared-Bottom of its own: tables, bottom, towers and logits.

    Maps `[batch, fields, dim]` of the scene's own tables, and each row's scene, to `{task: [batch,
    1]}`, the logits without the base rate. All scenes are one matrix product per layer, in which
    every row is multiplied by the kernel of its scene; see `grouped_matmul`. Tables, and so memory,
    grow with the number of scenes.

    Training on rows of one scene leaves every variable of the other scenes bit for bit as it is:
    gradients and weight decay are those of the batch's scenes alone, and the model takes Adam
    row-wise, since Keras' Adam would move absent scenes by their momentum. (SGD with a momentum
    does move them.) Joint training still differs a little from separate training: a loss is the
    mean over a batch, of which a scene has only a part, Adam's bias correction counts the steps of
    all scenes, and clipping by a norm over all gradients couples the scenes.

    A scene without training rows, such as an unknown one, has logits of zero here. Its predictions
    are each task's base rate over all scenes.

    Its counterparts: `star`, where scenes share a centre, and any other backbone where the scene
    is a feature like others, such as `mmoe`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_scenes: How many scenes there are; a model derives it from the declaration.
        bottom_units: Widths of each scene's bottom, which the tasks of the scene share.
        task_units: Widths of the tower above it, per task and scene; towers of `Heads` would be
            shared by the scenes.
        dropout: Share dropped after each layer.
        batch_norm: Whether layers are normalised, by their scene's rows.

    Example:
        >>> scenes = PerScene(["ctr", "cvr"], num_scenes=3, bottom_units=(16,), task_units=(8,))
        >>> logits = scenes(tf.ones([2, 5, 8]), scene=tf.constant([0, 2]))
        >>> {t: tuple(h.shape) for t, h in logits.items()}
        {'ctr': (2, 1), 'cvr': (2, 1)}
    """

    rowwise_updates = True
    no_interaction = "whose scenes share nothing, and an interaction's weights would be all scenes'"
    tower_units = ()

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_scenes: int,
        bottom_units: Sequence[int] = (512, 256),
        task_units: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.num_scenes = num_scenes
        self.bottom_units, self.task_units = tuple(bottom_units), tuple(task_units)
        self.dropout, self.batch_norm = dropout, batch_norm

        def network(units: Sequence[int], name: str) -> GroupedMLP:
            return GroupedMLP(num_scenes, units, dropout=dropout, batch_norm=batch_norm, name=name)

        self.bottoms = network(bottom_units, "bottoms")
        self.towers = {t: network(task_units, f"towers_{t}") for t in self.tasks}
        # Zero at the start, so that a scene that is never trained predicts the base rate.
        self.logits = {
            t: GroupedDense(num_scenes, 1, zero=True, name=f"logits_{t}") for t in self.tasks
        }

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Refuses layers above, and weights of sequences, which the scenes would share.

        Raises:
            SpecError: There are such layers or weights.
        """
        if tower_units:
            raise SpecError(
                f"per_scene: tower_units={tuple(tower_units)} would be layers that all scenes "
                "share. Leave tower_units out, and give a scene's layers to the backbone: "
                "{'name': 'per_scene', 'bottom_units': (512, 256), 'task_units': (128, 64)}."
            )
        for feature in problem.sequences:
            if has_weights(feature):
                raise SpecError(
                    f"per_scene: sequence {feature.name!r} has pooling="
                    f"{feature.pooling['name']!r} and fields={feature.fields!r}, whose weights "
                    f"would be those of all scenes; take one of {without_weights()} and no joint "
                    "field."
                )

    def embeddings(self, make: Callable[..., T]) -> T:
        """Makes one embedding with a copy per scene."""
        return make("embedding", copies=self.num_scenes)

    def embed(self, embedding: Any, packed: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the fields that each row's scene has, and `Σ‖e‖²` over the looked-up rows."""
        fields, squares = embedding.embed(packed, self.row_inputs(packed)["scene"])
        return fields, squares

    def prepare_heads(self, heads: Any) -> None:
        """Makes the heads add the base rate and nothing else: scenes have logits of their own."""
        heads.freeze_to_identity()

    def decayed(
        self, kernels: Sequence[tf.Variable], row_inputs: Mapping[str, tf.Tensor]
    ) -> list[tf.Tensor]:
        """The kernels of the scenes that have rows in the batch."""
        present, _ = tf.unique(row_inputs["scene"])
        return [tf.gather(kernel, present) for kernel in kernels]

    def call(  # type: ignore[override]
        self, fields: tf.Tensor, scene: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        return self._logits(fields, scene, self.tasks, training)

    def represent(
        self, fields: tf.Tensor, tasks: Sequence[str], **row_inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._logits(fields, row_inputs["scene"], tasks, False)

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        return [self.bottoms, *(of[t] for of in (self.towers, self.logits) for t in tasks)]

    def _logits(
        self, fields: tf.Tensor, scene: tf.Tensor, tasks: Sequence[str], training: bool
    ) -> dict[str, tf.Tensor]:
        tiles = tiles_of(scene)
        h = self.bottoms(flatten(fields), tiles, training=training)
        return {
            t: self.logits[t](self.towers[t](h, tiles, training=training), tiles) for t in tasks
        }

    def last_shared(self) -> list[tf.Variable]:
        return [self.bottoms.dense[-1].kernel] if self.bottom_units else []
