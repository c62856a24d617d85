"""The events of a sequence that a row keeps: those before it, the newest, newest first."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.declare.columns import FIRST, MISSING, PADDING
from tfmtl.declare.sequences import AGE_BUCKETS, TIME_UNITS, SequenceFeature
from tfmtl.features.raw import ABSENT, NO_INTEGER


@dataclasses.dataclass(frozen=True)
class KeptEvents:
    """The kept events of a batch, newest first; places behind the last event are padding.

    Attributes:
        values: Raw values `[batch, max_length]` by event column, absent in padding and gaps.
        valid: Whether there is an event, bool `[batch, max_length]`.
        ages: Ids of the events' ages, int64 `[batch, max_length]`, `PADDING` where there is none;
            `None` for a sequence without times.
    """

    values: Mapping[str, tf.Tensor]
    valid: tf.Tensor
    ages: tf.Tensor | None


def kept_events(feature: SequenceFeature, columns: Mapping[str, tf.Tensor]) -> KeptEvents:
    """Selects the events of each row.

    An event exists where the leading column has a value and, where times are declared, the event
    has a time that is early enough. First events that are too late are cut, then the newest
    `max_length` are kept. Where the row's own time is missing, nothing is too late.

    Args:
        feature: The sequence.
        columns: Its raw columns, lists `[batch, any number]`.
    """
    names = [event.column for event in feature.events] + ([feature.time] if feature.time else [])
    lists = _same_length(feature, {name: columns[name] for name in names})
    leading = lists[feature.leading.column]
    valid = leading != tf.constant(_absent(leading), leading.dtype)
    if feature.order == "oldest_first":
        lists = {name: tf.reverse(values, [1]) for name, values in lists.items()}
        valid = tf.reverse(valid, [1])
    if feature.time is None:
        # A stable sort closes the gaps and keeps the order.
        key = tf.cast(~valid, tf.int32)
    else:
        times, row_times = lists[feature.time], columns[str(feature.row_time)][:, tf.newaxis]
        valid &= times != NO_INTEGER
        if feature.late != "keep":
            valid &= (times + feature.gap < row_times) | (row_times == NO_INTEGER)
        key = tf.where(valid, -times, tf.int64.max)
    chosen = tf.argsort(key, axis=1, stable=True)[:, : feature.max_length]
    valid = tf.gather(valid, chosen, batch_dims=1)
    valid = tf.ensure_shape(valid, [None, feature.max_length])
    values = {}
    for event in feature.events:
        of_event = tf.gather(lists[event.column], chosen, batch_dims=1)
        absent = tf.constant(_absent(of_event), of_event.dtype)
        of_event = tf.where(valid, of_event, absent)
        values[event.column] = tf.ensure_shape(of_event, [None, feature.max_length])
    ages = None
    if feature.time is not None:
        ages = _age_ids(feature, tf.gather(times, chosen, batch_dims=1), row_times, valid)
    return KeptEvents(values, valid, ages)


def age_bounds(time_unit: str) -> NDArray[np.int64]:
    """The least age of each bucket but the first, int64 `[AGE_BUCKETS − 1]`, in the unit.

    Bucket `b` begins at `base · (2ᵇ − 1)`: it is `⌊log₂(1 + age / base)⌋`, in whole numbers.
    """
    powers = np.arange(1, AGE_BUCKETS, dtype=np.int64)
    bounds: NDArray[np.int64] = TIME_UNITS[time_unit] * (2**powers - 1)
    return bounds


def _age_ids(
    feature: SequenceFeature, times: tf.Tensor, row_times: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    # In int64: float32 resolves seconds since 1970 to 128 s.
    known = row_times != NO_INTEGER
    ages = tf.where(valid & known, row_times - times, tf.zeros_like(times))
    bounds = tf.constant(age_bounds(feature.time_unit))
    buckets = tf.searchsorted(bounds, tf.reshape(ages, [-1]), side="right", out_type=tf.int64)
    ids = tf.reshape(buckets, tf.shape(ages)) + FIRST
    ids = tf.where(known, ids, tf.constant(MISSING, tf.int64))
    ids = tf.where(valid, ids, tf.constant(PADDING, tf.int64))
    return tf.ensure_shape(ids, [None, feature.max_length])


def _same_length(
    feature: SequenceFeature, columns: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """The lists, padded to one width of at least `max_length`."""
    widths = [tf.shape(values)[1] for values in columns.values()]
    width = tf.reduce_max(tf.stack([*widths, feature.max_length]))
    return {
        name: tf.pad(
            values, [[0, 0], [0, width - tf.shape(values)[1]]], constant_values=_absent(values)
        )
        for name, values in columns.items()
    }


def _absent(values: tf.Tensor) -> Any:
    return ABSENT[values.dtype.name]
