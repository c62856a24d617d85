"""Fits the preprocessing on columns in memory, for notebooks and tests, and applies it.

`Preprocessor` does in memory what Transform does in the pipeline: `fit` it on training rows, then
call it on any rows, or export it with a model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfmtl.data.columns import NULL_VALUES, declared, plain
from tfmtl.data.events import align, fate_of, late_events
from tfmtl.data.types import lists
from tfmtl.declare.features import FOLD, Column
from tfmtl.declare.layout import table_rows_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import DataError
from tfmtl.features.encode import encode
from tfmtl.features.encodings.base import as_text
from tfmtl.features.raw import DTYPES, dense
from tfmtl.features.statistics import Fitted, Fitting


class Preprocessor(tf.Module):
    """Raw columns to packed tensors, with statistics fitted on training rows.

    A value has the same text as the readers of files give it: 7, "7", and 7.0 in a column with
    missing values are one id. Text in a list column is split at "|".

    Args:
        problem: The declaration.
        null_values: Text that means "missing", here and in the exported graph. For rows from text
            files, give the `Source`'s (`prepare` takes it from the tables of `read_table`).

    Example:
        >>> from tfmtl.declare.problem import ProblemSpec, binary, numerical
        >>> problem = ProblemSpec(features=(numerical("age"),), tasks=(binary("y", label="y"),))
        >>> rows = {"age": np.float32([20, 30, 40]), "y": np.float32([0, 1, 1])}
        >>> preprocessor = Preprocessor(problem)
        >>> preprocessor.fit(rows)["numbers_context"].numpy().ravel().round(2)
        array([-1.22,  0.  ,  1.22], dtype=float32)
    """

    def __init__(self, problem: ProblemSpec, *, null_values: Sequence[str] = NULL_VALUES):
        super().__init__(name="preprocessor")
        self.problem = problem
        self.null_values = tuple(null_values)
        self._fitted: Fitted | None = None

    def fit(self, columns: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Fits on training rows and returns them packed.

        Target encodings of these rows are computed from the other folds. Rows of one request are in
        one fold.

        Args:
            columns: An Arrow table, a pandas frame, or arrays `[rows]` (for lists `[rows, n]`,
                ragged or a list per row) by raw column name.

        Raises:
            DataError: A declared feature, label or weight is not given, or a value is not of
                its column's type.
        """
        missing = [name for name in self.problem.label_columns() if name not in _names(columns)]
        if missing:
            raise DataError(
                f"labels {missing} are declared but not given; got {_names(columns)}. Without "
                "them rows can be packed once fitted, but not fitted on."
            )
        raw = self._tensors(columns)
        if FOLD not in raw:
            raw[FOLD] = self._folds(raw)
        fitting = Fitting()
        packed = encode(self.problem, raw, fitting, null_values=self.null_values)
        self._fitted = Fitted(fitting.state)
        return packed

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the packed tensors of any rows; labels may be absent."""
        if self._fitted is None:
            raise DataError("the preprocessor is not fitted; call fit(columns) on training rows.")
        raw = self._tensors(columns)
        return encode(self.problem, raw, self._fitted, null_values=self.null_values)

    def table_rows(self) -> dict[str, int]:
        """Rows of each table, by the name of its feature or `sequence/column`."""
        assert self._fitted is not None
        state = self._fitted.state
        return table_rows_of(self.problem, lambda name: len(state[f"vocabulary/{name}"]))

    def _tensors(self, columns: Any) -> dict[str, tf.Tensor]:
        if isinstance(columns, pa.Table):
            columns = dict(zip(columns.column_names, columns.columns, strict=True))
        known = self.problem.columns()
        missing = [name for name in self.problem.feature_columns() if name not in columns]
        if missing:
            raise DataError(f"columns {missing} are declared but not given; got {list(columns)}.")
        tensors = {}
        for feature in self.problem.sequences:
            columns = {**columns, **self._cut(feature, columns)}
        for name, values in columns.items():
            if name in known:
                tensors[name] = dense(known[name], self._tensor(known[name], values))
            elif name == FOLD:
                tensors[name] = self._tensor(Column(name=FOLD, dtype="int64"), values)
        return tensors

    def _cut(self, feature: SequenceFeature, columns: Mapping[str, Any]) -> dict[str, Any]:
        """A sequence's lists of the events that are kept, before they are padded to the longest.

        Columns that stand in a graph have no values yet; `encode` selects their events.
        """
        known = {column.name: column for column in feature.columns()}
        given = {name: columns[name] for name in known}
        if any(tf.is_tensor(v) and not hasattr(v, "numpy") for v in given.values()):
            return {}
        flat = {}
        for name, column in known.items():
            array = declared(column, _lists_of(given[name]), null_values=self.null_values)
            flat[name] = plain(column, array)
        row_times = None if feature.row_time is None else flat.pop(feature.row_time)[0]
        lists = align(feature, flat)  # type: ignore[arg-type]
        fate = fate_of(feature, lists, row_times)
        if feature.late == "refuse" and fate.late.any():
            raise DataError(late_events(feature, lists, fate, row_times))
        kept = lists.take(fate.kept)
        return {
            name: tf.RaggedTensor.from_row_lengths(
                tf.constant(values, DTYPES[known[name].dtype]), kept.lengths
            )
            for name, values in kept.values.items()
        }

    def _tensor(self, column: Column, values: Any) -> tf.Tensor:
        if isinstance(values, tf.SparseTensor | tf.RaggedTensor):
            return values
        if isinstance(values, tf.Tensor):
            # A tensor of the declared type needs no conversion; a graph tensor has no values yet.
            if values.dtype == DTYPES[column.dtype] or not hasattr(values, "numpy"):
                return values
        array = declared(column, values, null_values=self.null_values)
        flat, lengths = plain(column, array)
        tensor = tf.constant(flat, DTYPES[column.dtype])
        return tensor if lengths is None else tf.RaggedTensor.from_row_lengths(tensor, lengths)

    def _folds(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        name = self.problem.request_id or self.problem.user_id
        if name is not None and name in raw:
            return tf.strings.to_hash_bucket_fast(as_text(raw[name]), 2**31)
        first = next(iter(self.problem.feature_columns()))
        return tf.range(tf.shape(raw[first], out_type=tf.int64)[0])


def _lists_of(values: Any) -> Any:
    """An eager ragged or sparse tensor as a list per row, any other values as they are."""
    if isinstance(values, tf.SparseTensor):
        values = tf.RaggedTensor.from_sparse(values)
    if not isinstance(values, tf.RaggedTensor):
        return values
    flat = values.flat_values.numpy()
    if flat.dtype.kind == "O":
        flat = np.array([value.decode() for value in flat], object)
    return lists(pa.array(flat), values.row_lengths().numpy())


def _names(columns: Any) -> list[str]:
    return list(columns.column_names if isinstance(columns, pa.Table) else columns)
