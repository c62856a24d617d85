"""Packed rows, from memory or from files, as batches in a seeded order."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS, has_pseudo, layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError

SHUFFLE_ROWS, MEMORY = 1 << 18, 1 << 28
"""The most rows, and bytes of packed rows, of a window that is shuffled (our choice)."""

READ_ROWS = 1 << 14


class Rows(Protocol):
    """Packed rows of one split."""

    def batches(
        self, batch_size: int, *, seed: int | None = None, skip: int = 0
    ) -> tf.data.Dataset:
        """Batches of packed tensors, shuffled if a seed is given; one seed gives one order.

        Args:
            batch_size: Rows per batch.
            seed: Determines the order. Without one, the order is that of the rows. A shuffled pass
                leaves out the last, incomplete batch, unless it is the only one.
            skip: Batches to leave out at the start, for resuming.
        """

    def count(self) -> int:
        """The number of rows."""


@dataclasses.dataclass(frozen=True)
class PackedData:
    """The rows that a model is trained on.

    Attributes:
        train: Training rows.
        validation: Rows for early stopping and for choosing the best epoch.
        table_rows: Rows of each feature's table, by feature name.
    """

    train: Rows
    validation: Rows
    table_rows: Mapping[str, int]


class ArrayRows:
    """Packed rows in memory.

    Args:
        arrays: Packed tensors or arrays, all with the same number of rows.

    Raises:
        DataError: Their numbers of rows differ.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any] | tf.Tensor]):
        # The ids of any table fit in 32 bits; this halves the memory of a large log.
        self.tensors = {
            name: tf.cast(value, tf.int32) if name.startswith("ids_") else tf.constant(value)
            for name, value in arrays.items()
        }
        rows = {name: int(value.shape[0]) for name, value in self.tensors.items()}
        if len(set(rows.values())) != 1:
            raise DataError(f"packed tensors need one number of rows; got {rows}.")
        self._count = next(iter(rows.values()))

    def count(self) -> int:
        """The number of rows."""
        return self._count

    def batches(
        self, batch_size: int, *, seed: int | None = None, skip: int = 0
    ) -> tf.data.Dataset:
        """See `Rows.batches`."""
        rows = self._count

        # There is no control flow to convert. AutoGraph's search for it would take a tenth of the
        # time of an MTMS slot with many small scenes.
        @tf.autograph.experimental.do_not_convert
        def following(start: tf.Tensor) -> dict[str, tf.Tensor]:
            end = tf.minimum(start + batch_size, rows)
            return {name: value[start:end] for name, value in self.tensors.items()}

        @tf.autograph.experimental.do_not_convert
        def chosen(places: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: tf.gather(value, places) for name, value in self.tensors.items()}

        if seed is None:
            starts = tf.data.Dataset.range(skip * batch_size, rows, batch_size)
            return starts.map(following, num_parallel_calls=1).prefetch(4)
        order = tf.constant(self._order(batch_size, seed)[skip:], tf.int32)
        places = tf.data.Dataset.from_tensor_slices(order)
        return places.map(chosen, num_parallel_calls=1).prefetch(4)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[dict[str, tf.Tensor]]:
        """The batches of `batches` with this seed, without a graph that would be traced."""
        for places in self._order(batch_size, seed):
            yield {name: tf.gather(value, places) for name, value in self.tensors.items()}

    def _order(self, batch_size: int, seed: int) -> NDArray[Any]:
        """The rows' places, `[batches, rows per batch]`."""
        order = np.random.default_rng(seed).permutation(self._count)
        steps = max(self._count // batch_size, 1)
        return order[: steps * batch_size].reshape(steps, -1)


class FileRows:
    """Packed rows in TFRecord files of tf.Examples, streamed.

    Rows that fit into `memory` are read once, kept, and shuffled as a whole. Others are read in
    every pass, and shuffled across files and within windows: if there are many more training rows
    than a window has, write them in random order. A window is parsed as a whole and shuffled as
    tensors, because shuffling single records takes longer than all other reading.

    Args:
        problem: The declaration, from which the files' columns follow.
        files: Paths; `.gz` is decompressed.
        memory: Bytes of packed rows that are kept, or of a window of at most `SHUFFLE_ROWS` rows.
            Up to three windows exist at a time.
    """

    def __init__(self, problem: ProblemSpec, files: Sequence[str], *, memory: int = MEMORY):
        if not files:
            raise DataError("no files of packed rows; was the split empty?")
        self.problem, self.files = problem, sorted(files)
        self.memory = memory
        self._count: int | None = None
        self._kept: ArrayRows | None = None

    def count(self) -> int:
        """The number of rows; counted once, by reading the files."""
        if self._count is None:
            total = (
                self._records(self.files)
                .batch(READ_ROWS)
                .reduce(np.int64(0), lambda n, batch: n + tf.shape(batch, out_type=tf.int64)[0])
            )
            self._count = int(total)
        return self._count

    def batches(
        self, batch_size: int, *, seed: int | None = None, skip: int = 0
    ) -> tf.data.Dataset:
        """See `Rows.batches`."""
        spec = packed_spec(self.problem)

        @tf.autograph.experimental.do_not_convert
        def parsed(records: tf.Tensor) -> dict[str, tf.Tensor]:
            return _narrow(tf.io.parse_example(records, spec))

        if self._kept is not None:
            return self._kept.batches(batch_size, seed=seed, skip=skip)
        if seed is None:
            batches = self._records(self.files).batch(batch_size).skip(skip)
            return batches.map(parsed, num_parallel_calls=2).prefetch(4)
        most = max(self.memory // row_bytes(spec), 1)
        if self.count() <= most:
            self._kept = self.load()
            return self._kept.batches(batch_size, seed=seed, skip=skip)
        several = self.count() >= batch_size
        files = np.random.default_rng(seed).permutation(self.files)
        steps = max(min(most, SHUFFLE_ROWS) // batch_size, 1)
        former, skip = divmod(skip, steps)
        windows = self._records(files.tolist(), interleave=True).batch(steps * batch_size)
        # The next window is read and parsed while the current one is trained on.
        windows = windows.skip(former).map(parsed).prefetch(1).enumerate(former)

        @tf.autograph.experimental.do_not_convert
        def shuffled(place: tf.Tensor, window: dict[str, tf.Tensor]) -> tf.data.Dataset:
            count = tf.shape(next(iter(window.values())))[0]
            drawn = tf.random.stateless_uniform([count], [seed, tf.cast(place, tf.int32)])
            order = tf.data.Dataset.from_tensor_slices(tf.argsort(drawn))
            return order.batch(batch_size, drop_remainder=several).map(
                lambda rows: {name: tf.gather(value, rows) for name, value in window.items()}
            )

        return windows.flat_map(shuffled).skip(skip).prefetch(4)

    def load(self) -> ArrayRows:
        """Reads all rows into memory."""
        parts: list[dict[str, NDArray[Any]]] = list(self.batches(READ_ROWS).as_numpy_iterator())
        if not parts:
            raise DataError(f"no rows in {self.files}.")
        return ArrayRows({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})

    def _records(self, files: Sequence[str], interleave: bool = False) -> tf.data.Dataset:
        def read(path: tf.Tensor) -> tf.data.Dataset:
            gzipped = tf.strings.regex_full_match(path, r".*\.gz")
            return tf.data.TFRecordDataset(
                path, compression_type=tf.where(gzipped, "GZIP", ""), buffer_size=8 << 20
            )

        paths = tf.data.Dataset.from_tensor_slices(list(files))
        return paths.interleave(
            read,
            cycle_length=4 if interleave else 1,
            block_length=16,
            num_parallel_calls=2 if interleave else None,
            deterministic=True,
        )


def packed_spec(problem: ProblemSpec) -> dict[str, tf.io.FixedLenFeature]:
    """Parsing spec of packed rows."""
    layout = layout_of(problem)
    spec = {}
    for side in layout.sides:
        if layout.id_columns[side]:
            spec[f"ids_{side}"] = tf.io.FixedLenFeature([layout.id_columns[side]], tf.int64)
        if layout.number_columns[side]:
            spec[f"numbers_{side}"] = tf.io.FixedLenFeature(
                [layout.number_columns[side]], tf.float32
            )
    for name in (LABELS, WEIGHTS, *((PSEUDO,) if has_pseudo(problem) else ())):
        spec[name] = tf.io.FixedLenFeature([len(problem.tasks)], tf.float32)
    if problem.request_id or problem.user_id:
        spec[GROUP] = tf.io.FixedLenFeature([], tf.int64)
    return spec


def row_bytes(spec: Mapping[str, tf.io.FixedLenFeature]) -> int:
    """Bytes of one packed row, at most.

    Args:
        spec: The packed rows.
    """
    return sum(each.dtype.size * int(np.prod(each.shape)) for each in spec.values())


def label_moments(
    rows: Rows, row_weights: Callable[[NDArray[Any]], NDArray[Any]] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of the observed labels, `[tasks]`; NaN if there are none.

    Args:
        rows: Packed rows with labels.
        row_weights: How many rows each one stands for, `[rows]`, from the labels `[rows, tasks]`;
            one by default.
    """
    count, total, square = np.zeros(3, object)
    for batch in numpy_batches(rows, READ_ROWS):
        observed = batch[WEIGHTS] > 0
        labels = np.where(observed, batch[LABELS], 0).astype(np.float64)
        counted = observed.astype(np.float64)
        if row_weights is not None:
            counted *= np.asarray(row_weights(batch[LABELS]), np.float64)[:, np.newaxis]
        count = count + counted.sum(0)
        total = total + (counted * labels).sum(0)
        square = square + (counted * labels**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        return mean, np.sqrt(np.maximum(square / count - mean**2, 0))


def numpy_batches(rows: Rows, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches in the order of the rows, as arrays."""
    if isinstance(rows, ArrayRows):
        # Without a data set, whose tracing takes longer than reading a small part's rows.
        arrays = {name: value.numpy() for name, value in rows.tensors.items()}
        starts = range(0, rows.count(), batch_size)
        return ({n: array[at : at + batch_size] for n, array in arrays.items()} for at in starts)
    return iter(rows.batches(batch_size).as_numpy_iterator())


def _narrow(packed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
        name: tf.cast(value, tf.int32) if name.startswith("ids_") else value
        for name, value in packed.items()
    }
