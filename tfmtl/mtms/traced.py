"""Networks that are traced once for all parts of one shape.

Building the graph of a training step took seven eighths of the time of a small part. Parts whose
networks differ only in their values use one model: each part gives it its own starting values,
and a fresh state of the optimizers, and so ends bit for bit as with a model of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfmtl.declare.experiment import Training
from tfmtl.features.rows import ArrayRows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.passes import Step, compile_for_passes

MOST_ROWS = 200_000
"""Rows of a part's tables up to which it shares its model. With more, tracing is a small part of
the work, and rows that a larger part has left room for would cost memory."""

ROOM = 1.25
"""How many more rows than the largest part so far tables have room for."""


class Traced:
    """A compiled model with its traced step, for one part after another.

    Args:
        model: A model that is built.
        settings: Names and rates of its optimizers.
        room: Rows of each feature's table, if parts may have fewer.
    """

    def __init__(
        self, model: MultiTaskModel, settings: Training, room: Mapping[str, int] | None = None
    ) -> None:
        self.room = dict(room or {})
        compile_for_passes(model, settings)
        self.model, self.step = model, Step(model)
        self._optimizers = (model.optimizer, model.embedding_optimizer)
        # All values of a moment start equal.
        self._starts = [
            (variable, variable.numpy().ravel()[:1])
            for optimizer in self._optimizers
            for variable in optimizer.variables
        ]

    def restart(self, start: MultiTaskModel) -> None:
        """Gives the model the values of another, except its tables, and new optimizers.

        Args:
            start: A model with the same layers; its tables may have other numbers of rows.
        """
        tables = {id(table) for table in self.model.tables}
        for variable, value in zip(self.model.variables, start.variables, strict=True):
            if id(variable) not in tables:
                variable.assign(value)
        for variable, first in self._starts:
            if len(first):
                variable.assign(tf.fill(variable.shape, first[0]))


class TracedNetworks:
    """The models that a process has traced, by what their graphs depend on."""

    def __init__(self) -> None:
        self._by_shape: dict[str, Traced] = {}

    def get(
        self, shape: str, make: Callable[[dict[str, int]], Traced], rows: Mapping[str, int]
    ) -> Traced:
        """Returns the model of a shape.

        Args:
            shape: What the graph depends on.
            make: Makes one whose tables have room for these rows, by feature.
            rows: The rows that the part needs.
        """
        traced = self._by_shape.get(shape)
        former = {} if traced is None else traced.room
        if traced is None or any(count > former[name] for name, count in rows.items()):
            room = {n: max(former.get(n, 0), int(ROOM * count)) for n, count in rows.items()}
            # The former one goes first: there is one set of tables at a time.
            self._by_shape.pop(shape, None)
            traced = self._by_shape[shape] = make(room)
        return traced


def can_share(model: MultiTaskModel) -> bool:
    """Whether a graph has no random numbers, which would be those of the part that traced it."""
    rates = (getattr(layer, "rate", 0.0) for layer in model.submodules)
    dropping = any(isinstance(rate, float) and rate > 0 for rate in rates)
    shares = (getattr(layer, "dropout", 0.0) for layer in model.submodules)
    return not dropping and not any(isinstance(each, float) and each > 0 for each in shares)


def first_row(rows: ArrayRows) -> dict[str, tf.Tensor]:
    """A batch of one row, with which a model is built."""
    return {name: value[:1] for name, value in rows.tensors.items()}


def settings_of(training: Training) -> tuple[Any, ...]:
    """What a traced step depends on of the settings."""
    return (
        training.optimizer,
        training.embedding_optimizer,
        training.learning_rate,
        training.embedding_learning_rate,
    )
