"""The client's gRPC side."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfmtl.serving.client_rows import InputShape, SignatureShape
from tfmtl.serving.transport_errors import ServingError

MOST_ATTEMPTS = 5
"""More than these gRPC does not make."""


class GrpcTransport:
    """One channel to one model; see `tfmtl.serving.transport.Transport`.

    Args:
        address: Host and port.
        model: The model's name.
        version: Its version, or `None`.
        timeout: Seconds of a call.
        attempts: How often a call is tried.
    """

    def __init__(
        self, address: str, *, model: str, version: int | None, timeout: float, attempts: int
    ) -> None:
        self._address, self._model, self._version = address, model, version
        self._timeout = timeout
        policy = {
            "maxAttempts": min(attempts, MOST_ATTEMPTS),
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        # An empty name is every method.
        config: dict[str, Any] = {"methodConfig": [{"name": [{}]}]}
        if attempts > 1:
            config["methodConfig"][0]["retryPolicy"] = policy
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.service_config", json.dumps(config)),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self, signature: str, inputs: Mapping[str, NDArray[Any]], timeout: float | None
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        request = predict_pb2.PredictRequest()
        self._name(request.model_spec)
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        response = self._call(self._predictions.Predict, request, timeout)
        return {
            name: np.asarray(tf.make_ndarray(value))
            for name, value in sorted(response.outputs.items())
        }

    def signatures(self, timeout: float | None) -> Mapping[str, SignatureShape]:
        """See `Transport`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec)
        response = self._call(self._predictions.GetModelMetadata, request, timeout)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(definitions)
        return {
            name: SignatureShape(
                {key: _shape(info) for key, info in sorted(definition.inputs.items())},
                tuple(sorted(definition.outputs)),
            )
            for name, definition in definitions.signature_def.items()
        }

    def status(self, timeout: float | None) -> dict[int, str]:
        """See `Transport`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        self._name(request.model_spec)
        response = self._call(self._models.GetModelStatus, request, timeout)
        names = get_model_status_pb2.ModelVersionStatus.State
        return {s.version: names.Name(s.state) for s in response.model_version_status}

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _name(self, spec: Any) -> None:
        spec.name = self._model
        if self._version is not None:
            spec.version.value = self._version

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=timeout or self._timeout)
        except grpc.RpcError as error:
            where = f"{self._address}, model {self._model!r}"
            raise ServingError(error.code().name, error.details() or "", where) from None


def _shape(info: Any) -> InputShape:
    return InputShape(tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim) > 1)
