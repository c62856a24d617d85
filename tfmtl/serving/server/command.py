"""The command line of `tfmtl serve`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from tfmtl.errors import DataError, SpecError
from tfmtl.serving.server.options import Limits, Options
from tfmtl.serving.server.serve import Server
from tfmtl.text import LINE_BREAK, printable

HELP = """\
Serves an exported model by TensorFlow Serving's interface, gRPC and REST, on this machine. It is
made for a laptop and for tests; production uses TensorFlow Serving, which answers the same clients.

PATH is the folder of a model's versions, such as serving/ads with serving/ads/1 in it. A version
that appears there later is loaded, and then answers; no request fails meanwhile. PATH may also be
the folder of one version.
"""
EXAMPLE = """\
example:
  tfmtl serve serving/ads
  curl http://localhost:8501/v1/models/ads
  curl http://localhost:8501/v1/models/ads/metadata
  curl http://localhost:8501/metrics
and in Python:
  from tfmtl.serving import Client
  Client("localhost:8500", model="ads").predict([{"user_id": "u7", "ad_id": "a1"}])
"""


def main(argv: Sequence[str] | None = None, *, prog: str = "tfmtl serve") -> int:
    """Runs the command until it is told to stop; returns its exit status."""
    arguments = _parser(prog).parse_args(argv)
    try:
        server = Server(arguments.path, name=arguments.name, options=_options(arguments))
        asyncio.run(_serve(server))
    except (DataError, SpecError, OSError) as error:
        print(f"error: {printable(error, keep=LINE_BREAK)}", file=sys.stderr)
        return 1
    return 0


async def _serve(server: Server) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
        print(f"model    {server.name}, version {_version(server)}, of {server.versions.path}")
        print(f"gRPC     {server.grpc_address}")
        print(f"REST     {server.rest_url}/v1/models/{server.name}:predict")
        print(f"metrics  {server.rest_url}/metrics")
        print("For a laptop and for tests: in production use TensorFlow Serving.", flush=True)
        await stop.wait()
        print("stopping", flush=True)
    finally:
        await server.stop()


def _version(server: Server) -> int | None:
    return server.versions.current.version if server.versions.current else None


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        rest_port=arguments.rest_port,
        poll_seconds=arguments.poll,
        batch_rows=arguments.batch_rows,
        workers=arguments.workers,
        threads=arguments.threads,
        limits=Limits(
            message_bytes=arguments.max_message_bytes,
            value_bytes=arguments.max_value_bytes,
            rows=arguments.max_rows,
            seconds=arguments.timeout,
        ),
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default, limits = Options(), Limits()
    add = parser.add_argument
    add("path", metavar="PATH", help="folder of versions, or of one SavedModel")
    add("--name", help="the model's name; by default the folder's")
    add(
        "--host",
        default=default.host,
        help="address to listen on (%(default)s: this machine alone; there is no authentication)",
    )
    for flag, value, text in (
        ("--grpc-port", default.grpc_port, "port of gRPC; 0 takes a free one"),
        ("--rest-port", default.rest_port, "port of REST; 0 takes a free one"),
        ("--batch-rows", default.batch_rows, "most rows that are computed together"),
        ("--workers", default.workers, "batches that are computed at the same time"),
        ("--threads", default.threads, "threads of TensorFlow; 0 is one per core"),
        ("--max-message-bytes", limits.message_bytes, "largest request"),
        ("--max-value-bytes", limits.value_bytes, "longest text in a request"),
        ("--max-rows", limits.rows, "most rows of a request"),
    ):
        add(flag, metavar="N", type=int, default=value, help=f"{text} (%(default)s)")
    for flag, seconds, text in (
        ("--poll", default.poll_seconds, "how often to look for a new version"),
        ("--timeout", limits.seconds, "longest time of a request"),
    ):
        help_text = f"{text} (%(default)s)"
        add(flag, metavar="SECONDS", type=float, default=seconds, help=help_text)
    return parser
