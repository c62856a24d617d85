"""The forward pass: embedding, interaction, backbone and heads as one Keras model."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

from tfmtl.backbones.scenes import scene_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.layers.embedding import Embedding
from tfmtl.layers.members import Members
from tfmtl.metrics.packed import Packed
from tfmtl.model.heads import Heads, Outputs
from tfmtl.model.interaction import interact


class Network(tfrs.Model):
    """Maps packed tensors to `{task: prediction}`; what `MultiTaskModel` trains.

    Args:
        problem: The declaration.
        embedding: Packed tensors to fields: one, or several by name as the backbone makes them.
        backbone: Fields to `{task: representation}`.
        heads: Representations to logits and predictions.
        interaction: Fields to fields, between embedding and backbone; one per embedding where
            there are several.
        id_dropout: Leaves out ids in training, below the interaction; one per embedding likewise.
        members: Makes the backbone and heads an ensemble; none for one network.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        *,
        embedding: Embedding | Mapping[str, Embedding],
        backbone: keras.layers.Layer,
        heads: Heads,
        interaction: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        id_dropout: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        members: Members | None = None,
        **kwargs: Any,
    ) -> None:
        # Tables, losses and probabilities are float32 under a mixed-precision policy too; the
        # backbone, the interaction and the towers follow the policy.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.problem = problem
        self.embedding, self.backbone, self.heads = embedding, backbone, heads
        self.interaction, self.id_dropout = interaction, id_dropout
        self.members = members

    def call(self, packed: Packed, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns `{task: prediction [batch]}`: probabilities, or a regression's value."""
        representations, _ = self.represent(packed, training)
        outputs = self.heads(
            representations, training=training, calibrated=not training, scene=self.scene(packed)
        )
        return self.predictions(outputs)

    def forward(self, packed: Packed, training: bool = False) -> tuple[Outputs, tf.Tensor]:
        """Returns `{task: {"logit", "prediction"}}` and `Σ‖e‖²` of the looked-up rows.

        With members each of these has `[batch · members]` rows. Calibrators are not applied: this
        is what losses see.
        """
        representations, squares = self.represent(packed, training)
        return self.heads(representations, training=training), squares

    def represent(
        self, packed: Packed, training: bool = False
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns `{task: [batch, width]}`, what the towers read, and `Σ‖e‖²`.

        With members there are `batch · members` rows.
        """
        fields, squares = self.backbone.embed(self.embedding, packed)
        if training:
            fields = interact(self.id_dropout, fields, training)
        fields = interact(self.interaction, fields, training)
        row_inputs = self.backbone.row_inputs(packed)
        read = functools.partial(self.backbone, training=training)
        return self._each_member(read, fields, row_inputs), squares

    def _each_member(
        self, read: Callable[..., Any], fields: Any, row_inputs: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """What the backbone makes of fields, for every member where there are several."""
        if self.members is None:
            representations: dict[str, tf.Tensor] = read(fields, **row_inputs)
            return representations
        spread, repeated = self.members.spread(fields), self.members.repeated(row_inputs)
        return self.members.adapted(read(spread, **repeated))

    def predictions(self, outputs: Outputs) -> dict[str, tf.Tensor]:
        """Each task's prediction of a row, `[batch]`: with members their mean."""
        each = {task: output["prediction"] for task, output in outputs.items()}
        if self.members is None:
            return each
        return {task: self.members.mean(prediction) for task, prediction in each.items()}

    def predict_served(self, packed: Packed) -> dict[str, tf.Tensor]:
        """Returns `{task: prediction [batch]}` of the served tasks; the others are not computed."""
        fields, _ = self.backbone.embed(self.embedding, packed)
        fields = interact(self.interaction, fields)
        served, row_inputs = self.heads.served_tasks(), self.backbone.row_inputs(packed)
        read = functools.partial(self.backbone.represent, tasks=served)
        representations = self._each_member(read, fields, row_inputs)
        outputs = self.heads(
            representations, served_only=True, calibrated=True, scene=self.scene(packed)
        )
        return self.predictions(outputs)

    def scene(self, packed: Packed) -> tf.Tensor | None:
        """Scene ids `[batch]`, if the model is calibrated by scene; else `None`."""
        calibrators, feature = self.heads.calibrators, self.problem.scene_feature()
        if calibrators is None or not calibrators.num_scenes or feature is None:
            return None
        return scene_of(feature, self.problem, packed)

    def served_parts(self) -> list[Any]:
        """What `predict_served` is made with: what a SavedModel has to hold."""
        interaction = [] if self.interaction is None else [self.interaction]
        of_backbone = self.backbone.served_parts(self.heads.served_tasks())
        members = [] if self.members is None else [self.members]
        of_heads = self.heads.served_parts()
        return [self.embedding, *interaction, *members, *of_backbone, *of_heads]

    @property
    def calibrators(self) -> Any:
        """What changes served predictions to the rates of labels, if anything does."""
        return self.heads.calibrators

    @property
    def tower_sides(self) -> Mapping[str, tuple[str, ...]] | None:
        """The features' sides that each tower reads, by tower; `None` without towers."""
        sides: Mapping[str, tuple[str, ...]] | None = self.backbone.tower_sides
        return sides

    @property
    def embeddings(self) -> list[Embedding]:
        """The embeddings: one, or those of tasks or towers."""
        if isinstance(self.embedding, Mapping):
            return list(self.embedding.values())
        return [self.embedding]

    @property
    def tables(self) -> list[tf.Variable]:
        """The embedding tables."""
        return [table for e in self.embeddings for table in e.tables.values()]

    @property
    def trained_tables(self) -> list[tf.Variable]:
        """The tables, but those of embeddings that are frozen."""
        return [table for e in self.embeddings if e.trainable for table in e.tables.values()]

    @property
    def dense_variables(self) -> list[tf.Variable]:
        """Trainable variables other than tables."""
        tables = {id(table) for table in self.tables}
        return [v for v in self.trainable_variables if id(v) not in tables]
