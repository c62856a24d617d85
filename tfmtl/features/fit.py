"""Statistics fitted on columns in memory, for notebooks and tests; what was fitted, for serving.

`Preprocessor` is the in-memory twin of the pipeline's Transform: `fit` on training rows, then
call it on any rows, or export it with a model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf

from tfmtl.declare.features import FIRST, FOLD
from tfmtl.declare.layout import fixed_table_rows, has_ids
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.features.encode import Lookup, encode
from tfmtl.features.raw import DTYPES, NO_INTEGER, dense

State = dict[str, Any]


class Preprocessor(tf.Module):
    """Raw columns to packed tensors, with statistics fitted on training rows.

    Args:
        problem: The declaration.

    Example:
        >>> from tfmtl.declare.problem import ProblemSpec, binary, numerical
        >>> problem = ProblemSpec(features=(numerical("age"),), tasks=(binary("y", label="y"),))
        >>> rows = {"age": np.float32([20, 30, 40]), "y": np.float32([0, 1, 1])}
        >>> preprocessor = Preprocessor(problem)
        >>> preprocessor.fit(rows)["numbers_context"].numpy().ravel().round(2)
        array([-1.22,  0.  ,  1.22], dtype=float32)
    """

    def __init__(self, problem: ProblemSpec):
        super().__init__(name="preprocessor")
        self.problem = problem
        self._fitted: _Fitted | None = None

    def fit(self, columns: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Fits on training rows and returns them packed.

        Target encodings of these rows come from other folds; rows that share a request share
        a fold.

        Args:
            columns: An Arrow table, a pandas frame, or arrays `[rows]` (for lists `[rows, n]`,
                ragged or a list a row) by raw column name.

        Raises:
            DataError: A declared feature, label or weight is not given.
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
        fitting = _Fitting()
        packed = encode(self.problem, raw, fitting)
        self._fitted = _Fitted(fitting.state)
        return packed

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the packed tensors of any rows; labels may be absent."""
        if self._fitted is None:
            raise DataError("the preprocessor is not fitted; call fit(columns) on training rows.")
        return encode(self.problem, self._tensors(columns), self._fitted)

    def table_rows(self) -> dict[str, int]:
        """Rows of each feature's table, by feature name."""
        assert self._fitted is not None
        state = self._fitted.state
        return {
            f.name: fixed_table_rows(f) or len(state[f"vocabulary/{f.name}"]) + FIRST
            for f in self.problem.features
            if has_ids(f)
        }

    def _tensors(self, columns):
        if isinstance(columns, pa.Table):
            columns = dict(zip(columns.column_names, columns.columns, strict=True))
        declared = self.problem.columns()
        missing = [name for name in self.problem.feature_columns() if name not in columns]
        if missing:
            raise DataError(f"columns {missing} are declared but not given; got {list(columns)}.")
        tensors = {}
        for name, values in columns.items():
            if name in declared:
                column = declared[name]
                values = _lists(values) if column.max_values else values
                tensors[name] = dense(column, _tensor(values, column.dtype))
            elif name == FOLD:
                tensors[name] = _tensor(values, "int64")
        return tensors

    def _folds(self, raw):
        name = self.problem.request_id or self.problem.user_id
        if name in raw:
            values = raw[name]
            text = values if values.dtype == tf.string else tf.strings.as_string(values)
            return tf.strings.to_hash_bucket_fast(text, 2**31)
        first = next(iter(self.problem.feature_columns()))
        return tf.range(tf.shape(raw[first], out_type=tf.int64)[0])


def _names(columns) -> list[str]:
    return list(columns.column_names if isinstance(columns, pa.Table) else columns)


def _lists(values):
    """Python lists, one a row, as an Arrow column; all else as it is."""
    if isinstance(values, tf.Tensor | tf.SparseTensor | tf.RaggedTensor):
        return values
    if isinstance(values, pa.ChunkedArray | pa.Array):
        kind = values.type
        if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return values.cast(pa.list_(kind.value_type))
        return values
    array = np.asarray(values, None if hasattr(values, "dtype") else object)
    if array.dtype == object and array.ndim == 1:
        return pa.array([None if _is_null(row) else list(row) for row in array])
    return values


def _is_null(row) -> bool:
    return row is None or row is pd.NA or (isinstance(row, float) and row != row)


def _plain(values: pd.Series, dtype: str) -> np.ndarray:
    # `pd.NA` is no number to NumPy.
    if dtype == "string":
        return values.astype(object).where(values.notna(), None).to_numpy()
    if dtype == "int64":
        return values.astype("Int64").fillna(NO_INTEGER).to_numpy(np.int64)
    return values.to_numpy(np.float64, na_value=np.nan)


def _whole(array: np.ndarray) -> np.ndarray:
    # A gap makes floats of pandas' integers; 7 is the same id as ever, not "7.0".
    if array.dtype.kind != "f":
        return array
    whole = np.abs(array) < 2**53
    whole[whole] = array[whole] == np.rint(array[whole])
    found = array.astype(object)
    found[whole] = array[whole].astype(np.int64)
    return found


def _tensor(values, dtype):
    if isinstance(values, tf.Tensor | tf.SparseTensor | tf.RaggedTensor):
        return values
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        if pa.types.is_list(values.type):
            lengths = np.nan_to_num(values.value_lengths().to_numpy(zero_copy_only=False))
            flat = _tensor(values.flatten(), dtype)
            return tf.RaggedTensor.from_row_lengths(flat, lengths.astype(np.int64))
        # A gap in floats is NaN in NumPy, which is filled below.
        if dtype == "int64" and pa.types.is_integer(values.type):
            values = values.cast("int64").fill_null(NO_INTEGER)
        values = values.to_numpy(zero_copy_only=False)
    if isinstance(values, pd.Series) and not isinstance(values.dtype, np.dtype):
        values = _plain(values, dtype)
    array = np.asarray(values)
    if dtype == "int64" and array.dtype.kind == "f":
        array = np.where(np.isnan(array), NO_INTEGER, array).astype(np.int64)
    elif dtype == "string" and array.dtype.kind != "S":
        text = pd.Series(_whole(array).ravel(), dtype=object)
        array = text.where(text.notna(), "").astype(str).to_numpy().reshape(array.shape)
    return tf.constant(array, DTYPES[dtype])


class _Fitting:
    """Analyzers that fit at once, on eager tensors that hold all training rows."""

    def __init__(self) -> None:
        self.state: State = {}

    def vocabulary(self, name, values, size, min_count) -> Lookup:
        # Hashing, then sorting the few distinct values; np.unique would sort every row's text.
        found = pd.Series(values.numpy()).value_counts(sort=False).sort_index()
        tokens, counts = found.index.to_numpy(), found.to_numpy()
        tokens, counts = tokens[counts >= min_count], counts[counts >= min_count]
        # Most frequent first, ties by the greater value first, as TensorFlow Transform does.
        order = np.argsort(-counts[::-1], kind="stable")
        tokens = tokens[::-1][order][:size]
        self.state[f"vocabulary/{name}"] = tokens
        return _Fitted(self.state).vocabulary(name, values, size, min_count)

    def moments(self, name, values):
        found = values.numpy().astype(np.float64)
        mean, std = (found.mean(), found.std()) if found.size else (0.0, 1.0)
        self.state[f"moments/{name}"] = np.float32([mean, std])
        return tf.constant(mean, tf.float32), tf.constant(std, tf.float32)

    def quantiles(self, name, values, bins):
        found = values.numpy()
        edges = (
            np.quantile(found, np.linspace(0, 1, bins + 1)) if found.size else np.zeros(bins + 1)
        )
        self.state[f"quantiles/{name}"] = edges.astype(np.float32)
        return tf.constant(edges, tf.float32)

    def sums(self, name, keys, values) -> Lookup:
        inverse, tokens = pd.factorize(keys.numpy())
        totals = np.bincount(inverse, values.numpy(), len(tokens)).astype(np.float32)
        kept = totals > 0
        self.state[f"sums/{name}"] = (tokens[kept], totals[kept])
        return _Fitted(self.state).sums(name, keys, values)


class _Fitted(tf.Module):
    """Analyzers that answer from what was fitted."""

    def __init__(self, state: State):
        super().__init__(name="fitted")
        self.state = state
        self.tables: dict[str, tf.lookup.StaticHashTable] = {}
        for name, value in state.items():
            kind = name.split("/")[0]
            if kind == "vocabulary":
                dtype = tf.int64 if value.dtype.kind == "i" else tf.string
                ids = tf.range(len(value), dtype=tf.int64)
                self.tables[name] = _table(tf.constant(value, dtype), ids, -1)
            elif kind == "sums":
                keys, totals = value
                self.tables[name] = _table(tf.constant(keys, tf.string), totals, 0.0)

    def vocabulary(self, name, values, size, min_count) -> Lookup:
        return self.tables[f"vocabulary/{name}"].lookup

    def moments(self, name, values):
        mean, std = self.state[f"moments/{name}"]
        return tf.constant(mean), tf.constant(std)

    def quantiles(self, name, values, bins):
        return tf.constant(self.state[f"quantiles/{name}"])

    def sums(self, name, keys, values) -> Lookup:
        return self.tables[f"sums/{name}"].lookup


def _table(keys, values, default):
    if not len(keys):
        # TensorFlow has no empty table; one value that maps to the default is as good.
        keys = tf.constant([b"" if keys.dtype == tf.string else NO_INTEGER], keys.dtype)
        values = tf.constant([default], tf.int64 if isinstance(default, int) else tf.float32)
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, values), default_value=default
    )
