"""Columns of any table in memory as Arrow arrays of their declared type.

Data frames, Arrow tables, arrays and Python lists are converted by the function that also converts
files (`tfmtl.data.types.typed`). A value therefore has the same text, id and split in all of them.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.texts import Unparsable, text_of
from tfmtl.data.types import ABSENT, KINDS, is_list, lists, typed
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

LIST_SEPARATOR = "|"
_NULL_VALUES = b"tfmtl.null_values"
NULL_VALUES = ("",)
"""Text that means "missing" in tables that can also hold nulls."""


def declared(
    column: Column,
    values: Any,
    *,
    null_values: Sequence[str] = NULL_VALUES,
    list_separator: str = LIST_SEPARATOR,
) -> pa.Array:
    """Returns values as the column's type, `[rows]`; missing ones are null.

    Args:
        column: The declaration.
        values: An Arrow array, a pandas series, a NumPy array or a sequence; for a list column
            `[rows, n]`, a list per row, or text that `list_separator` splits.
        null_values: Text that means "missing".
        list_separator: What separates the values of a list that is given as text.

    Raises:
        DataError: A value is not of the column's type; the message names the column and the row.
    """
    try:
        array = as_arrow(values, text=column.dtype == "string")
        return typed(array, column, list_separator, null_values)
    except Unparsable as error:
        if error.row is None:
            problem = error.problem.replace(" in the file", "")
            raise DataError(f"{KINDS[column.dtype]} column {column.name!r} {problem}.") from None
        raise DataError(
            f"{KINDS[column.dtype]} column {column.name!r} does not parse: row {error.row + 1}: "
            f"{error.problem}." + (f" {error.remedy}" if error.remedy else "")
        ) from None
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise DataError(
            f"column {column.name!r} cannot be read as {column.describe()}: {error}"
        ) from None


def plain(column: Column, values: pa.Array) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """An array that `declared` returned, as NumPy arrays.

    Args:
        column: The declaration.
        values: The array.

    Returns:
        The values, with missing ones as `ABSENT`, and the lengths of lists int64 `[rows]`;
        `None` for a scalar column.
    """
    lengths = None
    if is_list(values.type):
        lengths = np.nan_to_num(values.value_lengths().to_numpy(zero_copy_only=False))
        lengths, values = lengths.astype(np.int64), values.flatten()
    filled = values.fill_null(pa.scalar(ABSENT[column.dtype], values.type))
    return filled.to_numpy(zero_copy_only=False), lengths


def as_arrow(values: Any, *, text: bool = False) -> pa.Array:
    """Values of any kind as an Arrow array, NaN, NaT and `pd.NA` as nulls.

    Args:
        values: An Arrow array, a pandas series, a NumPy array or a sequence.
        text: Whether values of several types may become text together.
    """
    if isinstance(values, pa.ChunkedArray):
        return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    if isinstance(values, pa.Array):
        return values
    if hasattr(values, "numpy"):
        values = values.numpy()  # An eager tensor.
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return lists(as_arrow(values.ravel(), text=text), np.full(len(values), values.shape[1]))
    if not isinstance(values, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        values = list(values)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, OverflowError):
        rows = list(values)
        if any(isinstance(row, list | tuple | np.ndarray) for row in rows):
            return _lists(rows, text)
        if not text:
            raise
        return _texts(rows)


def _lists(rows: list[Any], text: bool) -> pa.Array:
    parts = [_parts(row) for row in rows]
    flat = as_arrow([value for part in parts for value in part], text=text)
    return lists(flat, np.array([len(part) for part in parts], np.int32))


def _parts(row: Any) -> list[Any]:
    if isinstance(row, str):
        return row.split(LIST_SEPARATOR)
    if isinstance(row, list | tuple | np.ndarray):
        return list(row)
    return [] if _is_missing(row) else [row]


def _texts(values: list[Any]) -> pa.Array:
    # Values of several types. Each type is converted on its own, so that a value has the same text
    # as in a column of that type alone.
    places: dict[type, list[int]] = {}
    for place, value in enumerate(values):
        if not _is_missing(value):
            places.setdefault(type(value), []).append(place)
    texts: list[str | None] = [None] * len(values)
    for of_type in places.values():
        converted = text_of(pa.array([values[place] for place in of_type], from_pandas=True))
        for place, value in zip(of_type, converted.to_pylist(), strict=True):
            texts[place] = value
    return pa.array(texts, pa.string())


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def with_null_values(schema: pa.Schema, null_values: Sequence[str]) -> pa.Schema:
    """A schema that records which text meant "missing" in the files that its rows come from."""
    return schema.with_metadata({_NULL_VALUES: json.dumps(list(null_values)).encode()})


def null_values_of(table: Any) -> tuple[str, ...]:
    """The texts that `with_null_values` recorded; `NULL_VALUES` for any other table."""
    metadata = table.schema.metadata if isinstance(table, pa.Table) else None
    written = (metadata or {}).get(_NULL_VALUES)
    return NULL_VALUES if written is None else tuple(json.loads(written))
