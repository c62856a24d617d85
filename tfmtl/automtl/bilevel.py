"""One iteration of the architecture search (AutoMTL, Algorithm 1).

There are three kinds of variables, each with its own optimizer. Validation rows train the
architecture α; training rows train the weights and the tasks' choices of experts β. The method is
of first order: the gradient of α is taken at the present weights, not at those a step later.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf
import tf_keras as keras

from tfmtl.automtl.early_stopping import EarlyStopping
from tfmtl.automtl.freezing import FreezingSGD
from tfmtl.automtl.selection import selection_loss
from tfmtl.automtl.supernet import Supernet
from tfmtl.declare.conversions import check_semantics, direct_tasks
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.search import AutoMTL
from tfmtl.layers.decay import is_kernel
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.model.optimizers import RowwiseAdam, apply_gradients


def supernet_model(
    experiment: ExperimentConfig, search: AutoMTL, table_rows: Mapping[str, int]
) -> MultiTaskModel:
    """Returns the experiment's model with a supernet instead of its backbone.

    Tasks have equal weights, or those of a `fixed` balancer. Another balancer is only used when the
    network that was found is trained.

    Args:
        experiment: The problem and the model.
        search: The space.
        table_rows: Rows of each feature's table, by feature name.
    """
    config, problem = experiment.model, experiment.problem
    semantics = config.conv_semantics or Supernet.conv_semantics
    check_semantics(problem, semantics)
    supernet = Supernet(
        direct_tasks(problem, semantics), search=search, width=config.dim, name="supernet"
    )
    fixed = config.balancer["name"] == "fixed"
    of_search = dataclasses.replace(
        config,
        interaction=None,
        tower_units=search.tower_units,
        balancer=config.balancer if fixed else {"name": "fixed"},
    )
    return MultiTaskModel.build_from(problem, table_rows, of_search, backbone=supernet)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The settings that change in the course of a search.

    Args:
        search: The settings.
        steps: Steps per epoch.
    """

    search: AutoMTL
    steps: int

    @property
    def total(self) -> int:
        """Steps of the whole search."""
        return self.search.epochs * self.steps

    def choosing(self, step: int) -> bool:
        """Whether a step, counted from 0, is after the warm-up, so that β is trained."""
        return step >= self.search.warm_up_epochs * self.steps

    def aux_weight(self, step: int) -> float:
        """The weight of the loss on β: constant in the warm-up, then falling to 0 at the end."""
        start = self.search.warm_up_epochs * self.steps
        return self.search.aux_weight * _falling(step - start, self.total - start)

    def skip_weight(self, step: int) -> float:
        """The weight of DARTS−'s auxiliary skip: 1 at the first step and 0 at the last."""
        return _falling(step, self.total)


def _falling(step: int, steps: int) -> float:
    if step <= 0:
        return 1.0
    return max(0.0, 1.0 - step / max(steps - 1, 1))


class Bilevel:
    """Trains a supernet's weights, choices and architecture, one iteration per call.

    Args:
        model: A model from `supernet_model`, built.
        search: The settings.
        schedule: The settings that change in its course.

    Attributes:
        architecture: The variables of α.
        selection: A list with β, or an empty one.
        stopping: Stops operations; `None` if the settings do not ask for it, or no operation has
            weights.
    """

    def __init__(self, model: MultiTaskModel, search: AutoMTL, schedule: Schedule) -> None:
        self.model, self.search, self.schedule = model, search, schedule
        supernet = model.backbone
        alphas = (supernet.alpha_interaction, supernet.alpha_pooling, supernet.alpha_hidden)
        self.architecture = [a for a in alphas if a is not None and a.shape.num_elements()]
        self.selection = [] if supernet.beta is None else [supernet.beta]
        self.stopping = None
        operations = supernet.operations()
        if search.stopping != "none" and operations:
            self.stopping = EarlyStopping(operations, search)
        apart = {v.ref() for v in (*self.architecture, *self.selection)}
        self._statistics = [v for v in model.non_trainable_variables if v.ref() not in apart]
        self.architecture_optimizer = keras.optimizers.Adam(search.architecture_rate)
        self.architecture_optimizer.build(self.architecture)
        self.selection_optimizer = keras.optimizers.Adam(search.architecture_rate)
        self.selection_optimizer.build(self.selection)
        rate = keras.optimizers.schedules.CosineDecay(search.learning_rate, schedule.total)
        by_row = {
            "adam": lambda: RowwiseAdam(learning_rate=search.embedding_rate),
            # Without momentum, which would move every row of a table.
            "sgd": lambda: keras.optimizers.SGD(rate),
        }
        model.compile(
            optimizer=FreezingSGD(
                self.stopping.stopped if self.stopping else lambda v: None,
                learning_rate=rate,
                momentum=search.momentum,
            ),
            embedding_optimizer=by_row[search.embedding_optimizer](),
        )
        # Variables that were made while the iteration is traced would have it traced twice.
        model.optimizer.build(model.dense_variables)
        model.embedding_optimizer.build(model.trained_tables)
        self._iterate = tf.function(self.iterate, autograph=False)

    @property
    def state(self) -> dict[str, object]:
        """The state apart from the model and its optimizers, for a checkpoint."""
        state: dict[str, object] = {
            "architecture_optimizer": self.architecture_optimizer,
            "selection_optimizer": self.selection_optimizer,
        }
        return {**state, "stopping": self.stopping.variables} if self.stopping else state

    def step(self, train: Packed, validation: Packed, step: int) -> dict[str, tf.Tensor]:
        """One iteration.

        Args:
            train: A batch of training rows.
            validation: A batch of validation rows.
            step: Number of iterations before it.

        Returns:
            Running means of the training losses.
        """
        return self._iterate(
            train,
            validation,
            tf.constant(self.schedule.aux_weight(step), tf.float32),
            tf.constant(self.schedule.skip_weight(step), tf.float32),
            tf.constant(self.schedule.choosing(step)),
        )

    def iterate(self, train, validation, aux_weight, skip_weight, choosing):
        """Computes the iteration; see `step`, which runs this as a graph."""
        if self.model.backbone.skip_weight is not None:
            self.model.backbone.skip_weight.assign(skip_weight)
        self.train_architecture(validation)
        return self.train_weights(train, aux_weight, choosing)

    def train_architecture(self, rows: Packed) -> None:
        """Updates α on validation rows, and tests the operations' gradients on them.

        Nothing else changes, including the moving averages of batch normalisation.
        """
        weights = self.stopping.weights if self.stopping else []
        before = [v.read_value() for v in self._statistics]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*self.architecture, *weights])
            # Without weight decay: it does not depend on α, and it is the same on all rows, so that
            # it would make the directions more similar.
            losses = self.model.task_losses(rows, training=True, decay=False)
            loss = losses.total(self.model.balancer)
        gradients = _dense_gradients(tape, loss, [*self.architecture, *weights])
        count = len(self.architecture)
        apply_gradients(
            self.architecture_optimizer,
            list(zip(gradients[:count], self.architecture, strict=True)),
        )
        if self.stopping:
            self.stopping.test(gradients[count:])
        for variable, value in zip(self._statistics, before, strict=True):
            variable.assign(value)

    def train_weights(self, rows: Packed, aux_weight, choosing) -> dict[str, tf.Tensor]:
        """Updates the weights on training rows, and if `choosing`, β."""
        model = self.model
        weights = [*model.trained_tables, *model.dense_variables]
        with tf.GradientTape() as tape:
            tape.watch(self.selection)
            losses = model.task_losses(rows, training=True)
            total = losses.total(model.balancer)
            loss = total
            for beta in self.selection:
                loss += aux_weight * selection_loss(beta)
        gradients = tape.gradient(loss, [*weights, *self.selection])
        if self.stopping:
            by_variable = {
                v.ref(): g for v, g in zip(weights, gradients[: len(weights)], strict=True)
            }
            self.stopping.remember(
                [self._without_decay(v, by_variable[v.ref()]) for v in self.stopping.weights]
            )
        model.update(gradients[: len(weights)])
        if self.selection:
            of_selection = list(zip(gradients[len(weights) :], self.selection, strict=True))
            tf.cond(
                choosing,
                lambda: tf.identity(apply_gradients(self.selection_optimizer, of_selection)),
                lambda: tf.identity(self.selection_optimizer.iterations),
            )
        return model.report(total, losses.stacked)

    def _without_decay(self, variable, gradient):
        if gradient is None:
            return tf.zeros_like(variable)
        return gradient - self.model.l2 * variable if is_kernel(variable) else gradient


def _dense_gradients(tape, loss, variables):
    return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
