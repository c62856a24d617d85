"""Norms and cosines of the tasks' gradients while a model trains.

They are measured on a fixed batch, apart from the training step. So any balancer can be observed, a
change comes from the model and not from the batch, and training stays bit for bit the same.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.task_gradients import TaskGradients
from tfmtl.errors import SpecError
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.plain import write_text


def task_gram(model: MultiTaskModel, packed: Packed) -> tuple[tf.Tensor, tf.Tensor]:
    """Inner products of the tasks' gradients on shared variables, and which tasks have rows.

    The gradients are those of the unweighted losses, without loss terms and weight decay. Dropout
    is off and batch normalisation uses its moving moments. Nothing of the model changes.

    Args:
        model: A model.
        packed: Packed tensors with labels.

    Returns:
        `[K, K]`, float64, and `[K]`, boolean, in the order of `model.heads.trained`.

    Raises:
        SpecError: There are several tasks and they share no variable.
    """
    with tf.GradientTape(persistent=True) as tape:
        losses = model.task_losses(packed, training=False)
    step = model.step_of(tape, losses, tf.constant(0.0))
    return TaskGradients(step).gram(), losses.observed


class GradientLog(keras.callbacks.Callback):
    """Records the tasks' gradient norms and cosines every `every` steps; costs nothing in between.

        rows = next(iter(data.train.batches(4096)))
        log = GradientLog(rows, every=200, path="gradients.jsonl")
        train(experiment, data, callbacks=(log,))
        pandas.DataFrame(log.rows)

    A row has `step` (updates so far), `norm/<task>`, `cosine/<task>/<other>` for every pair in the
    tasks' order, `loss/<task>` and `weight/<task>` (the balancer's `weights_now`). A value of a
    task without an observed row, or without a gradient, is NaN; in the file it is null.

    Args:
        batch: Packed tensors with labels, the same at every measurement. It should hold positive
            rows of every task.
        every: Steps between two measurements; the first is before the first step.
        path: File of JSON lines; none by default. A resumed run keeps the rows up to the step at
            which it resumes; a new run starts with an empty file.

    Attributes:
        rows: The measurements.

    Raises:
        ValueError: `every` is below 1.
        SpecError: In training, if the model's tasks share no variable.
    """

    def __init__(self, batch: Packed, *, every: int = 100, path: str | None = None) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every} steps; at least 1 makes sense.")
        self.batch, self.every, self.path = batch, every, path
        self.rows: list[dict[str, float]] = []
        self._measure: Any = None

    def set_model(self, model: MultiTaskModel) -> None:
        """Prepares the measurement; training calls this at every epoch.

        Raises:
            SpecError: The model is meta-trained: its batches are tasks, not rows.
        """
        if not isinstance(model, MultiTaskModel):
            raise SpecError(
                f"GradientLog measures gradients of batches, and {model.name!r} is trained on "
                "something else; leave it out of meta-training's callbacks."
            )
        if self._measure is not None and model is self.model:
            return
        super().set_model(model)
        self._measure = tf.function(lambda packed: self._measured(packed), autograph=False)
        self._resume(self._step())
        if self._step() == 0:
            self._note(0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Measures at every `every`-th step."""
        step = self._step()
        if step % self.every == 0:
            self._note(step)

    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _measured(self, packed: Packed) -> tuple[tf.Tensor, ...]:
        gram, observed = task_gram(self.model, packed)
        losses = self.model.task_losses(packed, training=False).stacked
        return gram, observed, losses, self.model.balancer.weights_now()

    def _note(self, step: int) -> None:
        measured = [value.numpy().astype(np.float64) for value in self._measure(self.batch)]
        gram, observed, losses, weights = measured
        gram[observed == 0] = np.nan
        losses[observed == 0] = np.nan
        norms = np.sqrt(np.diag(gram))
        norms[norms == 0] = np.nan
        cosines = gram / np.outer(norms, norms)
        tasks = self.model.heads.trained
        row: dict[str, float] = {"step": step}
        for name, values in (("norm", norms), ("loss", losses), ("weight", weights)):
            row.update({f"{name}/{t}": float(v) for t, v in zip(tasks, values, strict=True)})
        for i, j in itertools.combinations(range(len(tasks)), 2):
            row[f"cosine/{tasks[i]}/{tasks[j]}"] = float(cosines[i, j])
        self.rows.append(row)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(row))

    def _resume(self, step: int) -> None:
        self.rows = []
        if self.path is None:
            return
        if os.path.exists(self.path) and step:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                found = [plain for line in file if (plain := _whole(line)) is not None]
            self.rows = [_row(plain) for plain in found if plain["step"] <= step]
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        write_text(self.path, "".join(map(_line, self.rows)))


def _line(row: Mapping[str, float]) -> str:
    plain = {k: None if math.isnan(v) else v for k, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _whole(line: str) -> dict[str, Any] | None:
    # A kill or a power cut may leave half a line, or zeros where one was.
    try:
        plain = json.loads(line)
    except ValueError:
        return None
    return plain if isinstance(plain, dict) and "step" in plain else None


def _row(plain: Mapping[str, float | None]) -> dict[str, float]:
    return {k: math.nan if v is None else v for k, v in plain.items()}
