"""The JSON bodies of TensorFlow Serving's REST interface.

A request has `instances`, a list with one item a row, or `inputs`, a mapping of columns. The
answer has `predictions` or `outputs` in the same format.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.serving.server.inputs import check_arrays, check_names
from tfmtl.serving.server.loaded import Arrays, Input, Signature
from tfmtl.serving.server.options import Limits
from tfmtl.serving.server.refused import Refused, invalid

_FORMAT = (
    'a request is {"signature_name": …, "instances": [row, …]} or '
    '{"signature_name": …, "inputs": {column: values, …}}'
)
_MISSING = {
    tf.string: '""',
    tf.int64: str(int(tf.int64.min)),
    tf.float32: "NaN",
}


def signature_name(body: Any) -> str:
    """The name of the signature that a body asks.

    Raises:
        Refused: The body is not of the format.
    """
    if not isinstance(body, Mapping):
        raise invalid(f"the body is no JSON object; {_FORMAT}.")
    if ("instances" in body) == ("inputs" in body):
        raise invalid(f"the body has the keys {sorted(body)}; {_FORMAT}.")
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"signature_name={name!r} is no text.")
    return name


def arrays_of(
    signature: Signature, body: Mapping[str, Any], limits: Limits
) -> dict[str, NDArray[Any]]:
    """The inputs of a body as arrays.

    Raises:
        Refused: An input is missing, unknown, of another type or shape, or too large.
    """
    columns = _from_rows(signature, body["instances"]) if "instances" in body else body["inputs"]
    if not isinstance(columns, Mapping):
        if len(signature.inputs) != 1:
            raise invalid(
                f'signature {signature.name!r} takes {list(signature.inputs)}, so "inputs" is a '
                "mapping of columns by name."
            )
        columns = {next(iter(signature.inputs)): columns}
    check_names(signature, columns)
    arrays = {name: _array(signature.inputs[name], columns[name]) for name in signature.inputs}
    check_arrays(signature, arrays, limits)
    return arrays


def body_of(outputs: Arrays, *, by_row: bool) -> dict[str, Any]:
    """The body of an answer.

    Args:
        outputs: Arrays `[rows, …]` by name.
        by_row: Whether the request had `instances`.
    """
    columns = {name: _plain(name, array) for name, array in outputs.items()}
    if not by_row:
        (first, *more) = columns.values()
        return {"outputs": columns if more else first}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(names, row, strict=True)) for row in rows]}


def _from_rows(signature: Signature, instances: Any) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise invalid('"instances" is no list; one item a row would be right.')
    if not instances:
        raise invalid(
            f'"instances" is empty, so the inputs {list(signature.inputs)} have 0 rows; at least '
            "one row would be right."
        )
    if not isinstance(instances[0], Mapping) or set(instances[0]) == {"b64"}:
        if len(signature.inputs) != 1:
            raise invalid(
                f"row 1 is no mapping; signature {signature.name!r} takes {list(signature.inputs)}."
            )
        return {next(iter(signature.inputs)): instances}
    columns: dict[str, list[Any]] = {name: [] for name in instances[0]}
    check_names(signature, columns)
    for number, instance in enumerate(instances, 1):
        if not isinstance(instance, Mapping) or instance.keys() != columns.keys():
            try:
                check_names(signature, instance if isinstance(instance, Mapping) else ())
            except Refused as refused:
                raise invalid(f"row {number}: {refused.message}") from None
        for name, values in columns.items():
            values.append(instance[name])
    return columns


def _array(expected: Input, values: Any) -> NDArray[Any]:
    """A column's values as an array of the input's type.

    JSON gives lists of lists. Every value is checked, because NumPy would convert 3.7 to 3 and "7"
    to 7.0 without a word.
    """
    rank = len(expected.shape)
    if not isinstance(values, list):
        raise invalid(f"input {expected.name!r} is no list; {expected.describe()} is expected.")
    if rank == 1:
        converted = [_value(expected, value, row) for row, value in enumerate(values, 1)]
        return _filled(converted, expected, (len(values),))
    width = len(values[0]) if values and isinstance(values[0], list) else 0
    flat = []
    for row, inner in enumerate(values, 1):
        if not isinstance(inner, list) or len(inner) != width:
            what = f"a list of {len(inner)}" if isinstance(inner, list) else _shown(inner)
            raise invalid(
                f"input {expected.name!r}, row {row}: {what}; {expected.describe()} is expected, "
                f"with {width} values in every row. Fill up with {_MISSING.get(expected.dtype)}."
            )
        flat += [_value(expected, value, row) for value in inner]
    return _filled(flat, expected, (len(values), width))


def _filled(flat: list[Any], expected: Input, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(flat), expected.dtype.as_numpy_dtype)
    array[:] = flat
    return array.reshape(shape)


def _value(expected: Input, value: Any, row: int) -> Any:
    dtype = expected.dtype
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, Mapping) and set(value) == {"b64"} and isinstance(value["b64"], str):
            try:
                return base64.b64decode(value["b64"], validate=True)
            except binascii.Error as error:
                raise invalid(f"input {expected.name!r}, row {row}: b64: {error}.") from None
    elif not isinstance(value, bool):
        if dtype.is_floating and isinstance(value, int | float):
            return value
        if dtype.is_integer and isinstance(value, int) and dtype.min <= value <= dtype.max:
            return value
    missing = _MISSING.get(dtype)
    raise invalid(
        f"input {expected.name!r}, row {row}: {_shown(value)} is no {dtype.name}."
        + (f" A missing value is {missing}." if value is None and missing else "")
    )


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _plain(name: str, array: NDArray[Any]) -> Any:
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        encoded = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    else:
        encoded = [value.decode("utf-8", "replace") for value in array.ravel()]
    return np.array(encoded, object).reshape(array.shape).tolist()
