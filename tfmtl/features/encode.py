"""Raw columns to packed tensors: one function for the pipeline, a notebook and serving.

What must be fitted on training rows comes through `Analyzers`, of which there are three: the
pipeline's (TensorFlow Transform), one that fits on columns in memory, and one that holds what
was fitted. The arithmetic is written once, so the three agree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import tensorflow as tf

from tfmtl.declare.features import (
    FIRST,
    FOLD,
    MISSING,
    PADDING,
    UNKNOWN,
    Categorical,
    CountEncoding,
    Numerical,
)
from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS, has_pseudo, layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.features.raw import NO_INTEGER, dense_columns, pseudo_labels, task_labels

Lookup = Callable[[tf.Tensor], tf.Tensor]


class Analyzers(Protocol):
    """Statistics of training rows. Each is fitted once and known by its name."""

    def vocabulary(self, name: str, values: tf.Tensor, size: int | None, min_count: int) -> Lookup:
        """Returns ids `0…` of the most frequent values, −1 for any other."""

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and standard deviation of `values` `[n]` as float64; `(0, 1)` of none."""

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """Returns `bins + 1` edges, least and greatest value included."""

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """Returns the sum of non-negative `values` `[n]` by text key, 0 for an unseen key."""


def encode(
    problem: ProblemSpec,
    raw: Mapping[str, tf.Tensor],
    analyzers: Analyzers,
    *,
    null_values: Sequence[str] = (),
) -> dict[str, tf.Tensor]:
    """Returns the packed tensors of a batch.

    Args:
        problem: The declaration.
        raw: Raw columns, dense, sparse or ragged. Labels may be absent, as in serving.
        analyzers: Where fitted statistics come from.
        null_values: Text that means "missing". The readers of text files know it, and what is
            served must too, or `NA` would be missing in training and an unknown word later.

    Returns:
        `ids_{side}` int64 `[batch, …]` and `numbers_{side}` float32 `[batch, …]` for each side
        that has any, and where labels are given `labels`, `label_weights` float32 `[batch,
        tasks]`; `group` int64 `[batch]` where a request or user is declared and given.
    """
    columns = {
        name: _filled(value, null_values)
        for name, value in dense_columns(problem.columns(), raw).items()
    }
    first = next(iter(problem.feature_columns()))
    rows = tf.shape(columns[first])[0]
    fold = tf.fill([rows], tf.constant(-1, tf.int64))
    if FOLD in raw:
        fold = _scalar(raw[FOLD])
    labels = weights = None
    if all(name in columns for name in problem.label_columns()):
        labels, weights = task_labels(problem, columns)
    ids: dict[str, list[tf.Tensor]] = {}
    numbers: dict[str, list[tf.Tensor]] = {}
    for feature in problem.features:
        side_ids = ids.setdefault(feature.side, [])
        side_numbers = numbers.setdefault(feature.side, [])
        if isinstance(feature, Categorical):
            side_ids.append(_categorical(feature, columns, analyzers))
            if feature.weights is not None:
                value = columns[feature.weights]
                side_numbers.append(tf.where(tf.math.is_nan(value), 0.0, value))
        elif isinstance(feature, Numerical):
            _numerical(feature, columns[feature.column], analyzers, side_ids, side_numbers)
        elif isinstance(feature, CountEncoding):
            side_numbers.append(_count(feature, columns, analyzers))
        else:
            side_numbers.append(
                _target(problem, feature, columns, analyzers, fold, labels, weights)
            )
    layout = layout_of(problem)
    packed = {}
    for side in layout.sides:
        if layout.id_columns[side]:
            packed[f"ids_{side}"] = tf.concat(ids[side], axis=1)
        if layout.number_columns[side]:
            packed[f"numbers_{side}"] = tf.concat(numbers[side], axis=1)
    if labels is not None:
        if has_pseudo(problem):
            pseudo, pseudo_weights = pseudo_labels(problem, columns)
            labels, weights = labels + pseudo, weights + pseudo_weights
            packed[PSEUDO] = tf.cast(pseudo_weights > 0, tf.float32)
        packed[LABELS], packed[WEIGHTS] = labels, weights
    group = problem.request_id or problem.user_id
    if group is not None and group in columns:
        packed[GROUP] = tf.strings.to_hash_bucket_fast(_text(columns[group]), 2**62)
    return packed


def _filled(value, null_values):
    words = [word for word in null_values if word]
    if value.dtype != tf.string or not words:
        return value
    missing = tf.reduce_any(value[..., tf.newaxis] == tf.constant(words), axis=-1)
    return tf.where(missing, "", value)


def _categorical(feature, columns, analyzers):
    value = columns[feature.column]
    value = value if feature.max_values else value[:, tf.newaxis]
    absent = value == ("" if feature.dtype == "string" else NO_INTEGER)
    if feature.encoding == "vocabulary":
        lookup = analyzers.vocabulary(
            feature.name, tf.boolean_mask(value, ~absent), feature.size, feature.min_count
        )
        known = lookup(value)
        ids = tf.where(known < 0, tf.constant(UNKNOWN, tf.int64), known + FIRST)
    elif feature.encoding == "hash":
        ids = tf.strings.to_hash_bucket_fast(_text(value), feature.size) + FIRST
    else:
        inside = (value >= 0) & (value < feature.size)
        ids = tf.where(inside, value + FIRST, tf.constant(UNKNOWN, tf.int64))
    return tf.where(absent, tf.constant(PADDING if feature.max_values else MISSING, tf.int64), ids)


def _numerical(feature, value, analyzers, ids, numbers):
    # One infinite value would make the mean, and with it every row, a NaN.
    absent = ~tf.math.is_finite(value)
    value = tf.where(absent, float("nan"), value)
    present = tf.boolean_mask(value, ~absent)
    if feature.encoding in ("standard", "log"):
        # In float64: hours of epoch seconds differ in the sixth digit.
        squash = tf.identity if feature.encoding == "standard" else _signed_log
        mean, std = analyzers.moments(feature.name, squash(tf.cast(present, tf.float64)))
        scaled = _standardised(squash(tf.cast(value, tf.float64)), mean, std)
        numbers.append(tf.where(absent, 0.0, scaled)[:, tf.newaxis])
    else:
        # Most counts and amounts are mostly zero, and would have one quantile for all the rest.
        nonzero = tf.boolean_mask(present, present != 0)
        if feature.encoding == "quantile":
            edges = analyzers.quantiles(feature.name, nonzero, feature.bins - 1)
            bucket = 1 + tf.searchsorted(edges[1:-1], value, side="right", out_type=tf.int64)
            bucket = tf.where(value == 0, tf.zeros_like(bucket), bucket) + FIRST
            bucket = tf.where(absent, tf.constant(MISSING, tf.int64), bucket)
            ids.append(bucket[:, tf.newaxis])
        else:
            edges = analyzers.quantiles(feature.name, nonzero, feature.bins)
            numbers.append(_piecewise(value, edges))
    if feature.indicator:
        numbers.append(tf.cast(absent, tf.float32)[:, tf.newaxis])


def _standardised(value, mean, std):
    return tf.cast((tf.cast(value, tf.float64) - mean) / _scale(mean, std), tf.float32)


def _scale(mean, std):
    # The deviation of equal values comes out as rounding, about 1e-16 of their mean: whoever
    # divided by it would make millions of another value that is served.
    return tf.where(std > 1e-9 * tf.abs(mean), std, tf.ones_like(std))


def _signed_log(value):
    return tf.sign(value) * tf.math.log1p(tf.abs(value))


def _piecewise(value, edges):
    # Bounded at both ends (our choice): the paper extrapolates, and one outlier then rules.
    low, width = edges[:-1], edges[1:] - edges[:-1]
    value = value[:, tf.newaxis]
    inside = tf.math.divide_no_nan(value - low, width)
    inside = tf.where(width > 0, inside, tf.cast(value >= low, tf.float32))
    return tf.where(tf.math.is_nan(value), 0.0, tf.clip_by_value(inside, 0.0, 1.0))


def _count(feature, columns, analyzers):
    keys = _key(columns[feature.column])
    count = analyzers.sums(feature.name, keys, tf.ones_like(keys, tf.float32))
    logs = tf.math.log1p(count(keys))
    mean, std = analyzers.moments(f"{feature.name}_log", logs)
    return _standardised(logs, mean, std)[:, tf.newaxis]


def _target(problem, feature, columns, analyzers, fold, labels, weights):
    keys = _key(columns[feature.column])
    in_fold = tf.strings.as_string(tf.math.floormod(fold, feature.folds))
    in_fold = tf.where(fold < 0, "none", in_fold)
    fold_keys = tf.strings.join([keys, in_fold], "/")
    task = problem.task(feature.task)
    # Serving has no labels; what was fitted from them is then only looked up.
    label = observed = tf.zeros_like(keys, tf.float32)
    if labels is not None:
        index = problem.task_names.index(feature.task)
        label, observed = labels[:, index], tf.cast(weights[:, index] > 0, tf.float32)
    moments = analyzers.moments(f"{feature.name}_label", tf.boolean_mask(label, observed > 0))
    mean, std = (tf.cast(moment, tf.float32) for moment in moments)

    def total(part: str, value: tf.Tensor) -> tf.Tensor:
        everywhere = analyzers.sums(f"{feature.name}_{part}", keys, value)
        own_fold = analyzers.sums(f"{feature.name}_{part}_fold", fold_keys, value)
        rest = everywhere(keys) - own_fold(fold_keys)
        return tf.maximum(rest, 0.0)

    count = total("count", observed)
    above = total("above", tf.maximum(label, 0.0) * observed)
    if task.kind == "binary":
        smoothed = (above + feature.smoothing * mean) / (count + feature.smoothing)
        score = _logit(smoothed) - _logit(mean)
    else:
        below = total("below", tf.maximum(-label, 0.0) * observed)
        smoothed = (above - below + feature.smoothing * mean) / (count + feature.smoothing)
        score = (smoothed - mean) / _scale(mean, std)
    return score[:, tf.newaxis]


def _logit(p):
    p = tf.clip_by_value(p, 1e-6, 1 - 1e-6)
    return tf.math.log(p) - tf.math.log1p(-p)


def _text(value):
    return value if value.dtype == tf.string else tf.strings.as_string(value)


def _key(value):
    # A hash as text has no white space, which vocabulary files could not hold.
    return tf.strings.as_string(tf.strings.to_hash_bucket_fast(_text(value), 2**62))


def _scalar(value):
    if isinstance(value, tf.SparseTensor):
        value = tf.sparse.to_dense(value, default_value=-1)
    return tf.reshape(tf.cast(value, tf.int64), [-1])
