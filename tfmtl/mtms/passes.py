"""Plain passes over a slot's rows, for networks that are trained without validation rows."""

import math
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.experiment import Training
from tfmtl.features.rows import Rows, label_moments
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
    compile_model(model, settings)
    model(next(iter(rows.batches(min(rows.count(), settings.batch_size)))))
    model.optimizer.build(model.dense_variables)
    model.embedding_optimizer.build(model.tables)
    if cold:
        model.heads.adapt(*label_moments(rows))


def train_passes(
    model: MultiTaskModel, rows: Rows, *, passes: int, batch_size: int, seed: int, what: str
) -> list[dict[str, float]]:
    """Trains a compiled model and returns the mean losses of each pass.

    Raises:
        FloatingPointError: The loss is no longer finite.
    """
    # Without autograph, which a step does not need, tracing takes half the time; that is much when
    # there are many small parts.
    traced = tf.function(model.train_step, autograph=False)
    step: Any = None
    history = []
    for number in range(passes):
        model.reset_metrics()
        losses: dict[str, Any] = {}
        batches = rows.batches(batch_size, seed=seed + number)
        # A concrete function: TensorFlow would warn about one that is traced in every part.
        step = step or traced.get_concrete_function(batches.element_spec)
        for packed in batches:
            losses = step(packed)
        history.append({name: float(np.asarray(loss)) for name, loss in losses.items()})
        if not math.isfinite(history[-1]["loss"]):
            raise FloatingPointError(
                f"the training loss of {what} is {history[-1]['loss']} in pass {number}: it "
                "diverged. Lower training.learning_rate, or look for enormous numbers among "
                "labels and features."
            )
    return history
