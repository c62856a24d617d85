"""Rows of a caller as the arrays that a signature takes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from tfmtl.data.columns import declared, plain
from tfmtl.data.types import ABSENT
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

# A list may be of any length; the model cuts it.
LONGEST_LIST = 2**31 - 1
NUMPY = {"string": np.dtype(object), "int64": np.dtype(np.int64), "float32": np.dtype(np.float32)}


@dataclasses.dataclass(frozen=True)
class InputShape:
    """What a signature takes under one name.

    Args:
        dtype: `string`, `int64`, `float32` or another name of TensorFlow's.
        is_list: Whether a row has several values.
    """

    dtype: str
    is_list: bool


Inputs = Mapping[str, InputShape]


@dataclasses.dataclass(frozen=True)
class SignatureShape:
    """The inputs and the names of the outputs of a signature."""

    inputs: Inputs
    outputs: tuple[str, ...]


def frame_of(rows: Any) -> pd.DataFrame:
    """Rows as a frame whose columns keep their Python values.

    Args:
        rows: A list of dicts, a mapping of columns, a data frame or an Arrow table.

    Raises:
        DataError: The rows are none of these.
    """
    if isinstance(rows, pd.DataFrame):
        return rows
    if isinstance(rows, pa.Table):
        # `to_pandas` would make floats of integers with gaps, and 10000000025 would become 1e10.
        return _frame({name: rows.column(name).to_pylist() for name in rows.column_names})
    if isinstance(rows, Mapping):
        lengths = {name: len(values) for name, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns need one number of rows; got {lengths}.")
        return _frame({name: list(values) for name, values in rows.items()})
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)
        return _frame({name: [row.get(name) for row in rows] for name in names}, len(rows))
    raise DataError(
        f"rows are {type(rows).__name__}; a list of dicts, a mapping of columns, a data frame or "
        "an Arrow table would be right."
    )


def arrays_of(inputs: Inputs, table: pd.DataFrame, first_row: int = 0) -> dict[str, NDArray[Any]]:
    """The columns that a signature takes, as arrays `[rows]` or `[rows, longest list]`.

    Args:
        inputs: What the signature takes.
        table: Rows, with at least those columns.
        first_row: Number of rows before these, for messages.

    Raises:
        DataError: A value is not of its column's type.
    """
    arrays = {}
    for name, shape in inputs.items():
        if shape.dtype not in NUMPY:
            raise DataError(
                f"input {name!r} is {shape.dtype}; rows can be sent to inputs of {list(NUMPY)}."
            )
        column = Column(
            name=name,
            dtype=shape.dtype,
            max_values=LONGEST_LIST if shape.is_list else 0,
        )
        values, lengths = plain(column, _declared(column, table[name], first_row))
        if shape.dtype == "string":
            values = _bytes(values)
        if lengths is not None:
            values = _padded(values, lengths, shape.dtype)
        arrays[name] = np.asarray(values, NUMPY[shape.dtype])
    return arrays


def cast(name: str, values: ArrayLike, dtype: str | None) -> NDArray[Any]:
    """Values as an array of a TensorFlow type; texts become bytes.

    Raises:
        DataError: A value cannot have that type.
    """
    array = np.asarray(values)
    if array.dtype.kind in "UO":
        return _bytes(array.ravel()).reshape(array.shape)
    if dtype is None or dtype == "string" or array.dtype.kind == "S":
        return array
    wanted = np.dtype(dtype)
    if not np.can_cast(array.dtype, wanted, "same_kind") and array.size:
        raise DataError(f"input {name!r} is {array.dtype}; {dtype} would be right.")
    return array.astype(wanted)


def _declared(column: Column, values: pd.Series, first_row: int) -> pa.Array:
    try:
        return declared(column, values)
    except DataError as error:
        # Of a column of mixed types Arrow names no row; in a later part of the rows, a wrong one.
        for row, value in enumerate(values.tolist(), first_row + 1):
            try:
                declared(column, [value])
            except DataError:
                raise DataError(
                    f"column {column.name!r}, row {row}: {value!r} is no {column.describe()}."
                ) from None
        raise error


def _frame(columns: Mapping[str, list[Any]], rows: int | None = None) -> pd.DataFrame:
    index = pd.RangeIndex(rows) if rows is not None else None
    return pd.DataFrame(
        {name: pd.Series(values, dtype=object) for name, values in columns.items()}, index=index
    )


def _bytes(values: NDArray[Any]) -> NDArray[Any]:
    encoded = np.empty(len(values), object)
    encoded[:] = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    return encoded


def _padded(flat: NDArray[Any], lengths: NDArray[Any], dtype: str) -> NDArray[Any]:
    absent = ABSENT[dtype]
    width = max(int(lengths.max(initial=0)), 1)
    filled = np.empty((len(lengths), width), NUMPY[dtype])
    filled[:] = absent.encode() if isinstance(absent, str) else absent
    filled[np.arange(width) < lengths[:, np.newaxis]] = flat
    return filled
