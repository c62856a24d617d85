"""What the server counts, in the format of Prometheus."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tfmtl.serving.server.refused import Refused

PATHS = ("/monitoring/prometheus/metrics", "/metrics")
"""Where REST shows the counts: TensorFlow Serving's path, and the usual one."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000)


class Monitoring:
    """Counts of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tfmtl_requests",
            "Requests by interface, signature and status.",
            ("api", "signature", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tfmtl_request_seconds",
            "Seconds of a request in the server.",
            ("api", "signature"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch_rows = Histogram(
            "tfmtl_batch_rows",
            "Rows that were computed together.",
            buckets=ROWS,
            registry=self._registry,
        )
        self._batch_requests = Histogram(
            "tfmtl_batch_requests",
            "Requests that were computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._version = Gauge(
            "tfmtl_model_version", "The version that is served.", registry=self._registry
        )
        self._load_seconds = Gauge(
            "tfmtl_model_load_seconds",
            "Seconds to load and warm up that version.",
            registry=self._registry,
        )

    @contextlib.contextmanager
    def request(self, api: str) -> Iterator[list[str]]:
        """Times a request and notes its status.

        Yields a list, to which the caller adds the name of the signature once it is known to be
        one of the model's. A name that a sender invents would be a new time series each.
        """
        start, code = time.perf_counter(), "OK"
        name: list[str] = []
        try:
            yield name
        except Refused as refused:
            code = refused.code
            raise
        except asyncio.CancelledError:
            # Its client gave up, or its deadline passed.
            code = "CANCELLED"
            raise
        except BaseException:
            code = "INTERNAL"
            raise
        finally:
            signature = name[0] if name else ""
            self._requests.labels(api, signature, code).inc()
            self._seconds.labels(api, signature).observe(time.perf_counter() - start)

    def batch(self, rows: int, requests: int) -> None:
        """Notes what was computed together."""
        self._batch_rows.observe(rows)
        self._batch_requests.observe(requests)

    def serves(self, version: int, seconds: float) -> None:
        """Notes that a version was loaded."""
        self._version.set(version)
        self._load_seconds.set(seconds)

    def text(self) -> bytes:
        """All counts."""
        return bytes(generate_latest(self._registry))
