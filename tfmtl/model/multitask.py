"""The model: a network with its losses and balancer, and the one ordinary training step."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl import losses as example_losses
from tfmtl.backbones.base import Backbone
from tfmtl.balancing.base import Gradient, Step, TaskLosses
from tfmtl.declare.down_sampling import DownSampling
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.layers.embedding import Embedding
from tfmtl.layers.members import Members
from tfmtl.metrics.packed import Packed, Predicted, predict_packed
from tfmtl.model.adam import Adam
from tfmtl.model.clipping import check_clipping, clipped
from tfmtl.model.heads import Heads
from tfmtl.model.losses_again import losses_again
from tfmtl.model.network import Network
from tfmtl.model.optimizers import RowwiseAdam, apply_gradients, rate_of, rowwise
from tfmtl.model.parts import parts_of
from tfmtl.model.task_losses import batch_losses, exact_metrics


class MultiTaskModel(Network):
    """Packed tensors to `{task: prediction}`, with losses, one update and exact metrics.

    The forward pass is `Network`; how losses become gradients is the balancer's business.

    Args:
        problem: The declaration.
        embedding: Packed tensors to fields: one, or several by name as the backbone makes them.
        backbone: Fields to `{task: representation}`.
        heads: Representations to logits and predictions.
        balancer: Losses `[trained tasks]` to one.
        terms: Batch-level losses, added to the balanced loss.
        interaction: Fields to fields, between embedding and backbone; one per embedding where
            there are several.
        l2: Weight of `½‖w‖²` over dense kernels and over looked-up rows, the latter divided by
            the batch size. Where scenes share nothing, kernels are those of the batch's scenes.
        table_l2: The weight for looked-up rows alone; `l2` by default.
        id_dropout: An `IdDropout` between embedding and interaction; one per embedding where there
            are several.
        members: Makes an ensemble; see `tfmtl.layers.members`.
        loss_reduction: How losses of rows become a task's loss, `masked` or `batch`; see
            `tfmtl.losses.per_example.masked_mean`.

    Raises:
        SpecError: Keras' policy is `mixed_float16`. With `mixed_bfloat16`, the backbone, the
            interaction and the towers compute in bfloat16; variables, tables, logits, losses and
            balancers are float32.

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
        table_l2: float | None = None,
        id_dropout: Any = None,
        members: Members | None = None,
        loss_reduction: str = "masked",
        **kwargs: Any,
    ) -> None:
        if keras.mixed_precision.global_policy().compute_dtype == "float16":
            raise SpecError(
                "the policy 'mixed_float16' needs scaled losses, or small gradients become zero; "
                "use 'mixed_bfloat16', which has the range of float32."
            )
        super().__init__(
            problem,
            embedding=embedding,
            backbone=backbone,
            heads=heads,
            interaction=interaction,
            id_dropout=id_dropout,
            members=members,
            **kwargs,
        )
        self.table_l2 = l2 if table_l2 is None else table_l2
        self.balancer, self.terms, self.l2 = balancer, list(terms), l2
        self.loss_reduction = loss_reduction
        # Set by training, where an experiment's sampling is to be corrected.
        self.down_sampling: DownSampling | None = None
        self._example_losses = {
            t: example_losses.build(problem.task(t), product=heads.is_product(t))
            for t in heads.trained
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
            backbone: Takes the place of the one that `config` names; its tasks are those with a
                logit of their own.

        Raises:
            SpecError: A part or an argument is unknown, or the parts do not fit together.
        """
        return cls(problem, **parts_of(problem, table_rows, config, backbone))

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | None = None,
        embedding_optimizer: keras.optimizers.Optimizer | None = None,
        *,
        clip_norm: float | None = None,
        averages: Any = None,
        **kwargs: Any,
    ) -> None:
        """Sets the optimizers of the dense variables and of the tables.

        Args:
            optimizer: A tf_keras optimizer; Adam by default. Where scenes share nothing, Adam
                is taken row-wise: Keras' would move the scenes that have no rows in a batch.
            embedding_optimizer: A row-wise optimizer; `RowwiseAdam` with the same learning rate
                by default.
            clip_norm: The highest norm of all gradients of an update together; see
                `tfmtl.model.clipping`.
            averages: Follows the weights after each update, a `tfmtl.training.Averages`.
            **kwargs: As `keras.Model.compile`.

        Raises:
            ValueError: `clip_norm` is given, and an optimizer clips by itself as well.
        """
        optimizer = optimizer or Adam()
        if self.backbone.rowwise_updates:
            optimizer = rowwise(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        if embedding_optimizer is None:
            embedding_optimizer = RowwiseAdam(learning_rate=rate_of(self.optimizer))
        self.embedding_optimizer = embedding_optimizer
        check_clipping(clip_norm, self.optimizer, embedding_optimizer)
        self.clip_norm, self.averages = clip_norm, averages

    def compute_loss(self, inputs: Packed, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the loss to minimise and the trained tasks' losses `[trained tasks]`."""
        losses = self.task_losses(inputs, training)
        return losses.total(self.balancer), losses.stacked

    def task_losses(
        self, inputs: Packed, training: bool = False, *, decay: bool = True
    ) -> TaskLosses:
        """Returns the trained tasks' losses, and separately those that belong to no task.

        Args:
            inputs: Packed tensors with labels.
            training: Whether this is a step of training.
            decay: Whether weight decay is among the losses.
        """
        representations, squares = self.represent(inputs, training)
        outputs = self.heads(representations, training=training)
        rows = {name: inputs[name] for name in (LABELS, WEIGHTS)}
        # The members' losses are each by themselves: a mean over all rows of all members.
        each = rows if self.members is None else self.members.repeated(rows)
        per_task, observed = batch_losses(
            self.heads,
            self._example_losses,
            outputs,
            each[LABELS],
            each[WEIGHTS],
            reduction=self.loss_reduction,
            down_sampling=self.down_sampling,
        )
        predictions = self.predictions(outputs)
        others = [
            term(predictions, rows[LABELS], rows[WEIGHTS], training=training) for term in self.terms
        ]
        if decay and (self.l2 or self.table_l2):
            others.append(self._decay(inputs, squares))
        return TaskLosses(per_task, observed, others, representations)

    def _decay(self, inputs: Packed, squares: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(tf.shape(inputs[LABELS])[0], tf.float32)
        kernels = [v for v in self.dense_variables if is_kernel(v)]
        decayed = self.backbone.decayed(kernels, self.backbone.row_inputs(inputs))
        of_kernels = tf.add_n([tf.nn.l2_loss(kernel) for kernel in decayed])
        return self.l2 * of_kernels + self.table_l2 * (0.5 * squares / rows)

    # Autograph's search for control flow, of which there is none, takes longer than all other
    # tracing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: Packed) -> dict[str, tf.Tensor]:
        """One update of dense variables and of the rows that were looked up."""
        with tf.GradientTape(persistent=self.balancer.persistent) as tape:
            losses = self.task_losses(inputs, training=True)
            total = losses.total(self.balancer)
        self.update(self.balancer.gradients(self.step_of(tape, losses, total)))
        self.balancer.after_update(lambda: losses_again(self, inputs))
        return self.report(total, losses.stacked)

    def update(self, gradients: Sequence[Gradient]) -> None:
        """Applies gradients, in the order of `trained_tables` and then of `dense_variables`."""
        tables, dense = self.trained_tables, self.dense_variables
        if self.clip_norm is not None:
            gradients, _ = clipped(gradients, self.clip_norm)
        before = None if self.averages is None else self.averages.before(gradients[: len(tables)])
        pairs = list(zip(gradients, [*tables, *dense], strict=True))
        for optimizer, part in (
            (self.embedding_optimizer, pairs[: len(tables)]),
            (self.optimizer, pairs[len(tables) :]),
        ):
            reached = [(gradient, variable) for gradient, variable in part if gradient is not None]
            if reached:
                apply_gradients(optimizer, reached)
        if before is not None:
            self.averages.after(before)

    def step_of(self, tape: tf.GradientTape, losses: TaskLosses, total: tf.Tensor) -> Step:
        """What a balancer needs of a forward pass to make gradients.

        Its variables are the trained tables and then the dense ones.
        """
        return Step(
            tape=tape,
            losses=losses,
            total=total,
            variables=self.trained_tables + self.dense_variables,
            last_shared=self.backbone.last_shared() or self.tables,
            own_blocks={v.ref(): tasks for v, tasks in self.backbone.own_blocks()},
            logits={task: logit.kernel for task, logit in self.heads.logits.items()},
        )

    def test_step(self, inputs: Packed) -> dict[str, tf.Tensor]:
        """Losses of a batch, without an update."""
        return self.report(*self.compute_loss(inputs, training=False))

    def report(self, total: tf.Tensor, per_task: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds a batch's losses to the running means, and returns the means."""
        self._means["loss"].update_state(total)
        for name, loss in zip(self.heads.trained, tf.unstack(per_task), strict=True):
            self._means[self.problem.metric_name(name, "loss")].update_state(loss)
        return {name: mean.result() for name, mean in self._means.items()}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Running means of the losses."""
        return list(self._means.values())

    def evaluate(self, x: tf.data.Dataset | None = None, **kwargs: Any) -> dict[str, float]:
        """Returns every task's exact metrics, over all rows of `x`, on the task's own space.

        Args:
            x: Batches of packed tensors with labels.
            **kwargs: Accepted for `keras.Model.fit`'s sake; only `return_dict=False` changes
                anything and is refused.

        Returns:
            `{"ctr/auc@imp": …, "mean_auc": …, "loss": …}`, on true labels: pseudo-labels are for
            training. `mean_auc`, where there are served binary tasks, is over those of them that
            have both classes. `loss` is the mean loss of the trained tasks that have a row, for a
            regression its declared loss, in units of the training labels' deviation.

        Raises:
            DataError: There are no rows, or they have no labels.
        """
        if not kwargs.get("return_dict", True):
            raise ValueError("metrics are known by name; return_dict=False would lose the names.")
        return exact_metrics(self.heads, self._example_losses, self.predict_rows(x))

    def predict_rows(self, batches: tf.data.Dataset) -> Predicted:
        """Returns the model's predictions of packed rows, with their labels."""
        if self._predict_batch is None:
            self._predict_batch = tf.function(self.call, reduce_retracing=True, autograph=False)
        return predict_packed(self._predict_batch, batches)

    def calibrate_with(self, calibrators: Any) -> None:
        """Puts calibrators between the logits and the predictions; losses do not see them.

        Args:
            calibrators: `tfmtl.calibration.calibrators.Calibrators`; `None` takes them out.
        """
        self.heads.calibrators = calibrators
        # It was traced without them.
        self._predict_batch = None

    _predict_batch: Any = None
    clip_norm: float | None = None
    averages: Any = None
