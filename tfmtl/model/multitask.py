"""The model: embedding, backbone, heads and balancer, and the one ordinary training step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

from tfmtl import losses, registry
from tfmtl.backbones.base import Backbone
from tfmtl.balancing.base import Gradient, Step, TaskLosses
from tfmtl.declare.experiment import Model
from tfmtl.declare.features import SIDES
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec
from tfmtl.layers.decay import is_kernel
from tfmtl.layers.embedding import Embedding
from tfmtl.losses.per_example import masked_mean
from tfmtl.metrics.packed import Packed, Predicted, packed_metrics, predict_packed
from tfmtl.model.heads import Heads, check_semantics, direct_tasks, impression_tasks, trained_tasks
from tfmtl.model.interaction import check_interaction, interactions_of
from tfmtl.model.losses_again import losses_again
from tfmtl.model.optimizers import RowwiseAdam, rate_of, rowwise
from tfmtl.model.scenes import scene_feature, scene_of, with_scenes


class MultiTaskModel(tfrs.Model):
    """Packed tensors to `{task: prediction}`.

    Args:
        problem: The declaration.
        embedding: Packed tensors to fields; one a task for a backbone whose tasks bring their
            own tables, one a tower for a backbone of towers.
        backbone: Fields to `{task: representation}`.
        heads: Representations to logits and predictions.
        balancer: Losses `[trained tasks]` to one.
        terms: Batch-level losses, added to the balanced loss.
        interaction: Fields to fields, between embedding and backbone; one a task where the tasks
            bring their own tables.
        l2: Weight of `½‖w‖²` over dense kernels and over looked-up rows, the latter divided by
            the batch size. Where scenes share nothing, kernels are those of the batch's scenes.

    Example:
        >>> from tfmtl.declare.problem import ProblemSpec, binary, categorical
        >>> problem = ProblemSpec(
        ...     features=(categorical("ad", encoding="identity", size=9),),
        ...     tasks=(binary("ctr", label="click"), binary("like", label="like")),
        ... )
        >>> model = MultiTaskModel.build_from(problem, {"ad": 11}, Model(dim=8))
        >>> packed = {"ids_context": tf.constant([[2], [3]])}
        >>> {task: p.shape for task, p in model(packed).items()}
        {'ctr': TensorShape([2]), 'like': TensorShape([2])}
    """

    def __init__(
        self,
        problem: ProblemSpec,
        *,
        embedding: Embedding | Mapping[str, Embedding],
        backbone: keras.layers.Layer,
        heads: Heads,
        balancer: keras.layers.Layer,
        terms: Sequence[Any] = (),
        interaction: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        l2: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.problem = problem
        self.embedding = embedding
        self.backbone, self.heads, self.balancer = backbone, heads, balancer
        self.terms, self.l2 = list(terms), l2
        self.interaction = interaction
        self._scene = scene_feature(problem, backbone.name) if backbone.multi_scene else None
        self._example_losses = {
            t: losses.build(problem.task(t), product=heads.is_product(t)) for t in heads.trained
        }
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", *(problem.metric_name(t, "loss") for t in heads.trained))
        }

    @classmethod
    def build_from(
        cls,
        problem: ProblemSpec,
        table_rows: Mapping[str, int],
        config: Model,
        *,
        backbone: Backbone | None = None,
    ) -> "MultiTaskModel":
        """Makes the model that a configuration describes; see `tfmtl.declare.experiment.Model`.

        Args:
            problem: The declaration.
            table_rows: Rows of each feature's table, by feature name.
            config: The network.
            backbone: Stands in for the one that `config` names; of the direct tasks, of one scene.
        """
        part: Any = backbone or registry.get("backbone", config.backbone.get("name", ""))
        semantics = config.conv_semantics or part.conv_semantics
        check_semantics(problem, semantics)
        tasks = direct_tasks(problem, semantics)
        named, copies = config.backbone, 1
        if part.multi_scene:
            named = with_scenes(problem, table_rows, named)
            copies = named["num_scenes"] if part.separate_scenes else 1
        backbone = backbone or registry.build("backbone", named, tasks)
        units = backbone.tower_units if config.tower_units is None else config.tower_units
        backbone.check(problem, units)
        check_interaction(config.interaction, part, config.dim)

        def embedding(name: str, sides: tuple[str, ...] = SIDES) -> Embedding:
            return Embedding(
                problem,
                table_rows,
                dim=config.dim,
                numeric_mode=config.numeric_mode,
                numeric_units=config.numeric_units,
                sides=sides,
                copies=copies,
                name=name,
            )

        own: Embedding | dict[str, Embedding]
        if part.tower_sides is not None:
            own = {t: embedding(f"embedding_{t}", sides) for t, sides in part.tower_sides.items()}
        elif part.separate_embeddings:
            own = {t: embedding(f"embedding_{t}") for t in tasks}
        else:
            own = embedding("embedding")
        heads = Heads(
            problem,
            tower_units=tuple(units),
            dropout=config.tower_dropout,
            batch_norm=config.tower_batch_norm,
            conv_semantics=semantics,
            name="heads",
        )
        if part.separate_scenes:
            heads.freeze_to_identity()
        trained = trained_tasks(problem, semantics)
        kinds = [problem.task(t).kind for t in trained]
        everywhere = impression_tasks(problem, semantics)
        balancer = registry.build("balancer", config.balancer, trained, kinds)
        balancer.check(backbone)
        return cls(
            problem,
            embedding=own,
            backbone=backbone,
            heads=heads,
            balancer=balancer,
            terms=[
                registry.build("term", term, everywhere, problem)
                for term in (*part.default_terms, *config.terms)
            ],
            interaction=interactions_of(config.interaction, own),
            l2=config.l2,
        )

    def compile(self, optimizer=None, embedding_optimizer=None, **kwargs):
        """Sets the optimizers of the dense variables and of the tables.

        Args:
            optimizer: A tf_keras optimizer; Adam by default. Where scenes share nothing, Adam
                is taken row-wise: Keras' would move the scenes that have no rows in a batch.
            embedding_optimizer: A row-wise optimizer; `RowwiseAdam` with the same learning rate
                by default.
            **kwargs: As `keras.Model.compile`.
        """
        optimizer = optimizer or keras.optimizers.Adam()
        if self.backbone.separate_scenes:
            optimizer = rowwise(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        if embedding_optimizer is None:
            embedding_optimizer = RowwiseAdam(learning_rate=rate_of(self.optimizer))
        self.embedding_optimizer = embedding_optimizer

    @property
    def tables(self) -> list[tf.Variable]:
        """The embedding tables."""
        return [table for e in self.embeddings for table in e.tables.values()]

    @property
    def trained_tables(self) -> list[tf.Variable]:
        """The tables, but those of embeddings that are frozen."""
        return [table for e in self.embeddings if e.trainable for table in e.tables.values()]

    @property
    def embeddings(self) -> list[Embedding]:
        """The embeddings: one, or one a task or a tower."""
        if isinstance(self.embedding, Mapping):
            return list(self.embedding.values())
        return [self.embedding]

    @property
    def dense_variables(self) -> list[tf.Variable]:
        """Trainable variables other than tables."""
        tables = {id(table) for table in self.tables}
        return [v for v in self.trainable_variables if id(v) not in tables]

    def call(self, packed: Packed, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns `{task: prediction [batch]}`: probabilities, or a regression's value."""
        outputs, _ = self.forward(packed, training)
        return {task: output["prediction"] for task, output in outputs.items()}

    def predict_served(self, packed: Packed) -> dict[str, tf.Tensor]:
        """Returns `{task: prediction [batch]}` of the served tasks; the others are not computed."""
        fields, _ = self._fields(packed)
        served, scene = self.heads.served_tasks(), self._scene_of(packed)
        representations = self.backbone.represent(fields, served, **scene)
        outputs = self.heads(representations, served_only=True)
        return {task: output["prediction"] for task, output in outputs.items()}

    def served_parts(self) -> list[Any]:
        """What `predict_served` is made with: what a SavedModel has to hold."""
        served = self.heads.served_tasks()
        own = [*self.backbone.served_parts(served), *self.heads.served_parts()]
        interaction = [] if self.interaction is None else [self.interaction]
        return [self.embedding, *interaction, *own]

    @property
    def tower_sides(self) -> Mapping[str, tuple[str, ...]] | None:
        """The features' sides that each tower reads, by tower; `None` without towers."""
        return self.backbone.tower_sides

    def forward(self, packed: Packed, training: bool = False):
        """Returns `{task: {"logit", "prediction"}}` and `Σ‖e‖²` of the looked-up rows."""
        representations, squares = self._represented(packed, training)
        return self.heads(representations, training=training), squares

    def _represented(self, packed, training):
        fields, squares = self._fields(packed, training)
        return self.backbone(fields, training=training, **self._scene_of(packed)), squares

    def _fields(self, packed, training=False):
        fields, squares = self._embedded(packed)
        if self.interaction is None:
            return fields, squares
        if isinstance(self.interaction, Mapping):
            interacted = {
                task: interaction(fields[task], training=training)
                for task, interaction in self.interaction.items()
            }
            return interacted, squares
        return self.interaction(fields, training=training), squares

    def _embedded(self, packed):
        if isinstance(self.embedding, Mapping):
            both = {task: e.embed(packed) for task, e in self.embedding.items()}
            fields = {task: field for task, (field, _) in both.items()}
            return fields, tf.add_n([square for _, square in both.values()])
        if self.backbone.separate_scenes:
            return self.embedding.embed(packed, self._scene_of(packed)["scene"])
        return self.embedding.embed(packed)

    def _scene_of(self, packed):
        if self._scene is None:
            return {}
        return {"scene": scene_of(self._scene, self.problem, packed)}

    def compute_loss(self, inputs: Packed, training: bool = False):
        """Returns the loss to minimise and the trained tasks' losses `[trained tasks]`."""
        found = self.task_losses(inputs, training)
        return found.total(self.balancer), found.stacked

    def task_losses(
        self, inputs: Packed, training: bool = False, *, decay: bool = True
    ) -> TaskLosses:
        """Returns the trained tasks' losses, and apart from them those of no task.

        Args:
            inputs: Packed tensors with labels.
            training: Whether this is a step of training.
            decay: Whether weight decay is among the losses.
        """
        representations, squares = self._represented(inputs, training)
        outputs = self.heads(representations, training=training)
        labels, weights = inputs[LABELS], inputs[WEIGHTS]
        per_task, observed = [], []
        for name in self.heads.trained:
            index = self.problem.task_names.index(self.heads.labels_of(name))
            loss = self._example_loss(name, outputs[name], labels[:, index])
            mask = weights[:, index] > 0
            per_task.append(masked_mean(loss, mask, weights[:, index]))
            observed.append(tf.reduce_any(mask))
        predictions = {task: output["prediction"] for task, output in outputs.items()}
        others = [term(predictions, labels, weights, training=training) for term in self.terms]
        if self.l2 and decay:
            rows = tf.cast(tf.shape(labels)[0], tf.float32)
            kernels = [v for v in self.dense_variables if is_kernel(v)]
            if self.backbone.separate_scenes:
                present, _ = tf.unique(self._scene_of(inputs)["scene"])
                kernels = [tf.gather(v, present) for v in kernels]
            weights_squared = tf.add_n([tf.nn.l2_loss(v) for v in kernels])
            others.append(self.l2 * (weights_squared + 0.5 * squares / rows))
        return TaskLosses(per_task, tf.stack(observed), others, representations)

    # There is no control flow to convert, and looking for it takes longer than the rest of tracing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: Packed) -> dict[str, tf.Tensor]:
        """One update of dense variables and of the rows that were looked up."""
        with tf.GradientTape(persistent=self.balancer.persistent) as tape:
            found = self.task_losses(inputs, training=True)
            total = found.total(self.balancer)
        self.update(self.balancer.gradients(self.step_of(tape, found, total)))
        self.balancer.after_update(lambda: losses_again(self, inputs))
        return self.report(total, found.stacked)

    def update(self, gradients: Sequence[Gradient]) -> None:
        """Applies gradients, in the order of `trained_tables` and then of `dense_variables`."""
        tables, dense = self.trained_tables, self.dense_variables
        pairs = list(zip(gradients, [*tables, *dense], strict=True))
        for optimizer, part in (
            (self.embedding_optimizer, pairs[: len(tables)]),
            (self.optimizer, pairs[len(tables) :]),
        ):
            found = [(gradient, variable) for gradient, variable in part if gradient is not None]
            if found:
                optimizer.apply_gradients(found)

    def step_of(self, tape: tf.GradientTape, found: TaskLosses, total: tf.Tensor) -> Step:
        """What a balancer needs to know of a forward pass to make gradients of it.

        Its variables are the trained tables and then the dense ones.
        """
        return Step(
            tape=tape,
            losses=found,
            total=total,
            variables=self.trained_tables + self.dense_variables,
            last_shared=self.backbone.last_shared() or self.tables,
            own_blocks={v.ref(): tasks for v, tasks in self.backbone.own_blocks()},
            logits={task: logit.kernel for task, logit in self.heads.logits.items()},
        )

    def test_step(self, inputs: Packed) -> dict[str, tf.Tensor]:
        """Losses of a batch, without an update."""
        return self.report(*self.compute_loss(inputs, training=False))

    @property
    def metrics(self):
        """Running means of the losses."""
        return list(self._means.values())

    def evaluate(self, x=None, **kwargs) -> dict[str, float]:
        """Returns every task's exact metrics, over all rows of `x`, on the task's own space.

        Args:
            x: Batches of packed tensors with labels.
            **kwargs: Accepted for `keras.Model.fit`'s sake; only `return_dict=False` changes
                anything and is refused.

        Returns:
            `{"ctr/auc@imp": …, "mean_auc": …, "loss": …}`, on true labels: pseudo-labels are for
            training. `mean_auc`, where there are served binary tasks, is over those of them that
            have both classes. `loss` is the mean loss of the trained tasks that have a row, a
            regression's its own one in units of the training labels' deviation.

        Raises:
            DataError: There are no rows, or they have no labels.
        """
        if not kwargs.get("return_dict", True):
            raise ValueError("metrics are known by name; return_dict=False would lose the names.")
        rows = self.predict_rows(x)
        metrics = packed_metrics(self.problem, rows)
        every = [
            self._mean_loss(name, metrics, *rows.of(self.problem, name))
            for name in self.heads.trained
        ]
        defined = [loss for loss in every if not np.isnan(loss)]
        metrics["loss"] = float(np.mean(defined)) if defined else float("nan")
        return metrics

    def predict_rows(self, batches: tf.data.Dataset) -> Predicted:
        """Returns what the model says of packed rows, next to their labels."""
        if self._predict_batch is None:
            self._predict_batch = tf.function(self.call, reduce_retracing=True, autograph=False)
        return predict_packed(self._predict_batch, batches)

    _predict_batch: Any = None

    def _mean_loss(self, name, metrics, labels, predictions):
        task = self.problem.task(name)
        if task.kind == "binary":
            return metrics[self.problem.metric_name(task, "log_loss")]
        if not len(labels):
            return float("nan")
        # By the task's own loss: outliers do not choose the epoch of a robust one either.
        output = {"logit": self.heads.standardized(name, predictions)}
        return float(np.mean(self._example_loss(name, output, labels), dtype=np.float64))

    def _example_loss(self, name, output, labels):
        if self.problem.task(name).kind == "regression":
            labels = self.heads.standardized(name, labels)
        loss = self._example_losses[name](labels, output)
        weights = self.heads.class_weights(name, labels)
        return loss if weights is None else weights * loss

    def report(self, total: tf.Tensor, per_task: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes a batch's losses into the running means, and returns those."""
        self._means["loss"].update_state(total)
        for name, loss in zip(self.heads.trained, tf.unstack(per_task), strict=True):
            self._means[self.problem.metric_name(name, "loss")].update_state(loss)
        return {name: mean.result() for name, mean in self._means.items()}
