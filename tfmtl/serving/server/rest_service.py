"""The REST interface, of TensorFlow Serving's format: predict, status and metadata."""

import json
from typing import Any

from absl import logging
from aiohttp import web
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from tfmtl.serving.server import json_bodies
from tfmtl.serving.server.answers import Answers
from tfmtl.serving.server.monitoring import PATHS
from tfmtl.serving.server.refused import Refused, invalid

_MODEL = "/v1/models/{name:[^/:]+}"
_VERSION = _MODEL + "/versions/{version:[^/:]+}"


class RestService:
    """The REST side of the server.

    Args:
        answers: Answers requests.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        grace: Seconds that requests may still run after `stop`.
    """

    def __init__(self, answers: Answers, host: str, port: int, grace: float) -> None:
        self._answers, self._host, self._port = answers, host, port
        app = web.Application(
            middlewares=[_errors_as_json], client_max_size=answers.limits.message_bytes
        )
        for model in (_MODEL, _VERSION):
            app.router.add_post(model + ":predict", self._predict)
            app.router.add_get(model, self._status)
            app.router.add_get(model + "/metadata", self._metadata)
        for path in PATHS:
            app.router.add_get(path, self._counts)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Begins to answer.

        Raises:
            OSError: The port is taken.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Takes no more requests, and gives those that run some seconds."""
        await self._runner.cleanup()

    async def _predict(self, request: web.Request) -> web.Response:
        try:
            # The whole body first. Between finding a model and using it nothing may wait.
            body = json.loads(await request.read())
        except ValueError as error:
            raise invalid(f"the body is no JSON: {error}") from None
        _, _, outputs = await self._answers.predict(
            "rest",
            request.match_info["name"],
            _version(request),
            json_bodies.signature_name(body),
            lambda signature: json_bodies.arrays_of(signature, body, self._answers.limits),
        )
        return _json(json_bodies.body_of(outputs, by_row="instances" in body))

    async def _status(self, request: web.Request) -> web.Response:
        self._answers.check_name(request.match_info["name"])
        version, status = _version(request), self._answers.versions.status()
        if version is not None:
            known = status["model_version_status"]
            status["model_version_status"] = [s for s in known if s["version"] == str(version)]
            if not status["model_version_status"]:
                raise Refused("NOT_FOUND", f"version {version} is unknown.")
        return _json(status)

    async def _metadata(self, request: web.Request) -> web.Response:
        model = self._answers.model(request.match_info["name"], _version(request))
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name in model.signatures:
            definitions.signature_def[name].CopyFrom(model.meta_graph.signature_def[name])
        plain = json_format.MessageToDict(definitions, preserving_proto_field_name=True)
        spec = {"name": self._answers.name, "version": str(model.version), "signature_name": ""}
        return _json({"model_spec": spec, "metadata": {"signature_def": plain}})

    async def _counts(self, request: web.Request) -> web.Response:
        text = self._answers.monitoring.text()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> Any:
    try:
        return await handler(request)
    except Refused as refused:
        return _json({"error": refused.message}, refused.http_status)
    except web.HTTPException as error:
        reason = f"{request.method} {request.path}: {error.reason}"
        return _json({"error": reason}, error.status)
    except Exception as error:
        logging.exception("A request failed.")
        return _json({"error": f"{type(error).__name__}: {error}"}, 500)


def _version(request: web.Request) -> int | None:
    text = request.match_info.get("version")
    if text is None:
        return None
    if not text.isdecimal():
        raise invalid(f"version {text!r} is no number.")
    return int(text)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)
