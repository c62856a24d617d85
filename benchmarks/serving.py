"""Requests of 500 candidates, in process and over the wire: latency, rows per second, load.

A model of two towers with random weights, of the simulated log's features, is exported and asked:
`predict` and `serving_default` with raw rows, and `rank` with one user's vector and the vectors of
the ads. Once in this process, and once through `tfmtl serve` in a process of its own with a client
of gRPC; the difference is the server's and the client's own overhead. Then 8 clients ask as fast as
they are answered, and meanwhile a new version is pushed.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfmtl
from benchmarks.contract import Result, main
from tfmtl.declare.total_value import TotalValue
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.client import Client
from tfmtl.serving.client_rows import InputShape, arrays_of, frame_of
from tfmtl.serving.server.loaded import LoadedModel
from tfmtl.serving.transport_errors import ServingError
from tfmtl.simulator import draw_world, impression_log

CANDIDATES = 500
SIZES = (1, 50, CANDIDATES, 2000)
CLIENTS = 8
LOAD_SECONDS, QUICK_LOAD_SECONDS = 60.0, 5.0
RANK_OVER_PREDICT = 5.0
# Growth of the server's memory from the first third of the load to the last.
MOST_GROWTH = 0.10
LATENT = 8
PUSHING = ".pushing"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of requests of `rows` rows."""

    rows: int
    seconds: np.ndarray

    def result(self, name: str, note: str = "") -> Result:
        """The median, with p99 and rows per second among the details."""
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1e3
        per_second = self.rows * len(self.seconds) / self.seconds.sum()
        text = f"p99 {p99:.2f} ms, {per_second:,.0f} rows/s" + (f"; {note}" if note else "")
        details = {"p99_ms": float(p99), "rows_per_second": float(per_second)}
        return Result(name, float(p50), "ms", note=text, details=details)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's own argument."""
    parser.add_argument("--load-alone", action="store_true", help="leave out the latencies")


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields latencies per signature and size, the ratio of rank and predict, and the load test."""
    seconds = 0.3 if options.quick else 2.0
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder, "ads")
        table = export_version(versions / "1", seed=1)
        # As Pusher does: beside the versions first; it gets its name during the load.
        export_version(versions / PUSHING, seed=2)
        loaded = LoadedModel(str(versions / "1"), 1)
        inputs = {size: requests(loaded, table, size) for size in SIZES}
        of_process = {}
        sizes = () if options.load_alone else SIZES
        for size in sizes:
            for name, arrays in inputs[size].items():
                timing = timed(lambda n=name, a=arrays: loaded.signature(n)(a), size, seconds)
                of_process[name, size] = timing
                yield timing.result(f"serving/in_process/{name}/{size}")
        if not options.load_alone:
            yield rank_over_predict(of_process)
        with server(versions) as (address, process), Client(address, model="ads") as client:
            for size in sizes:
                for name, arrays in inputs[size].items():
                    timing = timed(lambda n=name, a=arrays: client.call(n, a), size, seconds)
                    inside = np.median(of_process[name, size].seconds)
                    added = (np.median(timing.seconds) - inside) * 1e3
                    note = f"{added:+.2f} ms over in process"
                    yield timing.result(f"serving/grpc/{name}/{size}", note)
            rows = table.to_pylist()[:CANDIDATES]
            timing = timed(lambda: client.predict(rows), CANDIDATES, seconds)
            yield timing.result(
                f"serving/client/dicts/{CANDIDATES}", "conversion of dicts included"
            )
            length = QUICK_LOAD_SECONDS if options.quick else LOAD_SECONDS
            yield from load(address, process.pid, versions, inputs[CANDIDATES]["predict"], length)


def export_version(path: Path, *, seed: int) -> Any:
    """Exports a model with random weights; returns the rows that it was fitted on."""
    world = draw_world(seed=1)
    table = impression_log(world, impressions=5000, seed=1)
    features = (
        tfmtl.categorical("user_id", dtype="int64", side="user"),
        tfmtl.categorical("segment", side="user"),
        tfmtl.categorical("interests", side="user", max_values=3),
        tfmtl.numerical("age", side="user"),
        *(tfmtl.numerical(f"user_dense_{i}", side="user") for i in range(LATENT)),
        tfmtl.categorical("scene", side="user"),
        tfmtl.categorical("ad_id", dtype="int64", side="ad"),
        tfmtl.categorical("advertiser_id", dtype="int64", side="ad"),
        tfmtl.categorical("category", side="ad"),
        *(tfmtl.numerical(f"ad_dense_{i}", side="ad") for i in range(LATENT)),
    )
    problem = tfmtl.ProblemSpec(
        features=features,
        tasks=(tfmtl.binary("ctr", label="click"), tfmtl.regression("cqs", label="final_cqs")),
        scene="scene",
    )
    preprocessor = tfmtl.Preprocessor(problem)
    packed = preprocessor.fit(table)
    config = tfmtl.Model(backbone={"name": "two_tower"}, dim=16)
    model = MultiTaskModel.build_from(problem, preprocessor.table_rows(), config)
    model(packed)
    generator = tf.random.Generator.from_seed(seed)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(variable.shape, stddev=0.1))
    value = TotalValue(actions={"cpc": "click", "cpm": "impression"})
    tfmtl.export(model, preprocessor, str(path), value=value)
    return table.select(list(problem.feature_columns()))


def requests(model: LoadedModel, table: Any, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Inputs of the signatures for `rows` candidates of one user."""
    frame = frame_of(table.slice(0, rows))
    shapes = {
        i.name: InputShape(i.dtype.name, len(i.shape) > 1)
        for i in model.signature("predict").inputs.values()
    }
    arrays = arrays_of(shapes, frame)
    of_user = set(model.signature("user_tower").inputs)
    user = {name: values[:1] for name, values in arrays.items() if name in of_user}
    ads = {name: values for name, values in arrays.items() if name not in of_user}
    rng = np.random.default_rng(0)
    return {
        "predict": arrays,
        "serving_default": {"examples": examples_of(arrays)},
        "rank": {
            "user": model.signature("user_tower")(user)["vector"],
            "ads": model.signature("ad_tower")(ads)["vector"],
            "bid": rng.lognormal(size=rows).astype(np.float32),
            "objective": np.array([b"cpc", b"cpm"], object)[rng.integers(0, 2, rows)],
            "rate": np.full(rows, np.nan, np.float32),
        },
    }


def examples_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The same rows as serialised tf.Examples."""
    examples = []
    for row in range(len(next(iter(arrays.values())))):
        example = tf.train.Example()
        for name, values in arrays.items():
            feature, value = example.features.feature[name], np.atleast_1d(values[row])
            kind = {"O": feature.bytes_list, "S": feature.bytes_list, "i": feature.int64_list}.get(
                value.dtype.kind, feature.float_list
            )
            kind.value.extend(value.tolist())
        examples.append(example.SerializeToString())
    return np.array(examples, object)


def timed(call: Callable[[], Any], rows: int, seconds: float) -> Timing:
    """Calls for some seconds, after a few that do not count."""
    for _ in range(5):
        call()
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 20:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return Timing(rows, np.array(taken))


def rank_over_predict(timings: dict[tuple[str, int], Timing]) -> Result:
    """How many times more rows per second `rank` makes."""
    predict, rank = (np.median(timings[n, CANDIDATES].seconds) for n in ("predict", "rank"))
    return Result(
        "serving/rank_over_predict",
        float(predict / rank),
        "times",
        at_least=RANK_OVER_PREDICT,
        note=f"{CANDIDATES} candidates, in process",
    )


@contextlib.contextmanager
def server(versions: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`tfmtl serve` in a process of its own."""
    command = [sys.executable, "-m", "tfmtl", "serve", str(versions), "--poll", "0.2"]
    command += ["--grpc-port", "0", "--rest-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("gRPC"):
                break
        yield line.split()[1], process
    finally:
        process.terminate()
        process.wait(30)


def load(
    address: str, pid: int, versions: Path, arrays: dict[str, np.ndarray], seconds: float
) -> Iterator[Result]:
    """Asks with 8 clients as fast as they are answered, and pushes a version after a third."""
    taken: list[float] = []
    errors: list[str] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        with Client(address, model="ads", timeout=30, attempts=1) as client:
            while time.monotonic() < end:
                start = time.perf_counter()
                try:
                    client.call("predict", arrays)
                except ServingError as error:
                    errors.append(str(error))
                taken.append(time.perf_counter() - start)

    memory = []
    pushed = False
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(CLIENTS)]
        while time.monotonic() < end:
            memory.append(resident_mb(pid))
            if not pushed and time.monotonic() > end - 2 * seconds / 3:
                os.rename(versions / PUSHING, versions / "2")
                pushed = True
            time.sleep(seconds / 60)
        for future in asking:
            future.result()
    rows = len(next(iter(arrays.values())))
    timing = Timing(rows, np.array(taken))
    p50, p99 = np.percentile(timing.seconds, [50, 99]) * 1e3
    yield Result(
        "serving/load/latency",
        float(p50),
        "ms",
        note=f"p99 {p99:.1f} ms, {CLIENTS} clients for {seconds:.0f} s, a version pushed meanwhile",
        details={"p99_ms": float(p99)},
    )
    yield Result("serving/load/rows_per_second", rows * len(taken) / seconds, "rows/s")
    yield Result(
        "serving/load/failed", len(errors), "requests", at_most=0, note=errors[0] if errors else ""
    )
    with Client(address, model="ads") as client:
        deadline = time.monotonic() + 30
        while (served := client.status()).get(2) != "AVAILABLE" and time.monotonic() < deadline:
            time.sleep(0.1)
    yield Result(
        "serving/load/newest_version",
        float(max((v for v, state in served.items() if state == "AVAILABLE"), default=0)),
        at_least=2,
    )
    half = memory[len(memory) // 2 : len(memory) * 3 // 4]
    last = memory[len(memory) * 3 // 4 :]
    yield Result(
        "serving/load/memory_growth",
        float(np.median(last) / np.median(half) - 1),
        at_most=MOST_GROWTH,
        note=f"{memory[0]:.0f} MB first, {np.median(half):.0f} and {np.median(last):.0f} MB in the "
        "third and last quarter",
    )


def resident_mb(pid: int) -> float:
    """Memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", text)
    return float(match.group(1)) / 1024 if match else 0.0


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=arguments))
