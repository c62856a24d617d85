"""Plain passes over a slot's rows, for networks that are trained without validation rows."""

import math
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.experiment import Training
from tfmtl.features.rows import ArrayRows, Rows, label_moments
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model


def seed_of(seed: int, slot: int, *names: str) -> int:
    """A seed that follows from the names, so that a new scene does not change other seeds."""
    return zlib.crc32(repr((seed, slot, *names)).encode())


def settle(model: MultiTaskModel, settings: Training, rows: Rows, *, cold: bool) -> None:
    """Builds a model and its optimizers; in the first slot, heads start at the labels' means.

    Args:
        model: Any model.
        settings: Names and rates of the optimizers.
        rows: Training rows, at least one.
        cold: Whether this is the first slot.
    """
    tf.config.experimental.enable_op_determinism()
    model(next(iter(rows.batches(min(rows.count(), settings.batch_size)))))
    compile_for_passes(model, settings)
    if cold:
        model.heads.adapt(*label_moments(rows))


def compile_for_passes(model: MultiTaskModel, settings: Training) -> None:
    """Gives a model that is built its optimizers, with their variables."""
    compile_model(model, settings)
    model.optimizer.build(model.dense_variables)
    model.embedding_optimizer.build(model.tables)


class Step:
    """A model's training step, traced once, for any number of rows."""

    def __init__(self, model: MultiTaskModel) -> None:
        # Without autograph, which a step does not need, tracing takes half the time.
        self._traced = tf.function(model.train_step, autograph=False)
        self._concrete: Any = None

    def __call__(self, packed: Packed) -> dict[str, tf.Tensor]:
        """Trains on a batch; returns the running means of the losses."""
        if self._concrete is None:
            spec = {
                name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
                for name, value in packed.items()
            }
            # A concrete function: TensorFlow would warn about one that is traced in every part.
            self._concrete = self._traced.get_concrete_function(spec)
        losses: dict[str, tf.Tensor] = self._concrete(packed)
        return losses


def train_passes(
    model: MultiTaskModel,
    rows: ArrayRows,
    *,
    passes: int,
    batch_size: int,
    seed: int,
    what: str,
    step: Step | None = None,
) -> list[dict[str, float]]:
    """Trains a compiled model and returns the mean losses of each pass.

    Args:
        model: A compiled model.
        rows: Training rows.
        passes: Number of passes over the rows.
        batch_size: Rows per step.
        seed: Determines the order of the rows.
        what: The name of the training in the error.
        step: The model's step, if it is traced already.

    Raises:
        FloatingPointError: The loss is no longer finite.
    """
    step = step or Step(model)
    history = []
    for number in range(passes):
        model.reset_metrics()
        losses: dict[str, Any] = {}
        # Not as a `tf.data.Dataset`, which is traced anew for every part.
        for packed in rows.shuffled(batch_size, seed=seed + number):
            losses = step(packed)
        history.append({name: float(np.asarray(loss)) for name, loss in losses.items()})
        if not math.isfinite(history[-1]["loss"]):
            raise FloatingPointError(
                f"the training loss of {what} is {history[-1]['loss']} in pass {number}: it "
                "diverged. Lower training.learning_rate, or look for enormous numbers among "
                "labels and features."
            )
    return history
