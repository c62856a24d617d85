"""The text of a value, which is the same for every type. Ids, splits and hashes are based on it.

| value | text |
|---|---|
| an integer of any width, a whole float up to 2**53, a decimal without a fraction | `7` |
| any other float or decimal | `0.5`, its shortest form |
| a boolean | `True`, `False`, as Python and pandas write it |
| a date | `2024-01-02` |
| a timestamp | `2024-01-02 03:04:05.25`, in UTC with a `Z` if it has a time zone |
| text, and bytes that are UTF-8 | unchanged |
"""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EXACT = 2**53
"""Up to here, float64 holds every whole number; above, several ids become the same float."""
EXACT_FLOAT32 = 2**24


class Unparsable(Exception):
    """A value that is not of its column's type.

    Args:
        row: Index into the array that was converted, or `None` if the whole column is
            wrong.
        problem: The value, or what is wrong with the column.
        remedy: What would be right, if the value alone does not show it.
    """

    def __init__(self, row: int | None, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.row = row
        self.problem = problem
        self.remedy = remedy


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text, or bytes that may be text."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def text_of(array: pa.Array, *, exact: bool = True) -> pa.Array:
    """Scalars of any type as text; missing values and NaN as nulls.

    Args:
        array: The values.
        exact: Whether whole floats above 2**53 are refused, because they no longer tell ids apart.

    Raises:
        Unparsable: A float is whole and above 2**53, bytes are not UTF-8, or values of the type
            have no text.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    if is_text(kind):
        return _decoded(array)
    if pa.types.is_boolean(kind):
        return pc.if_else(array, "True", "False")
    if pa.types.is_floating(kind):
        return _of_floats(array, exact)
    if pa.types.is_decimal(kind):
        return pa.array([_of_decimal(value) for value in array.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind):
        return _of_timestamps(array)
    if pa.types.is_integer(kind) or pa.types.is_date(kind):
        return array.cast(pa.string())
    if pa.types.is_time(kind):
        return _without_zeros(array.cast(pa.string()))
    raise Unparsable(None, f"is of type {kind} in the file, which has no one text")


def _decoded(array: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            try:
                value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                raise Unparsable(row, repr(value), "It is not UTF-8 text.") from None
        raise


def _of_floats(array: pa.Array, exact: bool) -> pa.Array:
    if pa.types.is_float16(array.type):
        values = array.to_numpy(zero_copy_only=False)
        array = pa.array(values.astype(np.float32), from_pandas=True)
    array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    whole = np.isfinite(values) & (values == np.rint(values))
    beyond = whole & (np.abs(values) > EXACT)
    whole &= ~beyond
    if exact and beyond.any():
        row = int(np.argmax(beyond))
        raise Unparsable(
            row,
            repr(float(values[row])),
            "A float holds whole numbers exactly up to 2**53 only, so that ids above it are no "
            "longer told apart. Write them as integers or as text.",
        )
    # Arrow writes a float as 1e+10, but an integer as 10000000000.
    plain = pa.array(np.where(whole, values, 0).astype(np.int64)).cast(pa.string())
    return pc.if_else(pa.array(whole), plain, array.cast(pa.string()))


def _of_decimal(value: decimal.Decimal | None) -> str | None:
    if value is None:
        return None
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _of_timestamps(array: pa.Array) -> pa.Array:
    if array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    # Arrow writes a different number of zeros for seconds and for nanoseconds.
    return _without_zeros(array.cast(pa.string()))


def _without_zeros(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, r"(\.\d*?)0+(Z?)$", r"\1\2")
    return pc.replace_substring_regex(text, r"\.(Z?)$", r"\1")
