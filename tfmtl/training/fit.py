"""Ordinary training: seeded epochs, early stopping on validation, resume after a kill."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from tfmtl import registry
from tfmtl.balancing import EpochEnd
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.experiment import ExperimentConfig, Training
from tfmtl.inputs import READ_ROWS, PackedData, label_moments
from tfmtl.model import MultiTaskModel

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adagrad": keras.optimizers.Adagrad,
    "sgd": keras.optimizers.SGD,
}
DECAYS = {
    "none": lambda rate, steps: rate,
    "cosine": keras.optimizers.schedules.CosineDecay,
}
LOWER_IS_BETTER = ("loss", "log_loss", "ne", "mae", "mse", "rmse", "ece", "tvd")
BEST_AT_A_VALUE = {"calibration": 1, "bias": 0}


Validate = Callable[[MultiTaskModel], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        model: The model, with the weights of its best epoch.
        history: Metrics by epoch, from the first.
        best_epoch: Epoch whose weights the model has, from 0.
    """

    model: MultiTaskModel
    history: list[dict[str, float]]
    best_epoch: int


def train(
    experiment: ExperimentConfig,
    data: PackedData,
    *,
    checkpoint_dir: str | None = None,
    verbose: int = 1,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    validate: Validate | None = None,
) -> Trained:
    """Trains the experiment's model and returns it with the weights of its best epoch.

    The same experiment and rows give the same weights, bit for bit, on CPU. With a
    `checkpoint_dir` a run that was killed goes on from its last checkpoint: the rows it had
    seen in the epoch are passed over, and without dropout the result is the same as if it had
    not been killed (dropout draws anew).

    Args:
        experiment: Model and training settings.
        data: Training and validation rows.
        checkpoint_dir: Where checkpoints are kept; none without it. A finished run's is
            removed by `forget`.
        verbose: 1 shows a progress bar, 2 a line an epoch, 0 nothing.
        callbacks: Further tf_keras callbacks. Every epoch is a `fit` of its own, so one that
            counts from its beginning, such as `EarlyStopping`, counts one epoch; `patience` and
            `decay` are for that.
        validate: Gives further validation metrics of a model, which `monitor` may name, such as
            the recall of a replay.

    Raises:
        SpecError: `monitor` is no metric of the problem, or `checkpoint_dir` holds a run of
            another experiment.
        DataError: A split is empty, or `monitor` is not defined on the validation rows.
        FloatingPointError: The training loss is no finite number any more.
    """
    settings = experiment.training
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = MultiTaskModel.build_from(experiment.problem, data.table_rows, experiment.model)
    steps = max(data.train.count() // settings.batch_size, 1)
    compile_model(model, settings, steps)
    if not data.train.count():
        raise DataError("there are no training rows; was the split empty?")
    first = next(iter(data.train.batches(min(data.train.count(), settings.batch_size))))
    model(first)
    _check_monitor(model, data, settings.monitor, validate)
    model.heads.adapt(*label_moments(data.train))
    run = _Run(model, experiment, checkpoint_dir)
    run.restore()
    while run.state["epoch"] < settings.epochs and run.state["wait"] < max(settings.patience, 1):
        epoch, step = run.state["epoch"], run.state["step"]
        rows = data.train.batches(settings.batch_size, seed=_seed(settings.seed, epoch), skip=step)
        model.fit(
            rows,
            steps_per_epoch=None if verbose != 1 else steps - step or None,
            initial_epoch=epoch,
            epochs=epoch + 1 if verbose != 1 else max(settings.epochs, epoch + 1),
            verbose=verbose,
            # First, so that the epoch's checkpoint has it.
            callbacks=[EpochEnd(), *callbacks, _Epoch(run, data, settings, steps, validate)],
        )
    run.load_best()
    return Trained(model, run.state["history"], run.state["best_epoch"])


def best_metrics(trained: Trained) -> dict[str, float]:
    """The validation metrics of a run's best epoch, by their own names."""
    history = trained.history[trained.best_epoch]
    return {n.removeprefix("val_"): v for n, v in history.items() if n.startswith("val_")}


def compile_model(model: MultiTaskModel, settings: Training, steps: int = 1) -> None:
    """Gives a model the optimizers that the settings name.

    Args:
        model: Any model.
        settings: Names and rates.
        steps: Steps an epoch, for a rate that decays.
    """
    _one_of("optimizer", settings.optimizer, OPTIMIZERS)
    _one_of("decay", settings.decay, DECAYS)
    decay = DECAYS[settings.decay]
    rate = settings.learning_rate
    table_rate = settings.embedding_learning_rate or rate
    total = settings.epochs * steps
    table_optimizer = registry.get("optimizer", settings.embedding_optimizer)
    model.compile(
        optimizer=OPTIMIZERS[settings.optimizer](decay(rate, total)),
        embedding_optimizer=table_optimizer(learning_rate=decay(table_rate, total)),
    )


def _one_of(field: str, value: str, known) -> None:
    if value not in known:
        raise SpecError(
            f"training.{field}={value!r} is none of {list(known)}.{did_you_mean(value, known)}"
        )


def forget(checkpoint_dir: str) -> None:
    """Removes a finished run's checkpoints."""
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


class _Run:
    """A run's state: weights, optimizers, and where it stands. Kept on disk where asked."""

    def __init__(self, model: MultiTaskModel, experiment: ExperimentConfig, folder: str | None):
        self.model, self.folder = model, folder
        self.lower = lower_is_better(experiment.training.monitor)
        self.best: list[np.ndarray] = []
        self.state: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "wait": 0,
            "best_epoch": -1,
            "best_value": math.inf if self.lower else -math.inf,
            "history": [],
            "experiment": _decisive(experiment),
        }
        optimizers = (model.optimizer, model.embedding_optimizer)
        optimizers[0].build(model.dense_variables)
        optimizers[1].build(model.tables)
        self.checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizers[0], embedding_optimizer=optimizers[1]
        )

    def restore(self) -> None:
        """Goes on from the last checkpoint, if there is one."""
        path = self._last()
        if path is None:
            return
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        former, ours = state["experiment"], self.state["experiment"]
        changed = [name for name, value in ours.items() if former.get(name) != value]
        if changed:
            raise SpecError(
                f"checkpoint_dir={self.folder!r} holds a run of another experiment: {changed} "
                "changed since. Give another folder, or remove this one to start anew."
            )
        self.state = state
        self.checkpoint.read(os.path.join(path, "weights")).assert_existing_objects_matched()
        if self.state["best_epoch"] >= 0:
            with np.load(self._best_path(self.state["best_epoch"])) as arrays:
                self.best = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        logging.info("Resumed at epoch %d, step %d.", self.state["epoch"], self.state["step"])

    def save(self) -> None:
        """Writes a checkpoint; the former one stays until the new one is whole."""
        if self.folder is None:
            return
        former = self._last()
        name = f"at-{self.state['epoch']:05d}-{self.state['step']:09d}"
        path, building = os.path.join(self.folder, name), os.path.join(self.folder, "building")
        shutil.rmtree(building, ignore_errors=True)
        os.makedirs(building)
        self.checkpoint.write(os.path.join(building, "weights"))
        with open(os.path.join(building, "state.json"), "w", encoding="utf-8") as file:
            json.dump(self.state, file)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(building, path)
        if former is not None and former != path:
            shutil.rmtree(former)
        kept = self._best_path(self.state["best_epoch"])
        for name in os.listdir(self.folder):
            if name.startswith("best-") and name != os.path.basename(kept):
                os.remove(os.path.join(self.folder, name))

    def finish_epoch(self, metrics: dict[str, float], value: float) -> None:
        """Notes an epoch's metrics and whether it was the best."""
        better = (
            value < self.state["best_value"] if self.lower else value > self.state["best_value"]
        )
        if better or not self.best:
            self.state.update(best_epoch=self.state["epoch"], best_value=value, wait=0)
            self.best = [v.numpy() for v in self.model.variables]
            if self.folder is not None:
                os.makedirs(self.folder, exist_ok=True)
                # Named by its epoch: after a kill before `save`, the last checkpoint's stands.
                path = self._best_path(self.state["epoch"])
                np.savez(path + ".building.npz", *self.best)
                os.replace(path + ".building.npz", path)
        else:
            self.state["wait"] += 1
        self.state["history"].append(metrics)
        self.state.update(epoch=self.state["epoch"] + 1, step=0)

    def load_best(self) -> None:
        """Gives the model the weights of its best epoch."""
        for variable, value in zip(self.model.variables, self.best, strict=True):
            variable.assign(value)

    def _best_path(self, epoch: int) -> str:
        return os.path.join(self.folder or "", f"best-{epoch:05d}.npz")

    def _last(self) -> str | None:
        if self.folder is None or not os.path.isdir(self.folder):
            return None
        found = sorted(name for name in os.listdir(self.folder) if name.startswith("at-"))
        return os.path.join(self.folder, found[-1]) if found else None


class _Epoch(keras.callbacks.Callback):
    """Validates at the end of an epoch and keeps checkpoints on the way."""

    def __init__(
        self,
        run: _Run,
        data: PackedData,
        settings: Training,
        steps: int,
        validate: Validate | None,
    ):
        super().__init__()
        self.run, self.data, self.settings, self.steps = run, data, settings, steps
        self.validate = validate

    def on_train_batch_end(self, batch, logs=None):
        self.run.state["step"] += 1
        step = self.run.state["step"]
        if step % self.settings.checkpoint_every == 0 and step < self.steps:
            self.run.save()

    def on_epoch_end(self, epoch, logs=None):
        # A network of rectifiers may predict a constant where its weights are no numbers.
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise FloatingPointError(
                f"the training loss is {logs['loss']} in epoch {epoch}: the model diverged. Lower "
                f"training.learning_rate (it is {self.settings.learning_rate:g}), or look for "
                "enormous numbers among labels and features."
            )
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
        found = {name: float(value) for name, value in (logs or {}).items()}
        found.update({f"val_{name}": value for name, value in metrics.items()})
        self.run.finish_epoch(found, metrics[monitor])
        self.run.save()
        if logs is not None:
            logs[f"val_{monitor}"] = metrics[monitor]
        self.model.stop_training = True


def _decisive(experiment: ExperimentConfig) -> dict[str, Any]:
    plain = json.loads(experiment.to_json())
    fields = {"problem": plain["problem"]}
    for part in ("model", "training"):
        fields.update({f"{part}.{name}": value for name, value in plain[part].items()})
    return fields


def _check_monitor(
    model: MultiTaskModel, data: PackedData, monitor: str, validate: Validate | None
) -> None:
    # Before an epoch is spent; the names do not depend on how many rows there are.
    bare = _bare(monitor)
    if bare in BEST_AT_A_VALUE:
        raise SpecError(
            f"training.monitor={monitor!r}: a {bare} is best at {BEST_AT_A_VALUE[bare]}, neither "
            f"high nor low; monitor {monitor.replace(bare, 'log_loss')!r} or "
            f"{monitor.replace(bare, 'mse')!r}, which a bad {bare} raises."
        )
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        metrics = model.evaluate(data.validation.batches(1).take(1))
        if validate is not None and monitor not in metrics:
            metrics.update(validate(model))
    finally:
        logging.set_verbosity(level)
    if monitor not in metrics:
        raise SpecError(
            f"training.monitor={monitor!r} is no validation metric; known are "
            f"{sorted(metrics)}.{did_you_mean(monitor, metrics)}"
        )


def _seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def lower_is_better(monitor: str) -> bool:
    """Whether a metric, by its full name or a bare one, is a loss or an error."""
    return _bare(monitor) in LOWER_IS_BETTER


def _bare(monitor: str) -> str:
    return monitor.split("/")[-1].split("@")[0]
