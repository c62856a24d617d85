"""Checkpoints of a training run: the state a killed run continues from, and the best weights."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from tfmtl import durable
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged
from tfmtl.errors import SpecError
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.model.multitask import MultiTaskModel

KEPT = 2
"""Checkpoints that are kept: where the last is damaged, the run goes on from the one before."""

STATE, WEIGHTS = "state.json", "weights"


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
        self.lower = lower_is_better(monitor or experiment.training.monitor, experiment.problem)
        self.best: list[NDArray[Any]] = []
        self._damaged: list[str] = []
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
        parts = dict(more or {})
        if model.averages is not None:
            model.averages.build()
            parts["averages"] = model.averages.state()
        self.checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizers[0], embedding_optimizer=optimizers[1], **parts
        )

    def restore(self) -> None:
        """Goes on from the last checkpoint that is whole, if there is one.

        Raises:
            SpecError: It is of another experiment.
        """
        paths = self._checkpoints()
        for i, path in enumerate(paths):
            try:
                state, best = self._read(path)
            except Damaged as damage:
                then = "goes on from the one before" if paths[i + 1 :] else "starts anew"
                logging.warning("%s. That checkpoint is passed over: the run %s.", damage, then)
                self._damaged.append(path)
                continue
            check_same(state["experiment"], self.state["experiment"], str(self.folder))
            self.state, self.best = state, best
            found = self.checkpoint.read(os.path.join(path, WEIGHTS))
            found.assert_existing_objects_matched()
            logging.info("Resumed at epoch %d, step %d.", state["epoch"], state["step"])
            return

    def go_on_from(self, former: "Run") -> None:
        """Starts from another run's best weights; they stay the best if no epoch is better."""
        self.best = [v.numpy() for v in self.variables]
        self.state["best_value"] = former.state["best_value"]

    def save(self) -> None:
        """Writes a checkpoint; former ones stay until the new one is whole."""
        if self.folder is None:
            return
        name = f"at-{self.state['epoch']:05d}-{self.state['step']:09d}"
        with durable.whole_folder(os.path.join(self.folder, name)) as building:
            self.checkpoint.write(os.path.join(building, WEIGHTS))
            with durable.whole_file(os.path.join(building, STATE)) as file:
                file.write(json.dumps(self.state).encode())
            durable.seal(building)
        self._sweep()

    def _sweep(self) -> None:
        # Damaged ones might be of a later epoch than the run has come to since.
        for path in self._damaged:
            durable.remove(path)
        self._damaged.clear()
        kept, former = self._checkpoints()[:KEPT], self._checkpoints()[KEPT:]
        for path in former:
            durable.remove(path)
        best = {self._best_path(self.state["best_epoch"])}
        for path in kept:
            with contextlib.suppress(Damaged, OSError):
                state = durable.read_json(os.path.join(path, STATE))
                best.add(self._best_path(state["best_epoch"]))
        for name in os.listdir(self.folder):
            path = os.path.join(str(self.folder), name)
            if re.match(r"\.?best-", name) and path not in best:
                os.remove(path)

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
            # Named by its epoch: after a kill before `save`, the last checkpoint's stands.
            with durable.whole_file(self._best_path(self.state["epoch"])) as file:
                np.savez(file, *self.best)

    def load_best(self) -> None:
        """Gives the model the weights of its best epoch."""
        for variable, value in zip(self.variables, self.best, strict=True):
            variable.assign(value)

    def _best_path(self, epoch: int) -> str:
        return os.path.join(self.folder or "", f"best-{epoch:05d}.npz")

    def _checkpoints(self) -> list[str]:
        """Folders of checkpoints, the last one first."""
        if self.folder is None or not os.path.isdir(self.folder):
            return []
        names = [name for name in os.listdir(self.folder) if re.fullmatch(r"at-\d+-\d+", name)]
        return [os.path.join(self.folder, name) for name in sorted(names, reverse=True)]

    def _read(self, path: str) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """A checkpoint's state and best weights, once all of it is known to be whole.

        Raises:
            Damaged: Something is missing, or not as it was written.
        """
        durable.check_whole(path)
        state = durable.read_json(os.path.join(path, STATE))
        if not self.keep_best or state["best_epoch"] < 0:
            return state, self.best
        arrays = durable.read_arrays(self._best_path(state["best_epoch"]))
        return state, [arrays[f"arr_{i}"] for i in range(len(arrays))]


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
