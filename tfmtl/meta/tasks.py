"""The tasks of meta-training: rows in two disjoint halves, for adaptation and for its loss.

A pass over the tasks is a pass over the rows: each row is in one half of one task, except for the
few rows that do not fill another step.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from tfmtl.declare.features import FIRST, UNKNOWN
from tfmtl.declare.layout import WEIGHTS, layout_of
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.features.rows import ArrayRows, Rows

SUPPORT, QUERY, OBJECTIVES = "support", "query", "objectives"


class Tasks(Protocol):
    """Meta-batches of tasks."""

    @property
    def steps(self) -> int:
        """Number of meta-batches per pass."""

    def batches(self, seed: int, skip: int = 0) -> tf.data.Dataset:
        """Meta-batches in a seeded order.

        Each has `support` and `query`, packed tensors `[tasks, rows, …]`, and `objectives`,
        boolean `[tasks, trained tasks]`: whether a loss counts.

        Args:
            seed: Seed of the rows of each task, and of the tasks' order.
            skip: Number of meta-batches to skip at the start, for resuming.
        """


def tasks_of(
    problem: ProblemSpec, rows: Rows, meta: Meta, *, batch_size: int, objectives: int
) -> Tasks:
    """Returns the tasks that the settings declare.

    Args:
        problem: The declaration.
        rows: Training rows.
        meta: The settings.
        batch_size: Rows per task, if the settings do not give them.
        objectives: Number of trained tasks of the problem.

    Raises:
        DataError: There are too few rows, or tasks are groups and the rows are not in memory.
    """
    tasks = _tasks_of(problem, rows, meta, meta.task_rows or batch_size, objectives)
    return _Hidden(tasks, problem, meta.hide) if meta.hide else tasks


def _tasks_of(problem: ProblemSpec, rows: Rows, meta: Meta, most: int, objectives: int) -> Tasks:
    if meta.group is None:
        return _RandomTasks(rows, meta, most, objectives)
    if not isinstance(rows, ArrayRows):
        raise DataError(
            f"meta: tasks={meta.tasks!r} gathers the rows of each value, and so needs all of them "
            "in memory: give FileRows(…).load(), or declare tasks='random'."
        )
    return _GroupTasks(problem, rows, meta, most, objectives)


class _RandomTasks:
    """Random batches; all objectives count, or one in turn."""

    def __init__(self, rows: Rows, meta: Meta, most: int, objectives: int) -> None:
        self.rows, self.count, self.objectives = rows, meta.tasks_per_step, objectives
        self.in_turn = meta.tasks == "objective"
        self.half = min(most, rows.count() // self.count) // 2
        if not self.half:
            raise DataError(
                f"meta: {rows.count()} training rows do not make {self.count} tasks of two rows; "
                "lower tasks_per_step."
            )

    @property
    def steps(self) -> int:
        """See `Tasks`."""
        return self.rows.count() // (self.count * 2 * self.half)

    def batches(self, seed: int, skip: int = 0) -> tf.data.Dataset:
        """See `Tasks`."""
        size = self.count * 2 * self.half

        @tf.autograph.experimental.do_not_convert
        def halved(step, packed):
            shaped = {
                name: tf.reshape(t, [self.count, 2, self.half, *t.shape[1:]])
                for name, t in packed.items()
            }
            return {
                SUPPORT: {name: t[:, 0] for name, t in shaped.items()},
                QUERY: {name: t[:, 1] for name, t in shaped.items()},
                OBJECTIVES: self._objectives(step),
            }

        batches = self.rows.batches(size, seed=seed, skip=skip)
        return tf.data.Dataset.zip((tf.data.Dataset.counter(skip), batches)).map(halved)

    def _objectives(self, step: tf.Tensor) -> tf.Tensor:
        if not self.in_turn:
            return tf.ones([self.count, self.objectives], tf.bool)
        # Counted on over steps, so that for instance three objectives share four tasks evenly.
        turns = step * self.count + tf.range(self.count, dtype=step.dtype)
        return tf.one_hot(turns % self.objectives, self.objectives, True, False, dtype=tf.bool)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Rows of tasks, `[tasks, half]`; −1 for each row that a task has less."""

    support: np.ndarray
    query: np.ndarray


class _GroupTasks:
    """Rows with the same value of a feature; large groups are cut, small ones are merged."""

    def __init__(
        self, problem: ProblemSpec, rows: ArrayRows, meta: Meta, most: int, objectives: int
    ) -> None:
        self.rows, self.count, self.objectives = rows, meta.tasks_per_step, objectives
        assert meta.group is not None
        values = ids_of(problem, rows, meta.group)
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        small = sizes < 2 * meta.min_rows
        # The small groups become one more group.
        self.group = np.where(small[group], len(sizes), group.reshape(-1))
        sizes = np.bincount(self.group)
        sizes = sizes[sizes >= 2]
        self.most = meta.task_rows or _usual(sizes, 2 * meta.min_rows, most)
        self.most -= self.most % 2
        self.tasks = int(_pieces(sizes, self.most).sum())
        if self.tasks < self.count:
            raise DataError(
                f"meta: tasks={meta.tasks!r} finds {len(sizes)} groups and {self.tasks} tasks, "
                f"fewer than tasks_per_step={self.count}; lower that, task_rows or min_rows."
            )

    @property
    def steps(self) -> int:
        """See `Tasks`."""
        return self.tasks // self.count

    def batches(self, seed: int, skip: int = 0) -> tf.data.Dataset:
        """See `Tasks`."""
        chunks = self.chunks(seed)
        size = self.steps * self.count

        def steps(places):
            shape = [self.steps, self.count, places.shape[1]]
            return tf.constant(places[:size].reshape(shape)[skip:], tf.int32)

        every = tf.ones([self.count, self.objectives], tf.bool)
        places = tf.data.Dataset.from_tensor_slices((steps(chunks.support), steps(chunks.query)))

        @tf.autograph.experimental.do_not_convert
        def gathered(support, query):
            return {
                SUPPORT: self._gather(support),
                QUERY: self._gather(query),
                OBJECTIVES: every,
            }

        return places.map(gathered, num_parallel_calls=1).prefetch(2)

    def chunks(self, seed: int) -> _Chunks:
        """The rows of each task of a pass; tasks are in a seeded order."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.group))
        order = order[np.argsort(self.group[order], kind="stable")]
        group = self.group[order]
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        sizes = np.diff(np.r_[starts, len(group)])
        pieces = -(-sizes // self.most)
        # Row r of a group of s rows is in piece r·pieces // s: sizes differ by one row at most.
        at = np.arange(len(group)) - np.repeat(starts, sizes)
        piece = at * np.repeat(pieces, sizes) // np.repeat(sizes, sizes)
        task = np.repeat(np.cumsum(pieces) - pieces, sizes) + piece
        lengths = np.bincount(task)
        within = np.arange(len(group)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # The first half of a task's rows, which are in random order, is its support.
        half = np.repeat(lengths // 2, lengths)
        width = -(-self.most // 2)
        support, query = (np.full([len(lengths), width], -1, np.int64) for _ in range(2))
        first = within < half
        support[task[first], within[first]] = order[first]
        query[task[~first], (within - half)[~first]] = order[~first]
        whole = np.flatnonzero(lengths >= 2)
        tasks = rng.permutation(whole)
        return _Chunks(support[tasks], query[tasks])

    def _gather(self, places: tf.Tensor) -> dict[str, tf.Tensor]:
        missing = places < 0
        # Positions without a row repeat rows of the same half, with weight 0. So normalisation over
        # a batch, and layers per scene, see no row of another task.
        rows = tf.reduce_sum(tf.cast(places >= 0, tf.int32), axis=1, keepdims=True)
        again = tf.math.floormod(tf.range(places.shape[1])[tf.newaxis], rows)
        places = tf.gather(places, again, batch_dims=1)
        packed = {name: tf.gather(value, places) for name, value in self.rows.tensors.items()}
        packed[WEIGHTS] = tf.where(missing[..., tf.newaxis], 0.0, packed[WEIGHTS])
        return packed


class _Hidden:
    """Tasks in which some features are unknown."""

    def __init__(self, tasks: Tasks, problem: ProblemSpec, names: Sequence[str]) -> None:
        self.tasks = tasks
        self.columns: dict[str, np.ndarray] = {}
        # Where the events of a hidden feature lie, and where its own id does.
        self.events: list[tuple[str, slice, str, int]] = []
        whole = layout_of(problem)
        layouts = {f"ids_{side}": layout_of(problem, (side,)) for side in whole.sides}
        own = {
            s.feature.name: (name, s.start) for name, layout in layouts.items() for s in layout.ids
        }
        for name, layout in layouts.items():
            hidden = np.zeros(layout.id_width, bool)
            for s in layout.ids:
                hidden[s.start : s.start + s.width] = s.feature.name in names
            for slots in layout.sequences:
                for place, event in enumerate(slots.feature.events):
                    hidden[slots.columns(place)] = slots.feature.name in names
                    if event.of in names:
                        self.events.append((name, slots.columns(place), *own[str(event.of)]))
            self.columns[name] = hidden

    @property
    def steps(self) -> int:
        """See `Tasks`."""
        return self.tasks.steps

    def batches(self, seed: int, skip: int = 0) -> tf.data.Dataset:
        """See `Tasks`."""

        @tf.autograph.experimental.do_not_convert
        def hidden(batch):
            return {**batch, **{half: self._hide(batch[half]) for half in (SUPPORT, QUERY)}}

        return self.tasks.batches(seed, skip).map(hidden)

    def _hide(self, packed: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with_hidden = dict(packed)
        for name, hidden in self.columns.items():
            if hidden.any():
                # Padding of short lists stays padding.
                ids = packed[name]
                with_hidden[name] = _unknown(ids, hidden & (ids >= 0))
        for name, columns, owner, at in self.events:
            # A newcomer is in no history: the row's own value is hidden there, others stay.
            own, ids = packed[owner][..., at : at + 1], with_hidden[name]
            same = (ids[..., columns] == own) & (own >= FIRST)
            before, after = columns.start, ids.shape[-1] - columns.stop
            around = [[0, 0]] * (ids.shape.rank - 1) + [[before, after]]
            with_hidden[name] = _unknown(ids, tf.pad(same, around))
        return with_hidden


def _unknown(ids: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    return tf.where(where, tf.cast(UNKNOWN, ids.dtype), ids)


def ids_of(problem: ProblemSpec, rows: ArrayRows, feature: str) -> np.ndarray:
    """A feature's id on every row, `[rows]`.

    Args:
        problem: The declaration.
        rows: Packed rows.
        feature: A feature with one id per row.
    """
    for side in layout_of(problem).sides:
        for slots in layout_of(problem, (side,)).ids:
            if slots.feature.name == feature:
                return rows.tensors[f"ids_{side}"][:, slots.start].numpy()
    raise KeyError(feature)


def _pieces(sizes: np.ndarray, most: int) -> np.ndarray:
    """Number of tasks of at least two rows into which groups of these sizes are cut."""
    return np.minimum(-(-sizes // most), sizes // 2)


def _usual(sizes: np.ndarray, least: int, most: int) -> int:
    """The size of the median row's group: larger groups are cut, smaller ones are padded."""
    if not len(sizes):
        return least
    ordered = np.sort(sizes)
    reached = np.cumsum(ordered)
    usual = int(ordered[np.searchsorted(reached, reached[-1] / 2)])
    return int(np.clip(usual + usual % 2, least, max(most, least)))
