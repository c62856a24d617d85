"""The server: both interfaces, the search for new versions, and an orderly end."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator

from absl import logging

from tfmtl.declare.checks import shown
from tfmtl.errors import DataError
from tfmtl.serving.server.answers import Answers
from tfmtl.serving.server.batches import Batcher
from tfmtl.serving.server.grpc_service import GrpcService
from tfmtl.serving.server.monitoring import Monitoring
from tfmtl.serving.server.options import Options
from tfmtl.serving.server.rest_service import RestService
from tfmtl.serving.server.versions import Versions


class Server:
    """Serves one model. All methods are called in one event loop.

    Args:
        path: A folder of numbered versions, or one SavedModel.
        name: The model's name; by default that of the folder.
        options: Ports, limits and the rest.

    Raises:
        DataError: The folder is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        options: Options | None = None,
    ) -> None:
        self.options = options or Options()
        self.versions = Versions(os.fspath(path), threads=self.options.threads)
        self.name = name or self.versions.default_name
        limits = self.options.limits
        self._monitoring = Monitoring()
        self._batcher = Batcher(
            workers=self.options.workers,
            batch_rows=self.options.batch_rows,
            waiting=limits.waiting,
            observe=self._monitoring.batch,
        )
        self._answers = Answers(self.name, self.versions, self._batcher, self._monitoring, limits)
        self._grpc: GrpcService | None = None
        self._rest: RestService | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the newest version and begins to answer.

        Raises:
            DataError: There is no version, or the newest cannot be loaded.
            OSError: A port is taken.
        """
        if not self.versions.found():
            raise DataError(
                f"{self.versions.path} holds no SavedModel and no numbered folder with one."
            )
        await self._update()
        if self.versions.current is None:
            errors = {version: state.error for version, state in self.versions.states.items()}
            raise DataError(f"no version can be loaded: {shown(errors)}")
        host, options = self.options.host, self.options
        address = f"[{host}]:{options.grpc_port}" if ":" in host else f"{host}:{options.grpc_port}"
        self._grpc = GrpcService(self._answers, address)
        self._rest = RestService(self._answers, host, options.rest_port, options.grace_seconds)
        await self._rest.start()
        await self._grpc.start()
        self._watch = asyncio.get_running_loop().create_task(self._look_for_versions())

    @property
    def grpc_address(self) -> str:
        """Host and port of gRPC."""
        assert self._grpc is not None, "start() comes first"
        return f"{self.options.host}:{self._grpc.port}"

    @property
    def rest_url(self) -> str:
        """The URL of REST, without a path."""
        assert self._rest is not None, "start() comes first"
        return f"http://{self.options.host}:{self._rest.port}"

    async def stop(self) -> None:
        """Takes no more requests, answers those that run, and gives the memory back."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._grpc is not None:
            await self._grpc.stop(self.options.grace_seconds)
        if self._rest is not None:
            await self._rest.stop()
        await self._batcher.close()
        self.versions.close()

    async def _update(self) -> None:
        if await self.versions.update() and self.versions.current is not None:
            model = self.versions.current
            self._monitoring.serves(model.version, model.seconds_to_load)

    async def _look_for_versions(self) -> None:
        while True:
            await asyncio.sleep(self.options.poll_seconds)
            try:
                await self._update()
            except OSError:
                # A folder may vanish while it is read. The version that is loaded is still served.
                logging.exception("The folder of versions cannot be read.")


@contextlib.contextmanager
def running(
    path: str | os.PathLike[str], *, name: str | None = None, options: Options | None = None
) -> Iterator[Server]:
    """A server in a thread of this process, for tests and notebooks; free ports by default.

    Args:
        path: See `Server`.
        name: See `Server`.
        options: See `Server`.
    """
    server = Server(path, name=name, options=options or Options(grpc_port=0, rest_port=0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tfmtl-server", daemon=True)
    thread.start()
    try:
        try:
            asyncio.run_coroutine_threadsafe(server.start(), loop).result()
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
