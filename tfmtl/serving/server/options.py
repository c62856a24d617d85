"""Settings of the server, with their defaults."""

import dataclasses

from tfmtl.declare.checks import at_least, check_settings, filled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may hold. A larger one is refused, and the server lives on.

    Args:
        message_bytes: Size of a request. TensorFlow Serving has no limit of its own for gRPC.
        value_bytes: Size of one text.
        rows: Rows of a request.
        waiting: Requests that wait for a worker.
        seconds: How long a request may take, where its client sets no shorter deadline.
    """

    message_bytes: int = 64 << 20
    value_bytes: int = 1 << 20
    rows: int = 100_000
    waiting: int = 1000
    seconds: float = 60.0

    def __post_init__(self) -> None:
        names = ("message_bytes", "value_bytes", "rows", "waiting")
        checks = dict.fromkeys(names, at_least(1))
        check_settings("limits.", self, {**checks, "seconds": at_least(0.001)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How the server runs.

    Args:
        host: Address to listen on. The default takes requests of this machine alone; the server
            has no authentication and no encryption.
        grpc_port: Port of gRPC; 0 takes a free one.
        rest_port: Port of REST; 0 takes a free one.
        poll_seconds: How often the folder is searched for a new version.
        batch_rows: Most rows that are computed together. Requests that wait for a worker at the
            same time are joined up to this number; no request waits for others to come.
        workers: Batches that are computed at the same time.
        threads: Threads of TensorFlow; 0 takes as many as there are cores.
        grace_seconds: How long requests may still run after the server was told to stop.
        limits: What a request may hold.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8500
    rest_port: int = 8501
    poll_seconds: float = 1.0
    batch_rows: int = 4096
    workers: int = 2
    threads: int = 0
    grace_seconds: float = 10.0
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self) -> None:
        checks = {
            "host": filled(),
            "poll_seconds": at_least(0.01),
            "batch_rows": at_least(1),
            "workers": at_least(1),
            "threads": at_least(0),
            "grpc_port": at_least(0),
            "rest_port": at_least(0),
            "grace_seconds": at_least(0.0),
        }
        check_settings("server.", self, checks)
