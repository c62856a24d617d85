"""Converts Arrow arrays of any type to the type of a declared column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.texts import EXACT, Unparsable, is_text, text_of
from tfmtl.declare.features import Column
from tfmtl.errors import DataError, did_you_mean

TYPES = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}
# The missing value inside a list: a tf.Example has no null.
ABSENT = {"string": "", "int64": int(np.iinfo(np.int64).min), "float32": float("nan")}
# Common words for a missing value, in lower case, and for an outcome that did not or did happen.
NOTHING = ("n/a", "#n/a", "na", "nan", "null", "none", "nil", "-", "--", "?", ".", "\\n", "missing")
OPPOSITES = {"no": "yes", "false": "true", "n": "y", "f": "t", "off": "on"}
POSITIVES = ("click", "clicked", "conversion", "converted", "buy", "bought", "purchase", "positive")
KINDS = {"string": "text", "int64": "integer", "float32": "numerical"}


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


def double_column(name: str, path: str, known: list[str]) -> DataError:
    """The error that says a file has several columns `name`."""
    places = [str(place) for place, other in enumerate(known, 1) if other == name]
    return DataError(
        f"file {path} has {len(places)} columns {name!r}, in places {' and '.join(places)}: which "
        "one is meant nobody can tell. Give each a name of its own."
    )


def unparsable_value(column: Column, where: str, value: str, remedy: str = "") -> DataError:
    """The error that says a value is not of its column's type.

    Args:
        column: What the value should be.
        where: File and line.
        value: The value.
        remedy: What would be right, if the value alone does not show it.
    """
    remedy = remedy or _remedy(column, value.strip())
    return DataError(
        f"{KINDS[column.dtype]} column {column.name!r} does not parse: {where}: {value!r}."
        + (f" {remedy}" if remedy else "")
    )


def _remedy(column: Column, value: str) -> str:
    word = value.lower()
    if word in NOTHING:
        return (
            f"Where it means that there is no value, say so by Source(null_values=({value!r}, ''))."
        )
    if column.dtype == "int64":
        return (
            "Write it without a fraction, or declare dtype='string'." if word.endswith(".0") else ""
        )
    if word in OPPOSITES:
        return _positive(_cased(OPPOSITES[word], value))
    return _positive(value) if word in OPPOSITES.values() or word in POSITIVES else ""


def _positive(value: str) -> str:
    return f"A text label is declared with the value that means 1: positive={value!r}."


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


def typed(array: pa.Array, column: Column, separator: str, nulls: Sequence[str]) -> pa.Array:
    """Returns `array` as the column's type, missing values as nulls.

    Args:
        array: Values of any type that Arrow reads.
        column: The declaration.
        separator: Splits text into the values of a list.
        nulls: Text that means "missing".

    Raises:
        Unparsable: A value is not of the type. NaN and text in `nulls` are accepted, as missing.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        array = pa.array(array.to_pylist(), pa.list_(kind.value_type))
        kind = array.type
    if not column.max_values:
        if is_list(kind):
            raise Unparsable(None, "is a list in the file; declare it with max_values=")
        return _scalars(array, column.dtype, nulls)
    split = False
    if not is_list(kind):
        array = _scalars(array, "string" if is_text(kind) else column.dtype, nulls)
        if not is_text(kind):
            return lists(array.drop_null(), np.asarray(array.is_valid()).astype(np.int32))
        array, split = pc.split_pattern(array, separator), True
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    values = array.flatten()
    if split:
        values = pc.utf8_trim_whitespace(values)
    try:
        values = _scalars(values, column.dtype, nulls)
    except Unparsable as error:
        row = error.row
        if row is not None:
            row = int(np.searchsorted(np.cumsum(lengths), row, side="right"))
        raise Unparsable(row, error.problem, error.remedy) from None
    return lists(pc.fill_null(values, pa.scalar(ABSENT[column.dtype], values.type)), lengths)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists of any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def lists(values: pa.Array, lengths: NDArray[Any]) -> pa.Array:
    """Lists of `lengths` values each, int `[rows]`; an empty list is null."""
    # ListArray.from_arrays has no mask argument in the older of the two Arrow versions.
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    valid = pa.array(lengths > 0).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets)]
    kind = pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(lengths), buffers, children=[values])


def _scalars(array: pa.Array, dtype: str, nulls: Sequence[str]) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_nested(kind):
        raise Unparsable(
            None, f"is of type {kind} in the file; columns are scalars or lists of them"
        )
    if dtype == "string" or is_text(kind):
        text = text_of(array)
        return _from_text(text, dtype, nulls) if is_text(kind) else text
    if pa.types.is_null(kind):
        return pa.nulls(len(array), TYPES[dtype])
    if pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        raise Unparsable(None, f"is of type {kind} in the file; write it as a number")
    return _integers(array) if dtype == "int64" else _floats(array)


def _integers(array: pa.Array) -> pa.Array:
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        bad = ~np.isnan(values) & ((values != np.rint(values)) | (np.abs(values) > EXACT))
        if bad.any():
            row = int(np.argmax(bad))
            raise Unparsable(row, repr(float(values[row])))
        return pa.array(np.nan_to_num(values).astype(np.int64), mask=np.isnan(values))
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            if value is not None and (value != int(value) or abs(value) >= 2**63):
                raise Unparsable(row, str(value)) from None
        raise


def _floats(array: pa.Array) -> pa.Array:
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            # `from_pandas` makes a null of each NaN.
            return pa.array(values.astype(np.float32), from_pandas=True)
    # Large integers lose digits in float32, as declared.
    return array.cast(pa.float32(), safe=False)


def _from_text(array: pa.Array, dtype: str, nulls: Sequence[str]) -> pa.Array:
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
