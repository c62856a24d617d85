"""Running averages of a model's weights, exact for tables whose rows are rarely looked up."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfmtl.balancing.base import Gradient
from tfmtl.model.network import Network


class Touched(NamedTuple):
    """The rows of a table that an update changes: `[n]`, and their values before, `[n, width]`."""

    table: int
    rows: tf.Tensor
    values: tf.Tensor


class Averages:
    """The exponential moving average `a ← β_t a + (1 − β_t) w` of every trained variable.

    After update `t`, `β_t = min(decay, (1 + t) / (10 + t))`, so that the first weights, which are
    random, are soon forgotten.

    A table's row keeps its value between the batches that look it up, and so its average need not
    be computed meanwhile: what `k` updates with a constant value do to an average is one update
    with the product of their `β`. Each row remembers the logarithm of that product up to its last
    update. The result is the average over all updates, at the cost of the batch's rows alone; a
    row that is averaged only when it is looked up would lag behind by its absences.

    What is not trained, such as moments of batch normalisation, is not averaged.

    Args:
        model: The model; its variables need not exist before `build`.
        decay: `β` after many updates, above 0 and below 1.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self._model = model
        self.decay = decay
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Σ log β over all updates. In float64: its differences are what counts.
        self.log_product = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.dense: list[tf.Variable] = []
        self.tables: list[tf.Variable] = []
        self.since: list[tf.Variable] = []

    def build(self) -> None:
        """Starts the averages at the model's present weights; once the model has been called."""
        dense, tables = self._trained()
        self.dense = [_copy(v) for v in dense]
        self.tables = [_copy(v) for v in tables]
        self.since = [
            tf.Variable(tf.zeros([v.shape[0]], tf.float64), trainable=False) for v in tables
        ]

    def state(self) -> tf.train.Checkpoint:
        """What a checkpoint has to hold, once built.

        The object itself is none of TensorFlow's: Keras would make its variables the model's.
        """
        return tf.train.Checkpoint(
            updates=self.updates,
            log_product=self.log_product,
            dense=self.dense,
            tables=self.tables,
            since=self.since,
        )

    def before(self, gradients: Sequence[Gradient]) -> list[Touched]:
        """Notes what an update is about to change; `after` needs it.

        Args:
            gradients: Of the trained tables, in their order.
        """
        _, tables = self._trained()
        touched = []
        for i, (gradient, table) in enumerate(zip(gradients, tables, strict=True)):
            if gradient is None:
                continue
            if isinstance(gradient, tf.IndexedSlices):
                rows, _ = tf.unique(gradient.indices)
            else:
                rows = tf.range(tf.shape(table)[0])
            touched.append(Touched(i, rows, tf.gather(table, rows)))
        return touched

    def after(self, touched: Sequence[Touched]) -> None:
        """Takes an update's new weights into the averages."""
        t = tf.cast(self.updates.assign_add(1), tf.float64)
        beta = tf.minimum(tf.constant(self.decay, tf.float64), (1.0 + t) / (10.0 + t))
        before = self.log_product.read_value()
        product = self.log_product.assign_add(tf.math.log(beta))
        dense, tables = self._trained()
        for average, variable in zip(self.dense, dense, strict=True):
            keep = tf.cast(beta, average.dtype)
            average.assign(keep * average + (1.0 - keep) * variable)
        for i, rows, values in touched:
            average, keep = self.tables[i], tf.cast(beta, self.tables[i].dtype)
            waited = tf.exp(before - tf.gather(self.since[i], rows))
            caught_up = _mixed(waited, tf.gather(average, rows), values)
            latest = keep * caught_up + (1.0 - keep) * tf.gather(tables[i], rows)
            average.scatter_update(tf.IndexedSlices(latest, rows))
            self.since[i].scatter_update(tf.IndexedSlices(tf.fill(tf.shape(rows), product), rows))

    def flush(self) -> None:
        """Brings the averages of all rows up to the last update."""
        _, tables = self._trained()
        for average, since, table in zip(self.tables, self.since, tables, strict=True):
            waited = tf.exp(self.log_product - since)
            average.assign(_mixed(waited, average, table))
            since.assign(tf.fill(tf.shape(since), self.log_product.read_value()))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While in it, the model's weights are the averages."""
        self.flush()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        dense, tables = self._trained()
        for average, variable in zip([*self.dense, *self.tables], [*dense, *tables], strict=True):
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)

    def _trained(self) -> tuple[list[tf.Variable], list[tf.Variable]]:
        return self._model.dense_variables, self._model.trained_tables


def _copy(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(variable.read_value(), trainable=False)


def _mixed(share: tf.Tensor, average: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    share = tf.cast(share, average.dtype)[:, tf.newaxis]
    return share * average + (1.0 - share) * values
