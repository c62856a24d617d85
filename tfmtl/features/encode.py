"""Raw columns to packed tensors: one function for the pipeline, a notebook and serving.

Statistics of training rows come from `Analyzers`. The arithmetic is written once, here and in
`encodings`, so the pipeline, a notebook and serving agree.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfmtl.declare.features import (
    FIRST,
    FOLD,
    MISSING,
    PADDING,
    UNKNOWN,
    Categorical,
    CountEncoding,
    Feature,
    Numerical,
    TargetEncoding,
)
from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS, has_pseudo, is_list, layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import Event, SequenceFeature
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import as_text, deviation, standardised
from tfmtl.features.events import kept_events
from tfmtl.features.raw import NO_INTEGER, dense_columns, pseudo_labels, task_labels
from tfmtl.features.shared import SharedAnalyzers

Columns = Mapping[str, tf.Tensor]


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
        analyzers: Give the fitted statistics.
        null_values: Text that means "missing". Serving needs the same texts as the readers of text
            files; otherwise `NA` would be missing in training and an unknown word in serving.

    Returns:
        `ids_{side}` int64 `[batch, …]` and `numbers_{side}` float32 `[batch, …]` for each side
        that has any, and where labels are given `labels`, `label_weights` float32 `[batch,
        tasks]`; `group` int64 `[batch]` where a request or user is declared and given.
    """
    columns = {
        name: _without_nulls(value, null_values)
        for name, value in dense_columns(problem.columns(), raw).items()
    }
    labels = weights = None
    if all(name in columns for name in problem.label_columns()):
        labels, weights = task_labels(problem, columns)
    fold = _folds(raw, columns[next(iter(problem.feature_columns()))])
    targets = _Targets(problem, fold, labels, weights)
    packed = _features(problem, columns, analyzers, targets)
    if labels is not None:
        if has_pseudo(problem):
            pseudo, pseudo_weights = pseudo_labels(problem, columns)
            labels, weights = labels + pseudo, weights + pseudo_weights
            packed[PSEUDO] = tf.cast(pseudo_weights > 0, tf.float32)
        packed[LABELS], packed[WEIGHTS] = labels, weights
    group = problem.request_id or problem.user_id
    if group is not None and group in columns:
        packed[GROUP] = tf.strings.to_hash_bucket_fast(as_text(columns[group]), 2**62)
    return packed


def _without_nulls(values: tf.Tensor, null_values: Sequence[str]) -> tf.Tensor:
    """The text, with words that mean "missing" replaced by empty text."""
    words = [word for word in null_values if word]
    if values.dtype != tf.string or not words:
        return values
    missing = tf.reduce_any(values[..., tf.newaxis] == tf.constant(words), axis=-1)
    return tf.where(missing, "", values)


@dataclasses.dataclass(frozen=True)
class _Targets:
    """Inputs of target encodings besides their column; labels and weights are `None` in serving."""

    problem: ProblemSpec
    fold: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor


def _features(
    problem: ProblemSpec, columns: Columns, analyzers: Analyzers, targets: _Targets
) -> dict[str, tf.Tensor]:
    """The packed ids and numbers of each side."""
    ids: dict[str, list[tf.Tensor]] = {}
    numbers: dict[str, list[tf.Tensor]] = {}
    shared = _Sharing(problem, columns, analyzers)
    for feature in problem.features:
        if isinstance(feature, SequenceFeature):
            ids.setdefault(feature.side, []).extend(shared.sequence(feature))
            continue
        encoded_ids, encoded_numbers = _encoded(feature, columns, shared, targets)
        ids.setdefault(feature.side, []).extend(encoded_ids)
        numbers.setdefault(feature.side, []).extend(encoded_numbers)
    layout = layout_of(problem)
    packed = {}
    for side in layout.sides:
        if layout.id_columns[side]:
            packed[f"ids_{side}"] = tf.concat(ids[side], axis=1)
        if layout.number_columns[side]:
            packed[f"numbers_{side}"] = tf.concat(numbers[side], axis=1)
    return packed


def _encoded(
    feature: Feature, columns: Columns, shared: "_Sharing", targets: _Targets
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """A feature's ids and its numbers, each `[batch, …]`."""
    assert not isinstance(feature, SequenceFeature)
    values, analyzers = columns[feature.column], shared.analyzers
    if isinstance(feature, CountEncoding):
        return [], [_count(feature, values, analyzers)]
    if isinstance(feature, TargetEncoding):
        return [], [_target(feature, values, analyzers, targets)]
    missing = _missing(feature, values)
    if isinstance(feature, Numerical):
        present = tf.boolean_mask(values, ~missing)
        values = tf.where(missing, float("nan"), values)
        encoded = feature.encoder.encode(feature.name, values, present, analyzers)
    else:
        encoded = shared.encode(feature.table, feature, values)
    ids, numbers = [], []
    if feature.encoder.has_ids:
        encoded = tf.where(encoded < 0, tf.constant(UNKNOWN, tf.int64), encoded + FIRST)
        absent = PADDING if is_list(feature) else MISSING
        encoded = tf.where(missing, tf.constant(absent, tf.int64), encoded)
        ids.append(encoded if is_list(feature) else encoded[:, tf.newaxis])
    else:
        encoded = tf.ensure_shape(encoded, [None, feature.encoder.width])
        numbers.append(tf.where(missing[:, tf.newaxis], 0.0, encoded))
    if isinstance(feature, Numerical):
        if feature.indicator:
            numbers.append(tf.cast(missing, tf.float32)[:, tf.newaxis])
    elif feature.weights is not None:
        weights = columns[feature.weights]
        numbers.append(tf.where(tf.math.is_nan(weights), 0.0, weights))
    return ids, numbers


class _Sharing:
    """Encodes values of categories and of events, where several columns may share a vocabulary.

    Args:
        problem: The declaration.
        columns: Dense raw columns.
        analyzers: Give the fitted statistics.
    """

    def __init__(self, problem: ProblemSpec, columns: Columns, analyzers: Analyzers) -> None:
        self.columns, self.analyzers = columns, analyzers
        self.events = {f.name: kept_events(f, columns) for f in problem.sequences}
        self._owners = {
            f.name: f for f in problem.features if isinstance(f, Categorical) and f.of is None
        }
        further: dict[str, list[tf.Tensor]] = {}
        for f in problem.features:
            if isinstance(f, Categorical) and f.of is not None:
                further.setdefault(f.of, []).append(_present(f, columns[f.column]))
        for f in problem.sequences:
            for event in f.events:
                if event.of is not None:
                    values = self.events[f.name].values[event.column]
                    further.setdefault(event.of, []).append(_present(event, values))
        self._shared = {
            name: SharedAnalyzers(analyzers, tf.concat(values, axis=0))
            for name, values in further.items()
        }

    def encode(self, name: str, of: Categorical | Event, values: tf.Tensor) -> tf.Tensor:
        """Ids or numbers of values, under the name of a vocabulary; see `Encoding.encode`."""
        owner = self._owners.get(name)
        # A tower that is served alone may lack the owner; there is nothing to fit on then.
        fitted_on = values if owner is None else self.columns[owner.column]
        analyzers = self._shared.get(name, self.analyzers)
        return of.encoder.encode(name, values, _present(of, fitted_on), analyzers)

    def sequence(self, feature: SequenceFeature) -> list[tf.Tensor]:
        """The ids of a sequence's columns and of its ages, each `[batch, max_length]`."""
        kept, parts = self.events[feature.name], []
        for event in feature.events:
            values = kept.values[event.column]
            name = event.of or feature.event_name(event)
            ids = self.encode(name, event, values)
            ids = tf.where(ids < 0, tf.constant(UNKNOWN, tf.int64), ids + FIRST)
            ids = tf.where(_missing(event, values), tf.constant(MISSING, tf.int64), ids)
            parts.append(tf.where(kept.valid, ids, tf.constant(PADDING, tf.int64)))
        return parts if kept.ages is None else [*parts, kept.ages]


def _present(feature: Categorical | Event, values: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(values, ~_missing(feature, values))


def _missing(feature: Categorical | Event | Numerical, values: tf.Tensor) -> tf.Tensor:
    if isinstance(feature, Numerical):
        # An infinite value would make the mean infinite, and every standardised value NaN.
        return ~tf.math.is_finite(values)
    return values == ("" if feature.dtype == "string" else NO_INTEGER)


def _count(feature: CountEncoding, values: tf.Tensor, analyzers: Analyzers) -> tf.Tensor:
    keys = _key(values)
    count, mean, std = analyzers.log_counts(feature.name, keys)
    return standardised(tf.math.log1p(count(keys)), mean, std)[:, tf.newaxis]


def _target(
    feature: TargetEncoding, values: tf.Tensor, analyzers: Analyzers, targets: _Targets
) -> tf.Tensor:
    problem, fold = targets.problem, targets.fold
    keys = _key(values)
    in_fold = tf.strings.as_string(tf.math.floormod(fold, feature.folds))
    in_fold = tf.where(fold < 0, "none", in_fold)
    fold_keys = tf.strings.join([keys, in_fold], "/")
    task = problem.task(feature.task)
    # Serving has no labels; the fitted statistics are only looked up.
    label = observed = tf.zeros_like(keys, tf.float32)
    if targets.labels is not None:
        index = problem.task_names.index(feature.task)
        label = targets.labels[:, index]
        observed = tf.cast(targets.weights[:, index] > 0, tf.float32)
    moments = analyzers.moments(f"{feature.name}_label", tf.boolean_mask(label, observed > 0))
    mean, std = (tf.cast(moment, tf.float32) for moment in moments)

    def total(part: str, value: tf.Tensor) -> tf.Tensor:
        everywhere = analyzers.sums(f"{feature.name}_{part}", keys, value)
        in_fold_sums = analyzers.sums(f"{feature.name}_{part}_fold", fold_keys, value)
        rest = everywhere(keys) - in_fold_sums(fold_keys)
        return tf.maximum(rest, 0.0)

    count = total("count", observed)
    above = total("above", tf.maximum(label, 0.0) * observed)
    if task.kind == "binary":
        smoothed = (above + feature.smoothing * mean) / (count + feature.smoothing)
        score = _logit(smoothed) - _logit(mean)
    else:
        below = total("below", tf.maximum(-label, 0.0) * observed)
        smoothed = (above - below + feature.smoothing * mean) / (count + feature.smoothing)
        score = (smoothed - mean) / deviation(mean, std)
    return score[:, tf.newaxis]


def _logit(p: tf.Tensor) -> tf.Tensor:
    p = tf.clip_by_value(p, 1e-6, 1 - 1e-6)
    return tf.math.log(p) - tf.math.log1p(-p)


def _key(values: tf.Tensor) -> tf.Tensor:
    # The text of a hash has no white space. Vocabulary files could not hold white space.
    return tf.strings.as_string(tf.strings.to_hash_bucket_fast(as_text(values), 2**62))


def _folds(raw: Mapping[str, tf.Tensor], column: tf.Tensor) -> tf.Tensor:
    """The fold per row, int64 `[batch]`; −1 if none is given, as in serving."""
    if FOLD not in raw:
        return tf.fill([tf.shape(column)[0]], tf.constant(-1, tf.int64))
    fold = raw[FOLD]
    if isinstance(fold, tf.SparseTensor):
        fold = tf.sparse.to_dense(fold, default_value=-1)
    return tf.reshape(tf.cast(fold, tf.int64), [-1])
