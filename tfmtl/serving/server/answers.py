"""What both interfaces do with a request: find the model, check, compute, count."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from tfmtl.serving.server.batches import Batcher
from tfmtl.serving.server.loaded import LoadedModel, Signature
from tfmtl.serving.server.monitoring import Monitoring
from tfmtl.serving.server.options import Limits
from tfmtl.serving.server.refused import Refused
from tfmtl.serving.server.versions import Versions

Read = Callable[[Signature], Mapping[str, NDArray[Any]]]


class Answers:
    """Answers requests for one model.

    Args:
        name: The model's name.
        versions: Its versions.
        batcher: Computes.
        monitoring: Counts.
        limits: What a request may hold.
    """

    def __init__(
        self,
        name: str,
        versions: Versions,
        batcher: Batcher,
        monitoring: Monitoring,
        limits: Limits,
    ) -> None:
        self.name, self.versions, self.limits = name, versions, limits
        self.monitoring, self._batcher = monitoring, batcher

    def model(self, name: str, version: int | None) -> LoadedModel:
        """The model that a request asks.

        Raises:
            Refused: There is none of that name or version.
        """
        self.check_name(name)
        return self.versions.get(version)

    def check_name(self, name: str) -> None:
        """Refuses the name of another model.

        Raises:
            Refused: It is not this server's model.
        """
        if name != self.name:
            raise Refused(
                "NOT_FOUND", f"no model is called {name!r}; this server has {self.name!r}."
            )

    async def predict(
        self,
        api: str,
        name: str,
        version: int | None,
        signature_name: str,
        read: Read,
        seconds: float | None = None,
    ) -> tuple[LoadedModel, Signature, dict[str, NDArray[Any]]]:
        """Answers one request.

        Args:
            api: `grpc` or `rest`, for the counts.
            name: The model that is asked.
            version: Its version; `None` for the one that is served.
            signature_name: The signature; empty for the default.
            read: Makes checked arrays of the request.
            seconds: Time that the client still gives.

        Returns:
            The model and the signature that answered, and the outputs.

        Raises:
            Refused: There is no answer; the message says why.
        """
        limit = min(self.limits.seconds, seconds) if seconds is not None else self.limits.seconds
        with self.monitoring.request(api) as counted:
            model = self.model(name, version)
            signature = model.signature(signature_name)
            counted.append(signature.name)
            arrays = read(signature)
            try:
                answer = self._batcher.run(model, signature, arrays)
                outputs = await asyncio.wait_for(answer, limit)
            except asyncio.TimeoutError:
                raise Refused(
                    "DEADLINE_EXCEEDED", f"the request took longer than {limit:.3g} s."
                ) from None
            return model, signature, outputs
