"""Arrow arrays of any type as arrays of a declared column's type."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.declare.features import Column
from tfmtl.errors import DataError, did_you_mean

TYPES = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}
# What stands for a missing value inside a list, where a tf.Example has no null.
ABSENT = {"string": "", "int64": int(np.iinfo(np.int64).min), "float32": float("nan")}
KINDS = {"string": "text", "int64": "integer", "float32": "numerical"}


class Unparsable(Exception):
    """A value that is not of its column's type.

    Args:
        row: Index into the array that was converted, or `None` where the whole column is at
            fault.
        problem: The value, or what is wrong with the column.
    """

    def __init__(self, row: int | None, problem: str) -> None:
        super().__init__(problem)
        self.row = row
        self.problem = problem


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type of a column: a scalar, or a list where `max_values` is given."""
    scalar = TYPES[column.dtype]
    return pa.list_(scalar) if column.max_values else scalar


def arrow_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """The schema of batches with `columns`."""
    return pa.schema([(name, arrow_type(column)) for name, column in columns.items()])


def missing_column(name: str, path: str, known: list[str], hint: str = "") -> DataError:
    """The error that says a file has no column `name`."""
    shown = ", ".join(repr(k) for k in known[:60]) + (", ..." if len(known) > 60 else "")
    return DataError(
        f"file {path} has no column {name!r}; its columns are {shown}."
        f"{did_you_mean(name, known)}{hint}"
    )


def unparsable_value(column: Column, where: str, value: str) -> DataError:
    """The error that says a value is not of its column's type."""
    hint = ""
    if value.strip().lower() in ("true", "false", "yes", "no"):
        hint = f" A text label is declared with positive={value!r}."
    elif column.dtype == "int64" and value.strip().endswith(".0"):
        hint = " Write it without a fraction, or declare dtype='string'."
    return DataError(
        f"{KINDS[column.dtype]} column {column.name!r} does not parse: {where}: {value!r}.{hint}"
    )


def typed(array: pa.Array, column: Column, separator: str, nulls: Sequence[str]) -> pa.Array:
    """Returns `array` as the column's type, missing values as nulls.

    Args:
        array: Values of any type that Arrow reads.
        column: What they are declared as.
        separator: Splits text into the values of a list.
        nulls: Text that means "missing".

    Raises:
        Unparsable: A value does not fit; NaN and text in `nulls` do.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        array = pa.array(array.to_pylist(), pa.list_(kind.value_type))
        kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not column.max_values:
        if is_list:
            raise Unparsable(None, "is a list in the file; declare it with max_values=")
        return _scalars(array, column.dtype, nulls)
    if not is_list:
        array = _scalars(array, "string" if _is_text(kind) else column.dtype, nulls)
        if not _is_text(array.type):
            return lists(array.drop_null(), np.asarray(array.is_valid()).astype(np.int32))
        array = pc.split_pattern(array, separator)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    values = array.flatten()
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
    try:
        values = _scalars(values, column.dtype, nulls)
    except Unparsable as error:
        assert error.row is not None
        row = int(np.searchsorted(np.cumsum(lengths), error.row, side="right"))
        raise Unparsable(row, error.problem) from None
    return lists(pc.fill_null(values, pa.scalar(ABSENT[column.dtype], values.type)), lengths)


def lists(values: pa.Array, lengths: np.ndarray) -> pa.Array:
    """Lists of `lengths` values each, int `[rows]`; an empty list is null."""
    # ListArray.from_arrays takes no mask in the older of the two Arrows.
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    valid = pa.array(lengths > 0).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets)]
    kind = pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(lengths), buffers, children=[values])


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _scalars(array: pa.Array, dtype: str, nulls: Sequence[str]) -> pa.Array:
    kind, target = array.type, TYPES[dtype]
    if pa.types.is_nested(kind):
        raise Unparsable(
            None, f"is of type {kind} in the file; columns are scalars or lists of them"
        )
    if pa.types.is_null(kind):
        return pa.nulls(len(array), target)
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
        kind = array.type
    if pa.types.is_floating(kind):
        # An undecided choice is a null, and so NaN becomes one.
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    if _is_text(kind):
        return _from_text(array, dtype, nulls)
    if dtype == "string":
        text = array.cast(pa.string())
        if pa.types.is_floating(kind):
            # Integers with gaps become floats in many tools, and ids with them.
            text = pc.replace_substring_regex(text, r"\.0$", "")
        return text
    if pa.types.is_temporal(kind):
        raise Unparsable(None, f"is of type {kind} in the file; write it as a number")
    if dtype == "int64" and pa.types.is_floating(kind):
        return _whole(array)
    try:
        # Large integers lose digits as float32; that is what float32 means.
        return array.cast(target, safe=dtype == "int64")
    except pa.ArrowInvalid as error:
        raise Unparsable(None, f"does not fit {dtype}: {error}") from None


def _whole(array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        bad = ~np.isnan(values) & ((values != np.floor(values)) | (np.abs(values) >= 2.0**63))
        row = int(np.argmax(bad))
        raise Unparsable(row, repr(float(values[row]))) from None


def _from_text(array: pa.Array, dtype: str, nulls: Sequence[str]) -> pa.Array:
    try:
        array = array.cast(pa.string())
    except pa.ArrowInvalid:
        raise Unparsable(None, "holds bytes that are not UTF-8 text") from None
    missing = pc.is_in(array, value_set=pa.array(nulls, pa.string()))
    array = pc.if_else(missing, pa.scalar(None, pa.string()), array)
    if dtype == "string":
        return array
    array = pc.utf8_trim_whitespace(array)
    try:
        return array.cast(TYPES[dtype])
    except pa.ArrowInvalid:
        for row, value in enumerate(array):
            if not parses(value.as_py(), dtype):
                raise Unparsable(row, value.as_py()) from None
        raise


def parses(value: str | None, dtype: str) -> bool:
    """Whether Arrow reads the text as a value of `dtype`."""
    if value is None or dtype == "string":
        return True
    try:
        pa.array([value.strip()]).cast(TYPES[dtype])
    except pa.ArrowInvalid:
        return False
    return True
