"""The client's REST side. It needs no TensorFlow."""

import base64
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from tfmtl.serving.client_rows import InputShape, SignatureShape
from tfmtl.serving.transport_errors import ServingError

CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
DTYPES = {"DT_STRING": "string", "DT_INT64": "int64", "DT_FLOAT": "float32", "DT_INT32": "int32"}
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


class RestTransport:
    """One session with one model; see `tfmtl.serving.transport.Transport`.

    Args:
        url: Scheme, host and port.
        model: The model's name.
        version: Its version, or `None`.
        timeout: Seconds of a call.
        attempts: How often a call is tried.
    """

    def __init__(
        self, url: str, *, model: str, version: int | None, timeout: float, attempts: int
    ) -> None:
        self._where = f"{url}, model {model!r}"
        self._url = f"{url}/v1/models/{urllib.parse.quote(model)}"
        self._of_version = self._url + (f"/versions/{version}" if version is not None else "")
        self._timeout, self._attempts = timeout, attempts
        self._session = requests.Session()

    def predict(
        self, signature: str, inputs: Mapping[str, NDArray[Any]], timeout: float | None
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        columns = {name: _plain(values) for name, values in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns})
        answer = self._call("POST", self._of_version + ":predict", timeout, body)
        outputs = answer["outputs"]
        if not isinstance(outputs, Mapping):
            # The interface leaves out the name of an only output.
            (name,) = self.signatures(timeout)[signature].outputs
            outputs = {name: outputs}
        return {name: _array(values) for name, values in sorted(outputs.items())}

    def signatures(self, timeout: float | None) -> Mapping[str, SignatureShape]:
        """See `Transport`."""
        answer = self._call("GET", self._of_version + "/metadata", timeout)
        definitions = answer["metadata"]["signature_def"]
        # TensorFlow Serving writes the map inside an object of the same name.
        definitions = definitions.get("signature_def", definitions)
        return {
            name: SignatureShape(
                {key: _shape(info) for key, info in sorted(definition["inputs"].items())},
                tuple(sorted(definition["outputs"])),
            )
            for name, definition in definitions.items()
            if not name.startswith("__")
        }

    def status(self, timeout: float | None) -> dict[int, str]:
        """See `Transport`."""
        answer = self._call("GET", self._of_version, timeout)
        return {int(s["version"]): s["state"] for s in answer["model_version_status"]}

    def close(self) -> None:
        """See `Transport`."""
        self._session.close()

    def _call(self, method: str, url: str, timeout: float | None, body: str | None = None) -> Any:
        deadline = time.monotonic() + (timeout or self._timeout)
        wait = FIRST_WAIT
        for attempt in range(1, self._attempts + 1):
            left = deadline - time.monotonic()
            try:
                return self._once(method, url, max(left, 0.001), body)
            except ServingError as error:
                again = error.code == "UNAVAILABLE" and attempt < self._attempts
                if not again or time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, url: str, timeout: float, body: str | None) -> Any:
        data = None if body is None else body.encode()
        try:
            response = self._session.request(method, url, data=data, timeout=timeout)
        except requests.Timeout:
            message = f"no answer within {timeout:.3g} s"
            raise ServingError("DEADLINE_EXCEEDED", message, self._where) from None
        except requests.RequestException as error:
            raise ServingError("UNAVAILABLE", str(error), self._where) from None
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = {"error": response.text[:500]}
        if response.status_code != 200:
            code = CODES.get(response.status_code, "UNKNOWN")
            message = answer.get("error", answer) if isinstance(answer, Mapping) else answer
            raise ServingError(code, str(message), self._where)
        return answer


def _plain(values: NDArray[Any]) -> Any:
    if values.dtype.kind not in "OS":
        return values.tolist()
    flat = np.empty(values.size, object)
    flat[:] = [_text(value) for value in values.ravel().tolist()]
    return flat.reshape(values.shape).tolist()


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        # A serialised tf.Example, for instance.
        return {"b64": base64.b64encode(value).decode()}


def _array(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind in "UO":
        flat = np.empty(array.size, object)
        flat[:] = [_bytes(value) for value in array.ravel().tolist()]
        return flat.reshape(array.shape)
    # JSON has one kind of number; models have float32.
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _bytes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return base64.b64decode(value["b64"])
    return value.encode() if isinstance(value, str) else value


def _shape(info: Mapping[str, Any]) -> InputShape:
    dims = info.get("tensor_shape", {}).get("dim", [])
    return InputShape(DTYPES.get(info["dtype"], info["dtype"]), len(dims) > 1)
