"""A behaviour sequence as fields: look-up of its events, pooling, and what an empty one is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.columns import FIRST
from tfmtl.declare.layout import SequenceSlots, table_of
from tfmtl.errors import SpecError
from tfmtl.sequences import has_weights, pooling_of, reads_target

LookUp = Callable[[str, tf.Tensor], tf.Tensor]
"""Rows of a table by its name and ids `[…]`, `[…, width]`; zeros for padding."""


class SequenceFields(keras.layers.Layer):
    """The fields of one sequence, `[batch, fields, dim]`.

    One field per event column, pooled by common weights, or one joint field. A row without events
    has a learned vector instead, which begins at zero (our choice), and the gradient of which
    comes from such rows alone.

    Args:
        slots: Where the sequence's ids lie.
        widths: The width of each event column's table.
        targets: Where the ids of single-valued features lie, by feature name.
        dim: Width of the fields.
        copies: Copies of the tables, as in `Embedding`. Where there are several, there may be no
            weights besides, and an empty history is zero.

    Raises:
        SpecError: The pooling does not fit the columns, or reads values that are not `targets`.
    """

    def __init__(
        self,
        slots: SequenceSlots,
        *,
        widths: Sequence[int],
        targets: Mapping[str, int],
        dim: int,
        copies: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.slots, self.dim, self.copies = slots, dim, copies
        feature = slots.feature
        self.pooling = pooling_of(feature)
        if copies > 1 and has_weights(feature):
            raise SpecError(
                f"sequence {feature.name!r}: pooling={feature.pooling['name']!r} has weights, "
                "which would be those of all scenes; there take 'mean', 'sum' or 'max'."
            )
        self.joint = feature.fields == "joint" or not self.pooling.keeps_columns
        places = range(len(feature.events))
        # Columns that have a target stand first, as in the pooled vector.
        self._matched = [i for i in places if feature.events[i].of is not None]
        self._others = [i for i in places if feature.events[i].of is None]
        self._widths = tuple(widths)
        wanted = [str(feature.events[i].of) for i in self._matched if reads_target(feature)]
        for name in wanted:
            if name not in targets:
                raise SpecError(
                    f"sequence {feature.name!r}: pooling={feature.pooling['name']!r} reads "
                    f"{name!r}, which these fields do not hold."
                )
        self._targets = {name: targets[name] for name in wanted}
        events = len(feature.events)
        self.length = min(feature.search_length, slots.length) if feature.search else slots.length
        self._has_ages = feature.time is not None
        self._ages = slots.columns(events)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        feature = self.slots.feature
        if self.joint:
            return (feature.name,)
        return tuple(feature.event_name(event) for event in feature.events)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The raw columns of each field."""
        events = tuple(event.column for event in self.slots.feature.events)
        return (events,) if self.joint else tuple((column,) for column in events)

    def build(self, input_shape: Any) -> None:
        matched, others = (
            sum(self._widths[i] for i in part) for part in (self._matched, self._others)
        )
        events = {
            "matched": tf.zeros([1, self.length, matched]),
            "others": tf.zeros([1, self.length, others]),
            "target": tf.zeros([1, matched]),
            "mask": tf.zeros([1, self.length], tf.bool),
        }
        if self._has_ages:
            events["ages"] = tf.zeros([1, self.length], tf.int32)
        # Called once, so that a pooling of a user's own need not say its width.
        width = int(self.pooling(events).shape[-1])
        if self.copies == 1:
            self.nothing = self.add_weight(
                name="bias_nothing", shape=[len(self.names), self.dim], initializer="zeros"
            )
        if self.joint:
            self.joint_kernel = self.add_weight(name="joint_kernel", shape=[width, self.dim])
        super().build(input_shape)

    def call(
        self,
        ids: tf.Tensor,
        look_up: LookUp,
        project: Callable[[str, tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the fields, and `Σ‖e‖²` as if a row had looked up one event of mean size.

        Args:
            ids: Ids of all sides, int32 `[batch, columns]`.
            look_up: Gives rows of tables.
            project: Maps vectors `[batch, 1, width]` of a table to the fields' width.
        """
        of_events, ages, mask = self._ids(ids)
        vectors = [
            look_up(table_of(self.slots.feature, i), of_event)
            for i, of_event in enumerate(of_events)
        ]
        events = {
            "matched": _beside([vectors[i] for i in self._matched], mask),
            "others": _beside([vectors[i] for i in self._others], mask),
            "mask": mask,
        }
        events["target"] = self._target(ids, events["matched"], look_up)
        if ages is not None:
            events["ages"] = ages
        pooled = self.pooling(events)
        if self.joint:
            fields = tf.matmul(pooled, self.joint_kernel)[:, tf.newaxis]
        else:
            fields = self._of_columns(pooled, project)
        exists = tf.reduce_any(mask, axis=1)[:, tf.newaxis, tf.newaxis]
        nothing = self.nothing[tf.newaxis] if self.copies == 1 else tf.zeros_like(fields)
        return tf.where(exists, fields, nothing), _mean_squares(vectors, mask)

    def _ids(self, ids: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor | None, tf.Tensor]:
        """The ids of each event column and of the ages, and where there is an event."""
        feature = self.slots.feature
        of_events = [ids[:, self.slots.columns(i)] for i in range(len(feature.events))]
        ages = ids[:, self._ages] if self._has_ages else None
        mask = of_events[0] >= 0
        if feature.search is not None:
            place = next(i for i, e in enumerate(feature.events) if e.column == feature.search)
            at = self._targets[str(feature.events[place].of)]
            target = ids[:, at : at + 1]
            mask &= (of_events[place] == target) & (target >= FIRST)
            chosen = tf.argsort(tf.cast(~mask, tf.int32), axis=1, stable=True)[:, : self.length]
            mask = tf.gather(mask, chosen, batch_dims=1)
            of_events = [tf.gather(each, chosen, batch_dims=1) for each in of_events]
            ages = None if ages is None else tf.gather(ages, chosen, batch_dims=1)
        padding = tf.constant(-1, ids.dtype)
        return [tf.where(mask, each, padding) for each in of_events], ages, mask

    def _target(self, ids: tf.Tensor, matched: tf.Tensor, look_up: LookUp) -> tf.Tensor:
        if not self.pooling.reads_target:
            return tf.zeros_like(matched[:, 0])
        parts = []
        for place in self._matched:
            name = str(self.slots.feature.events[place].of)
            # Events with a table of their own are compared with the target in that table.
            table = table_of(self.slots.feature, place)
            parts.append(look_up(table, ids[:, self._targets[name]]))
        return tf.concat(parts, axis=1)

    def _of_columns(
        self, pooled: tf.Tensor, project: Callable[[str, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        order = [*self._matched, *self._others]
        parts = tf.split(pooled, [self._widths[i] for i in order], axis=1)
        by_place = {
            place: project(table_of(self.slots.feature, place), part[:, tf.newaxis])
            for place, part in zip(order, parts, strict=True)
        }
        return tf.concat([by_place[i] for i in range(len(order))], axis=1)


def _beside(vectors: Sequence[tf.Tensor], mask: tf.Tensor) -> tf.Tensor:
    if not vectors:
        return tf.zeros([tf.shape(mask)[0], mask.shape[1], 0])
    return vectors[0] if len(vectors) == 1 else tf.concat(vectors, axis=-1)


def _mean_squares(vectors: Sequence[tf.Tensor], mask: tf.Tensor) -> tf.Tensor:
    # A history of 50 would otherwise decay its rows 50 times as hard as an id.
    squares = tf.add_n([tf.reduce_sum(tf.square(v), axis=-1) for v in vectors])
    weights = tf.cast(mask, squares.dtype)
    total = tf.reduce_sum(weights * squares, axis=1)
    return tf.reduce_sum(tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1)))
