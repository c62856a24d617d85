"""The check of a request's inputs, before anything is computed.

TensorFlow would refuse most of what is refused here, with a message about an operation in the
graph. These messages name the input.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.errors import did_you_mean
from tfmtl.serving.server.loaded import Arrays, Input, Signature
from tfmtl.serving.server.options import Limits
from tfmtl.serving.server.refused import Refused, invalid


def check_names(signature: Signature, names: Any) -> None:
    """Refuses a request that lacks an input, or has one too many.

    Raises:
        Refused: The message names the input.
    """
    given = list(names)
    for name in signature.inputs:
        if name not in given:
            raise invalid(
                f"signature {signature.name!r} takes the input {name!r}, which the request "
                f"lacks; it has {sorted(given)}.{did_you_mean(name, given)}"
            )
    for name in given:
        if name not in signature.inputs:
            raise invalid(
                f"the request has the input {name!r}, and signature {signature.name!r} takes "
                f"{list(signature.inputs)}.{did_you_mean(name, signature.inputs)}"
            )


def arrays_of(
    signature: Signature, protos: Mapping[str, Any], limits: Limits
) -> dict[str, NDArray[Any]]:
    """The inputs of a gRPC request as arrays.

    Args:
        signature: What is asked.
        protos: `TensorProto` by name.
        limits: What a request may hold.

    Raises:
        Refused: An input is missing, unknown, of another type or shape, or too large.
    """
    check_names(signature, protos)
    arrays = {
        name: _array(signature.inputs[name], protos[name], limits) for name in signature.inputs
    }
    check_arrays(signature, arrays, limits)
    return arrays


def check_arrays(signature: Signature, arrays: Arrays, limits: Limits) -> None:
    """Refuses inputs of a wrong shape, too many rows, or texts that are too long.

    Raises:
        Refused: The message names the input.
    """
    rows: dict[str, int] = {}
    for name, expected in signature.inputs.items():
        array = arrays[name]
        _check_shape(expected, array.shape)
        rows[name] = len(array)
        if not len(array):
            raise invalid(f"input {name!r} has 0 rows; at least one row would be right.")
        if len(array) > limits.rows:
            raise Refused(
                "RESOURCE_EXHAUSTED",
                f"input {name!r} has {len(array):,} rows; this server takes up to "
                f"{limits.rows:,} a request.",
            )
        if array.dtype == object:
            _check_texts(name, array, limits.value_bytes)
    most = max(rows.values(), default=0)
    for name, count in rows.items():
        # A user's vector may be one for all ads.
        if count != most and not (count == 1 and signature.inputs[name].is_vector):
            raise invalid(f"input {name!r} has {count} rows and others have {most}; got {rows}.")


def _array(expected: Input, proto: Any, limits: Limits) -> NDArray[Any]:
    name = expected.name
    if proto.dtype != expected.dtype.as_datatype_enum:
        raise invalid(f"input {name!r} is {_dtype(proto)}; {expected.describe()} is expected.")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"input {name!r} has no known shape; a tensor has one.")
    _check_shape(expected, shape)
    # A tensor of one value may claim any shape, and would be filled up to it.
    if math.prod(shape) > limits.message_bytes:
        raise Refused("RESOURCE_EXHAUSTED", f"input {name!r} of shape {shape} is too large.")
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (TypeError, ValueError) as error:
        raise invalid(f"input {name!r} is no tensor of shape {shape}: {error}") from None


def _check_shape(expected: Input, shape: tuple[int, ...]) -> None:
    fits = len(shape) == len(expected.shape) and all(
        size is None or size == given for size, given in zip(expected.shape, shape, strict=True)
    )
    if not fits:
        raise invalid(
            f"input {expected.name!r} has shape {list(shape)}; {expected.describe()} is expected."
        )


def _check_texts(name: str, array: NDArray[Any], longest: int) -> None:
    for place, value in enumerate(array.ravel()):
        if len(value) > longest:
            row = place // max(array.size // len(array), 1)
            raise invalid(
                f"input {name!r}, row {row + 1}: a text of {len(value):,} bytes; this server takes "
                f"up to {longest:,} bytes."
            )


def _dtype(proto: Any) -> str:
    try:
        return str(tf.as_dtype(proto.dtype).name)
    except TypeError:
        return f"of the unknown type {proto.dtype}"
