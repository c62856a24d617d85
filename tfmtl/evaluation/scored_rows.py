"""What a model says of every row of a data set, next to what happened."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.features import raw
from tfmtl.metrics.sliced import MISSING

Predict = Callable[[tf.Tensor], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What a model said of every row, next to what happened. `N` rows, `K` tasks.

    Args:
        labels: float32 `[N, K]`, in the order of the problem's tasks.
        observed: bool `[N, K]`; false outside the task's space or where its label is missing.
        predictions: float32 `[N]` by task, in the label's unit.
        groups: int64 `[N]`, the request (or user) of a row; `None` where none is declared.
        codes: int32 `[N]` by slice column: which of its `values` a row has.
        values: Values by slice column.
    """

    labels: np.ndarray
    observed: np.ndarray
    predictions: Mapping[str, np.ndarray]
    groups: np.ndarray | None
    codes: Mapping[str, np.ndarray]
    values: Mapping[str, tuple[str | int | float, ...]]


def collect(
    predict: Predict,
    dataset: Iterable[tf.Tensor],
    problem: ProblemSpec,
    evaluation: Evaluation,
    *,
    partial: bool = False,
) -> Rows:
    """Runs a model over a data set.

    Args:
        predict: Maps serialised tf.Examples, string `[B]`, to `{task: [B]}` or `[B, 1]`.
        dataset: Batches of serialised tf.Examples, string `[B]`.
        problem: The declaration.
        evaluation: Names the slices.
        partial: Accepts a `predict` without some of the tasks, such as an older model's.

    Raises:
        DataError: The data set is empty, a slice column is not in it, or `predict` lacks a task.
    """
    group = problem.request_id or problem.user_id
    sliced = tuple(dict.fromkeys(c for columns in slicings(problem, evaluation) for c in columns))
    coders: dict[str, dict[str | int | float, int]] = {name: {} for name in sliced}
    labels, observed, groups = [], [], []
    predictions: dict[str, list[np.ndarray]] = {}
    codes: dict[str, list[np.ndarray]] = {name: [] for name in sliced}
    parse = None
    for batch in dataset:
        if parse is None:
            parse = _parser(problem, _columns(problem, sliced, batch), sliced, group)
        parts = parse(batch)
        labels.append(parts["labels"].numpy())
        observed.append(parts["observed"].numpy())
        if group is not None:
            groups.append(parts["groups"].numpy())
        for name in sliced:
            codes[name].append(_encode(parts["slices"][name].numpy(), coders[name]))
        outputs = predict(batch)
        for name in _predicted(problem, outputs, partial):
            output = np.asarray(outputs[name], np.float32).reshape(-1)
            if len(output) != len(labels[-1]):
                raise DataError(
                    f"the model returned {len(output)} values of {name!r} for "
                    f"{len(labels[-1])} rows; one value a row would be right."
                )
            predictions.setdefault(name, []).append(output)
    if not labels:
        raise DataError("there are no rows to evaluate on: the split is empty.")
    return Rows(
        labels=np.concatenate(labels),
        observed=np.concatenate(observed),
        predictions={name: np.concatenate(parts) for name, parts in predictions.items()},
        groups=_apart(np.concatenate(groups)) if group is not None else None,
        codes={name: np.concatenate(parts) for name, parts in codes.items()},
        values={name: tuple(coder) for name, coder in coders.items()},
    )


def slicings(problem: ProblemSpec, evaluation: Evaluation) -> tuple[tuple[str, ...], ...]:
    """Columns of each slicing: the scene's first, then those of `evaluation.slices`."""
    declared = [(s,) if isinstance(s, str) else tuple(s) for s in evaluation.slices]
    if problem.scene is not None:
        declared.insert(0, (problem.scene,))
    return tuple(dict.fromkeys(declared))


def _predicted(problem: ProblemSpec, outputs: Mapping[str, Any], partial: bool) -> list[str]:
    served = [task.name for task in problem.served]
    present = [name for name in served if name in outputs]
    missing = [name for name in served if name not in outputs]
    if missing and (not partial or not present):
        raise DataError(
            f"the model has no output for task {missing[0]!r}; its outputs are "
            f"{sorted(outputs)}.{did_you_mean(missing[0], outputs)}"
        )
    return present


def _columns(problem: ProblemSpec, sliced: Iterable[str], batch: tf.Tensor) -> dict[str, Column]:
    declared = problem.columns()
    columns = dict(problem.label_columns())
    group = problem.request_id or problem.user_id
    for name in (*sliced, *([group] if group else [])):
        column = declared.get(name) or _inferred(name, batch)
        if column.max_values:
            raise SpecError(
                f"column {name!r} holds lists of up to {column.max_values} values; slices and "
                "groups need one value a row."
            )
        columns[name] = column
    return columns


def _inferred(name: str, batch: tf.Tensor) -> Column:
    dtypes = {"bytes_list": "string", "int64_list": "int64", "float_list": "float32"}
    seen: set[str] = set()
    for serialised in batch.numpy():
        features = tf.train.Example.FromString(serialised).features.feature
        seen.update(features)
        kind = features[name].WhichOneof("kind") if name in features else None
        if kind is not None and getattr(features[name], kind).value:
            return Column(name=name, dtype=dtypes[kind])
    raise DataError(
        f"slice column {name!r} has no value in the first {len(batch)} rows; columns are "
        f"{sorted(seen)}.{did_you_mean(name, seen)}"
    )


def _parser(
    problem: ProblemSpec, columns: Mapping[str, Column], sliced: Iterable[str], group: str | None
) -> Callable[[tf.Tensor], dict[str, Any]]:
    spec = raw.example_spec(columns)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def parse(serialised: tf.Tensor) -> dict[str, Any]:
        values = raw.dense_columns(columns, tf.io.parse_example(serialised, spec))
        labels, weights = raw.task_labels(problem, values)
        parts = {"labels": labels, "observed": weights > 0}
        parts["slices"] = {name: values[name] for name in sliced}
        if group is not None:
            parts["groups"] = _group_ids(values[group])
        return parts

    return parse


def _group_ids(values: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.int64:
        return values
    text = values if values.dtype == tf.string else tf.strings.as_string(values)
    # 2^62 buckets: 10^7 groups collide with probability 1e-5.
    ids = tf.strings.to_hash_bucket_fast(text, 2**62)
    missing = text == "" if values.dtype == tf.string else tf.math.is_nan(values)
    return tf.where(missing, raw.NO_INTEGER, ids)


def _apart(groups: np.ndarray) -> np.ndarray:
    # Rows without an id are no group together; each becomes its own, which GAUC then skips.
    missing = groups == raw.NO_INTEGER
    groups[missing] = raw.NO_INTEGER + 1 + np.arange(missing.sum())
    return groups


def _encode(values: np.ndarray, coder: dict[str | int | float, int]) -> np.ndarray:
    codes, uniques = pd.factorize(values)
    known = [coder.setdefault(_plain(value), len(coder)) for value in uniques]
    if (codes < 0).any():
        # NaN has code -1, which as an index is the last.
        known.append(coder.setdefault(MISSING, len(coder)))
    return np.array(known, np.int32)[codes]


def _plain(value: Any) -> str | int | float:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") or MISSING
    if isinstance(value, np.integer):
        return MISSING if value == raw.NO_INTEGER else int(value)
    return float(value)
