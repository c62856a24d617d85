"""Checkpoints of a training run: the state a killed run continues from, and the best weights."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel

LOWER_IS_BETTER = ("loss", "log_loss", "ne", "mae", "mse", "rmse", "ece", "tvd")


class Run:
    """A run's state: weights, optimizers, epoch and step. Written to disk where a folder is given.

    Args:
        model: A compiled model.
        experiment: The experiment; a folder with a run of another one is refused.
        folder: Where checkpoints are kept; without it nothing is written.
        monitor: The metric that chooses the best epoch; the experiment's by default.
        keep_best: Whether the best epoch's weights are kept, and not only its number.
        more: Further parts of the state that a checkpoint can hold, by name.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        experiment: ExperimentConfig,
        folder: str | None,
        *,
        monitor: str | None = None,
        keep_best: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.folder, self.keep_best = model, folder, keep_best
        # A copy: Keras orders variables by what is trainable, and layers may be frozen later.
        self.variables = list(model.variables)
        self.lower = lower_is_better(monitor or experiment.training.monitor)
        self.best: list[np.ndarray] = []
        self.state: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "wait": 0,
            "best_epoch": -1,
            "best_value": math.inf if self.lower else -math.inf,
            "history": [],
            "experiment": decisive(experiment),
        }
        optimizers = (model.optimizer, model.embedding_optimizer)
        optimizers[0].build(model.dense_variables)
        optimizers[1].build(model.trained_tables)
        self.checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizers[0], embedding_optimizer=optimizers[1], **(more or {})
        )

    def restore(self) -> None:
        """Continues from the last checkpoint, if there is one."""
        path = self._last()
        if path is None:
            return
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        check_same(state["experiment"], self.state["experiment"], str(self.folder))
        self.state = state
        self.checkpoint.read(os.path.join(path, "weights")).assert_existing_objects_matched()
        if self.keep_best and self.state["best_epoch"] >= 0:
            with np.load(self._best_path(self.state["best_epoch"])) as arrays:
                self.best = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        logging.info("Resumed at epoch %d, step %d.", self.state["epoch"], self.state["step"])

    def go_on_from(self, former: "Run") -> None:
        """Starts from another run's best weights; they stay the best if no epoch is better."""
        self.best = [v.numpy() for v in self.variables]
        self.state["best_value"] = former.state["best_value"]

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

    def finish_epoch(self, metrics: dict[str, Any], value: float) -> None:
        """Notes an epoch's metrics and whether it was the best."""
        better = (
            value < self.state["best_value"] if self.lower else value > self.state["best_value"]
        )
        if better or (self.keep_best and not self.best):
            self.state.update(best_epoch=self.state["epoch"], best_value=value, wait=0)
            if self.keep_best:
                self._keep()
        else:
            self.state["wait"] += 1
        self.state["history"].append(metrics)
        self.state.update(epoch=self.state["epoch"] + 1, step=0)

    def _keep(self) -> None:
        self.best = [v.numpy() for v in self.variables]
        if self.folder is not None:
            os.makedirs(self.folder, exist_ok=True)
            # Named by its epoch: if the run is killed before `save`, the file that belongs to the
            # last checkpoint is still there.
            path = self._best_path(self.state["epoch"])
            np.savez(path + ".building.npz", *self.best)
            os.replace(path + ".building.npz", path)

    def load_best(self) -> None:
        """Gives the model the weights of its best epoch."""
        for variable, value in zip(self.variables, self.best, strict=True):
            variable.assign(value)

    def _best_path(self, epoch: int) -> str:
        return os.path.join(self.folder or "", f"best-{epoch:05d}.npz")

    def _last(self) -> str | None:
        if self.folder is None or not os.path.isdir(self.folder):
            return None
        names = sorted(name for name in os.listdir(self.folder) if name.startswith("at-"))
        return os.path.join(self.folder, names[-1]) if names else None


def decisive(experiment: ExperimentConfig) -> dict[str, Any]:
    """The fields of an experiment that a run depends on, as plain data by the field's path."""
    plain = json.loads(experiment.to_json())
    fields = {"problem": plain["problem"]}
    for part in ("model", "training", "meta", "search"):
        fields.update({f"{part}.{name}": value for name, value in (plain[part] or {}).items()})
    return fields


def check_same(former: Mapping[str, Any], ours: Mapping[str, Any], folder: str) -> None:
    """Refuses a folder that a run of another experiment has made.

    Args:
        former: The fields that run depended on, from `decisive`.
        ours: The fields of this run.
        folder: The folder.

    Raises:
        SpecError: They differ; the message names the fields.
    """
    names = sorted({*former, *ours})
    changed = [name for name in names if former.get(name) != ours.get(name)]
    if changed:
        raise SpecError(
            f"{folder!r} holds a run of another experiment: {changed} changed since. Give another "
            "folder, or remove this one to start anew."
        )


def forget(checkpoint_dir: str) -> None:
    """Removes a finished run's checkpoints."""
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def lower_is_better(monitor: str) -> bool:
    """Whether a metric is a loss or an error; its name may be full or bare."""
    return bare(monitor) in LOWER_IS_BETTER


def bare(monitor: str) -> str:
    """A metric's name without its task and space."""
    return monitor.split("/")[-1].split("@")[0]
