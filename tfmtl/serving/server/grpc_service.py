"""The gRPC interface: PredictionService, ModelService and the standard health check."""

from typing import Any

import grpc
import tensorflow as tf
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfmtl.serving.server.answers import Answers
from tfmtl.serving.server.inputs import arrays_of
from tfmtl.serving.server.refused import Refused, invalid
from tfmtl.serving.server.versions import END, State

SERVICE = "tensorflow.serving.PredictionService"
# gRPC keeps 8 KB for all of a status.
LONGEST_MESSAGE = 2000


class GrpcService:
    """The gRPC side of the server.

    Args:
        answers: Answers requests.
        address: Host and port to listen on; port 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, answers: Answers, address: str) -> None:
        size = answers.limits.message_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                # Else a second server would share the port, and requests go to either.
                ("grpc.so_reuseport", 0),
            ]
        )
        add_predictions = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
        add_predictions(_Predictions(answers), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(answers), self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be listened on: {error}") from None
        if not self.port:
            raise OSError(f"{address} cannot be listened on; is it taken? Choose another port.")

    async def start(self) -> None:
        """Begins to answer."""
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more requests, and gives those that run some seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Predict(self, request: Any, context: Any) -> Any:
        """Computes one signature."""
        spec = request.model_spec
        try:
            model, signature, outputs = await self._answers.predict(
                "grpc",
                spec.name,
                _version(spec),
                spec.signature_name,
                lambda signature: arrays_of(signature, request.inputs, self._answers.limits),
                context.time_remaining(),
            )
            wanted = _wanted(request.output_filter, signature.outputs)
        except Refused as refused:
            await _abort(context, refused)
        except Exception as error:
            logging.exception("A request failed.")
            await _abort(context, Refused("INTERNAL", f"{type(error).__name__}: {error}"))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = model.version
        response.model_spec.signature_name = signature.name
        for name in wanted:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """The signatures."""
        spec = request.model_spec
        try:
            model = self._answers.model(spec.name, _version(spec))
            if list(request.metadata_field) != ["signature_def"]:
                fields = list(request.metadata_field)
                raise invalid(f"metadata_field={fields}; ['signature_def'] is the one there is.")
        except Refused as refused:
            await _abort(context, refused)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = model.version
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name in model.signatures:
            definitions.signature_def[name].CopyFrom(model.meta_graph.signature_def[name])
        response.metadata["signature_def"].Pack(definitions)
        return response

    async def Classify(self, request: Any, context: Any) -> Any:
        await _abort(context, _only_predict("Classify"))

    async def Regress(self, request: Any, context: Any) -> Any:
        await _abort(context, _only_predict("Regress"))

    async def MultiInference(self, request: Any, context: Any) -> Any:
        await _abort(context, _only_predict("MultiInference"))


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        """The states of the versions."""
        spec = request.model_spec
        states = self._answers.versions.states
        try:
            self._answers.check_name(spec.name)
            version = _version(spec)
            if version is not None:
                if version not in states:
                    raise Refused("NOT_FOUND", f"version {version} is unknown.")
                states = {version: states[version]}
        except Refused as refused:
            await _abort(context, refused)
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, state in sorted(states.items(), reverse=True):
            _put_state(response.model_version_status.add(), number, state)
        return response

    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        refused = "this server has one model; TensorFlow Serving takes another configuration."
        await _abort(context, Refused("UNIMPLEMENTED", refused))


def _put_state(status: Any, version: int, state: State) -> None:
    status.version = version
    status.state = get_model_status_pb2.ModelVersionStatus.State.Value(state.name)
    if state.name == END and state.error:
        status.status.error_code = 2
        status.status.error_message = state.error


def _version(spec: Any) -> int | None:
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        raise Refused(
            "UNIMPLEMENTED", f"version_label={spec.version_label!r}: this server has no labels."
        )
    return int(spec.version.value) if choice == "version" else None


def _wanted(names: Any, outputs: list[str]) -> list[str]:
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise invalid(f"output_filter names {unknown[0]!r}; the outputs are {outputs}.")
    return list(names) or outputs


def _only_predict(method: str) -> Refused:
    return Refused("UNIMPLEMENTED", f"{method}: the signatures are made for Predict.")


async def _abort(context: Any, refused: Refused) -> None:
    code = getattr(grpc.StatusCode, refused.code)
    await context.abort(code, refused.message[:LONGEST_MESSAGE])
