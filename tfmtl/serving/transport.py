"""How a client reaches a server: gRPC or REST, by the address."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from tfmtl.errors import SpecError
from tfmtl.serving.client_rows import SignatureShape


class Transport(Protocol):
    """One connection to one model."""

    def predict(
        self, signature: str, inputs: Mapping[str, NDArray[Any]], timeout: float | None
    ) -> dict[str, NDArray[Any]]:
        """Outputs by name, `[rows, …]`; texts are bytes."""

    def signatures(self, timeout: float | None) -> Mapping[str, SignatureShape]:
        """The signatures of the served model."""

    def status(self, timeout: float | None) -> dict[int, str]:
        """The state of each version."""

    def close(self) -> None:
        """Ends the connection."""


def transport_of(
    address: str, *, model: str, version: int | None, timeout: float, attempts: int
) -> Transport:
    """The transport for an address.

    Args:
        address: `http://host:port` for REST, `host:port` or `grpc://host:port` for gRPC.
        model: The model's name.
        version: Its version, or `None`.
        timeout: Seconds of a call.
        attempts: How often a call is tried.

    Raises:
        SpecError: The address is of another form.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        # Each transport is imported where it is used: the other one's libraries take seconds.
        from tfmtl.serving.rest_transport import RestTransport

        return RestTransport(
            address.rstrip("/"), model=model, version=version, timeout=timeout, attempts=attempts
        )
    if scheme not in ("", "grpc") or not re.fullmatch(r"(\[[^\]]+\]|[^:/]+):\d+|unix:.+", rest):
        raise SpecError(
            f"address={address!r}; 'localhost:8500' for gRPC or 'http://localhost:8501' for REST "
            "would be right."
        )
    from tfmtl.serving.grpc_transport import GrpcTransport

    return GrpcTransport(rest, model=model, version=version, timeout=timeout, attempts=attempts)
