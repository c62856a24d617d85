"""Epochs of a Keras fit, with validation, early stopping and checkpoints between them."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl import registry
from tfmtl.declare.down_sampling import down_sampling_of
from tfmtl.declare.experiment import ExperimentConfig, Training
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.features.rows import READ_ROWS, PackedData, label_moments
from tfmtl.metrics.checks import quietly
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.model.adam import Adam
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.model.task_losses import row_weights
from tfmtl.training.averages import Averages
from tfmtl.training.checkpoints import Run
from tfmtl.training.schedules import rate_over

OPTIMIZERS = {
    "adam": Adam,
    "adagrad": keras.optimizers.Adagrad,
    "sgd": keras.optimizers.SGD,
}

Validate = Callable[[MultiTaskModel], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        model: The model, with the weights of its best epoch.
        history: Metrics by epoch, from the first.
        best_epoch: Epoch whose weights the model has, from 0.
    """

    model: MultiTaskModel
    history: list[dict[str, float]]
    best_epoch: int


def best_metrics(trained: Trained) -> dict[str, float]:
    """The validation metrics of a run's best epoch, by their own names."""
    history = trained.history[trained.best_epoch]
    return {n.removeprefix("val_"): v for n, v in history.items() if n.startswith("val_")}


def compile_model(model: MultiTaskModel, settings: Training, steps: int = 1) -> None:
    """Gives a model the optimizers that the settings name.

    Args:
        model: Any model.
        settings: Names and rates.
        steps: Steps per epoch, for a rate that decays.
    """
    _one_of("optimizer", settings.optimizer, OPTIMIZERS)
    rate = settings.learning_rate
    table_rate = settings.embedding_learning_rate or rate
    total = settings.epochs * steps
    table_optimizer = registry.get("optimizer", settings.embedding_optimizer)
    model.compile(
        optimizer=OPTIMIZERS[settings.optimizer](rate_over(rate, settings, total)),
        embedding_optimizer=table_optimizer(learning_rate=rate_over(table_rate, settings, total)),
        clip_norm=settings.clip_norm,
        averages=None if settings.ema is None else Averages(model, settings.ema),
    )


def _one_of(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise SpecError(
            f"training.{field}={value!r} is none of {list(known)}.{did_you_mean(value, known)}"
        )


def ready(
    experiment: ExperimentConfig, data: PackedData, validate: Validate | None
) -> MultiTaskModel:
    """Builds and compiles the experiment's model; see `built`."""
    model = built(experiment, data, validate)
    settings = experiment.training
    compile_model(model, settings, max(data.train.count() // settings.batch_size, 1))
    return model


def built(
    experiment: ExperimentConfig, data: PackedData, validate: Validate | None
) -> MultiTaskModel:
    """Builds the experiment's model; its heads start at the training labels' means.

    Args:
        experiment: Model and training settings.
        data: Training and validation rows.
        validate: Further validation metrics.

    Raises:
        SpecError: `monitor` is no metric of the problem.
        DataError: There are no training rows.
    """
    settings = experiment.training
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = MultiTaskModel.build_from(experiment.problem, data.table_rows, experiment.model)
    down_sampling = down_sampling_of(experiment.sampling, experiment.problem)
    model.down_sampling = down_sampling
    if not data.train.count():
        raise DataError("there are no training rows; was the split empty?")
    model(next(iter(data.train.batches(min(data.train.count(), settings.batch_size)))))
    check_monitor(model, data, settings.monitor, validate)
    weigh = None
    if down_sampling is not None:
        # The heads start at the rates of all rows, not at those of the rows that were kept.
        weigh = functools.partial(row_weights, experiment.problem, down_sampling)
    model.heads.adapt(*label_moments(data.train, weigh))
    return model


def run_epochs(
    run: Run,
    learner: keras.Model,
    data: PackedData,
    settings: Training,
    *,
    batches: Callable[[int, int], tf.data.Dataset],
    steps: int,
    verbose: int,
    callbacks: Sequence[keras.callbacks.Callback],
    validate: Validate | None,
) -> None:
    """Trains all epochs, or until `patience` of them were no better; keeps the best weights.

    Args:
        run: The run's state.
        learner: The Keras model to fit: the run's model, or a model that trains it.
        data: Gives the validation rows.
        settings: Epochs, patience, monitor and seed.
        batches: Returns an epoch's batches, from the epoch's seed and the number of steps to skip.
        steps: Steps per epoch.
        verbose: As in `train`.
        callbacks: Further callbacks, called before the epoch is recorded.
        validate: Further validation metrics.
    """
    while run.state["epoch"] < settings.epochs and run.state["wait"] < max(settings.patience, 1):
        epoch, step = run.state["epoch"], run.state["step"]
        if settings.reset_tables and epoch > 0 and step == 0:
            reset_tables(run.model, seed_of(settings.seed, epoch))
        learner.fit(
            batches(seed_of(settings.seed, epoch), step),
            steps_per_epoch=None if verbose != 1 else steps - step or None,
            initial_epoch=epoch,
            epochs=epoch + 1 if verbose != 1 else max(settings.epochs, epoch + 1),
            verbose=verbose,
            callbacks=[*callbacks, _Epoch(run, data, settings, steps, validate)],
        )
    run.load_best()


def reset_tables(model: MultiTaskModel, seed: int) -> None:
    """Gives the tables new random rows, and their optimizer's moments their start.

    The optimizer's count of updates goes on, since a learning rate may follow it.

    Args:
        model: A model that has been called and compiled.
        seed: Seed of the new rows.
    """
    optimizer = model.embedding_optimizer
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trained_tables)
    shapes = {tuple(table.shape) for table in model.trained_tables}
    for state, start in zip(optimizer.variables, fresh.variables, strict=True):
        if tuple(state.shape) in shapes:
            state.assign(start)
    for i, embedding in enumerate(model.embeddings):
        if embedding.trainable:
            embedding.reset_tables(seed + i)


class _Epoch(keras.callbacks.Callback):
    """Validates at the end of an epoch, and writes checkpoints during and after it."""

    def __init__(
        self,
        run: Run,
        data: PackedData,
        settings: Training,
        steps: int,
        validate: Validate | None,
    ):
        super().__init__()
        self.run, self.data, self.settings, self.steps = run, data, settings, steps
        self.validate = validate

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.run.state["step"] += 1
        step = self.run.state["step"]
        if step % self.settings.checkpoint_every == 0 and step < self.steps:
            self.run.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Checked here because validation may not show it: with weights of NaN a network of
        # rectifiers may predict a constant.
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} in epoch {epoch}: the model diverged. Lower "
                f"training.learning_rate (it is {self.settings.learning_rate:g}), or look for "
                "enormous numbers among labels and features."
            )
        averages = self.run.model.averages
        with contextlib.nullcontext() if averages is None else averages.applied():
            self._finish(epoch, logs)
        # With the weights that training goes on from.
        self.run.save()
        self.model.stop_training = True

    def _finish(self, epoch: int, logs: dict[str, Any] | None) -> None:
        metrics = self.run.model.evaluate(self.data.validation.batches(READ_ROWS))
        if self.validate is not None:
            metrics.update(self.validate(self.run.model))
        monitor = self.settings.monitor
        if math.isnan(metrics[monitor]):
            defined = sorted(name for name, value in metrics.items() if not math.isnan(value))
            raise DataError(
                f"training.monitor={monitor!r} is not defined on the validation rows: a task has "
                "none on its space, or they are all of one class, so no epoch would be better "
                f"than another. Give validation such rows, or monitor one of {defined}."
            )
        history = {name: float(value) for name, value in (logs or {}).items()}
        history.update({f"val_{name}": value for name, value in metrics.items()})
        self.run.finish_epoch(history, metrics[monitor])
        if logs is not None:
            logs[f"val_{monitor}"] = metrics[monitor]


def check_monitor(
    model: MultiTaskModel, data: PackedData, monitor: str, validate: Validate | None
) -> None:
    """Refuses a monitor that is no validation metric, or for which neither way is better."""
    # Before an epoch is spent; the names do not depend on how many rows there are.
    with quietly():
        metrics = model.evaluate(data.validation.batches(1).take(1))
        if validate is not None and monitor not in metrics:
            metrics.update(validate(model))
    if monitor not in metrics:
        raise SpecError(
            f"training.monitor={monitor!r} is no validation metric; known are "
            f"{sorted(metrics)}.{did_you_mean(monitor, metrics)}"
        )
    lower_is_better(monitor, model.problem)


def seed_of(seed: int, epoch: int) -> int:
    """The seed of the order of an epoch's rows."""
    return seed * 100_003 + epoch
