"""Requests that a server runs before the first real one, for every signature and several sizes.

TensorFlow optimises and allocates at the first run of a signature, and again for a larger batch.
The rows are synthetic: no row, and no value, of the training data leaves with the model.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.total_value import TotalValue
from tfmtl.serving.signature_names import named_inputs

FILE = "tf_serving_warmup_requests"
SIZES = (1, 32, 512)
LIST_VALUES = 2


def synthetic_examples(columns: Mapping[str, Column], rows: int) -> list[bytes]:
    """Serialised tf.Examples with values that mean nothing."""
    arrays = {name: _values(tf.as_dtype(c.dtype), rows) for name, c in columns.items()}
    examples = []
    for row in range(rows):
        example = tf.train.Example()
        for name, column in columns.items():
            count = min(column.max_values, LIST_VALUES) or 1
            feature, values = example.features.feature[name], [arrays[name][row]] * count
            if column.dtype == "string":
                feature.bytes_list.value.extend(values)
            elif column.dtype == "int64":
                feature.int64_list.value.extend(values)
            else:
                feature.float_list.value.extend(values)
        examples.append(example.SerializeToString())
    return examples


def synthetic_inputs(
    signatures: Mapping[str, Any],
    names: Mapping[str, str],
    problem: ProblemSpec,
    value: TotalValue | None = None,
    sizes: Sequence[int] = SIZES,
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Inputs of every signature in several sizes.

    Args:
        signatures: Concrete functions by signature name.
        names: Argument name by column, as the functions were traced.
        problem: The declaration.
        value: Names the objectives that `rank` knows.
        sizes: Rows of a request.

    Yields:
        The signature's name, and arrays by the name of the input.
    """
    columns = {argument: column for column, argument in names.items()}
    for rows in sizes:
        examples = np.array(synthetic_examples(problem.feature_columns(), rows), object)
        for signature, function in signatures.items():
            specs = named_inputs(function)
            if list(specs) == ["examples"]:
                yield signature, {"examples": examples}
                continue
            inputs = {columns.get(name, name): _of_spec(spec, rows) for name, spec in specs.items()}
            if signature == "rank":
                # One user for all ads, as a request has it.
                inputs["user"] = inputs["user"][:1]
                if value is not None:
                    objective = next(iter(value.actions))
                    inputs["objective"] = np.array([objective.encode()] * rows, object)
            yield signature, inputs


def write_warmup(folder: str, requests: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
    """Writes requests as TensorFlow Serving reads them.

    Args:
        folder: `assets.extra` of the SavedModel.
        requests: Signatures and their inputs.
    """
    # Imported here, because only an export for TensorFlow Serving needs its protos.
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(os.path.join(folder, FILE)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, values in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def _of_spec(spec: tf.TensorSpec, rows: int) -> NDArray[Any]:
    values = _values(spec.dtype, rows)
    if spec.shape.rank == 1:
        return values
    return np.repeat(values[:, np.newaxis], spec.shape[1] or LIST_VALUES, axis=1)


def _values(dtype: tf.DType, rows: int) -> NDArray[Any]:
    if dtype == tf.string:
        return np.array([f"synthetic-{row}".encode() for row in range(rows)], object)
    return np.arange(rows).astype(dtype.as_numpy_dtype)
