"""Our ExampleGen and TFX's CsvExampleGen on the same rows; then the readers of raw data sets.

Each is the only component of a pipeline under TFX's LocalDagRunner, with TFX's default Beam
arguments, in a separate process. The time includes the whole component (driver, executor,
publishing) but not the imports. Ours runs before and after TFX's, and its times are averaged, so
that other load affects both. Ours does more work: it also checks the rows and splits them by
request into three splits. CsvExampleGen splits them by record into two.

The readers read generated raw files: rows (of pairs, if events are grouped) per second and the
highest memory of the process, which has no TensorFlow. Last, generated Ali-CCP rows go through the
ExampleGen's `write_examples` with the columns of AITM. `--only readers` leaves the comparison with
TFX out, `--rows 10000000` sets the number of Ali-CCP rows, and `--raw FOLDER` says where its files
are.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.contract import Result, main

ROWS, QUICK_ROWS = 1_000_000, 100_000
LEAST_RATIO = 10.0
READER_ROWS, QUICK_READER_ROWS = 400_000, 20_000
CCP_ROWS, QUICK_CCP_ROWS = 1_000_000, 20_000
MOST_MEGABYTES = 2_048.0
READERS = ("ali_ccp", "aliexpress", "user_behavior", "ijcai15")
CATEGORIES = {"user_id": 50_000, "ad_id": 5_000, "campaign": 300, "slot": 5}
NUMBERS = tuple(f"x{i}" for i in range(5))


@dataclasses.dataclass(frozen=True)
class Seconds:
    """The seconds of a component, by the clock and of the processor."""

    wall: float
    cpu: float


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the rows per second of both and their ratio, then the readers' figures."""
    if options.only != "readers":
        yield from _against_tfx(options)
    if options.only != "tfx":
        yield from _readers(options)
        yield _examples(options)


def _against_tfx(options: argparse.Namespace) -> Iterator[Result]:
    rows = QUICK_ROWS if options.quick else ROWS
    ours, tfx = compare(rows)
    for name, took in (("ours", ours), ("tfx", tfx)):
        yield Result(
            name=f"ingest/{name}",
            value=rows / took.wall,
            unit="rows/s",
            details={"rows": rows, "seconds": took.wall, "cpu_seconds": took.cpu},
        )
    yield Result(
        name="ingest/ratio",
        value=tfx.wall / ours.wall,
        unit="x",
        at_least=LEAST_RATIO,
        note=f"{tfx.cpu / ours.cpu:.1f} by processor time",
        details={"rows": rows, "cpu_ratio": tfx.cpu / ours.cpu},
    )


def _readers(options: argparse.Namespace) -> Iterator[Result]:
    """Rows per second of each reader, and the most memory that it took."""
    impressions = QUICK_READER_ROWS if options.quick else READER_ROWS
    for name in READERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "raw")
            _generated(name, path, impressions)
            took = _process("--reader", name, str(path))
        yield Result(
            name=f"ingest/reader/{name}",
            value=took["rows"] / took["wall"],
            unit="rows/s",
            note=f"{took['rows']:,} rows, {took['bytes'] / 1e6 / took['wall']:.0f} MB/s of text, "
            f"at most {took['megabytes']:,.0f} MB of memory",
            details=took,
        )


def _examples(options: argparse.Namespace) -> Result:
    """The most memory of Ali-CCP rows on their way through the ExampleGen."""
    rows = options.rows or (QUICK_CCP_ROWS if options.quick else CCP_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.raw) if options.raw else Path(folder, "raw")
        if not path.exists():
            _generated("ali_ccp", path, rows)
        took = _process("--examples", "ali_ccp", str(path), str(Path(folder, "examples")))
    return Result(
        name="ingest/examples/ali_ccp/memory",
        value=took["megabytes"],
        unit="MB",
        at_most=MOST_MEGABYTES,
        note=f"{took['rows']:,} rows, {took['rows'] / took['wall']:,.0f} rows/s",
        details=took,
    )


def _generated(name: str, path: Path, rows: int) -> None:
    # In a process of its own: what the generator keeps in memory is not the reader's.
    command = [sys.executable, "-m", "tfmtl.simulator", "--kind", name, "--out", str(path)]
    subprocess.run([*command, "--rows", str(rows)], check=True, stdout=subprocess.DEVNULL)


def _process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.ingest", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _run_reader(name: str, path: Path) -> dict[str, float]:
    from tfmtl.data.readers import open_table
    from tfmtl.data.sources import files_of
    from tfmtl.datasets.problems import PREPARATIONS

    prepared = next(iter(PREPARATIONS[name].values()))()
    start = time.perf_counter()
    columns = prepared.problem.columns()
    rows = sum(b.num_rows for b in open_table(str(path), columns, prepared.source))
    wall = time.perf_counter() - start
    size = sum(Path(file).stat().st_size for file in files_of(str(path), prepared.source))
    return {"rows": rows, "wall": wall, "bytes": size, "megabytes": _most_megabytes()}


def _run_examples(name: str, path: Path, folder: Path) -> dict[str, float]:
    from components.example_gen import REPORT, write_examples
    from tfmtl.datasets.problems import PREPARATIONS

    prepared = next(iter(PREPARATIONS[name].values()))()
    start = time.perf_counter()
    write_examples(
        str(path), str(folder), prepared.problem, prepared.split, prepared.source, slices=[]
    )
    wall = time.perf_counter() - start
    rows = json.loads(Path(folder, REPORT).read_text())["rows"]
    total = sum(rows.values()) if isinstance(rows, dict) else rows
    return {"rows": total, "wall": wall, "megabytes": _most_megabytes()}


def _most_megabytes() -> float:
    # `ru_maxrss` of a child begins at its parent's size, so the process's own high-water mark.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def compare(rows: int, *, seed: int = 1) -> tuple[Seconds, Seconds]:
    """Ingests seeded rows of 13 columns by our component and by TFX's.

    Returns:
        The seconds of ours, the mean of a run before and a run after TFX's, and the seconds of
        TFX's.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows", "rows.csv")
        path.parent.mkdir()
        write_rows(path, rows, seed)
        before, tfx, after = (
            _alone(name, path, Path(folder, str(place)))
            for place, name in enumerate(("ours", "tfx", "ours"))
        )
    return Seconds((before.wall + after.wall) / 2, (before.cpu + after.cpu) / 2), tfx


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Writes 13 columns: 6 of text, 5 numbers and 2 labels, with ten rows per request."""
    random = np.random.default_rng(seed)
    table = {"request_id": np.char.add("r", (np.arange(rows) // 10).astype(str))}
    for name, size in CATEGORIES.items():
        table[name] = np.char.add(name[0], random.integers(0, size, rows).astype(str))
    table["scene"] = random.choice(["feed", "search"], rows)
    for name in NUMBERS:
        table[name] = random.normal(size=rows).round(4)
    table["click"] = (random.random(rows) < 0.1).astype(np.int64)
    table["conversion"] = table["click"] * (random.random(rows) < 0.2)
    csv.write_csv(pa.table(table), path)


def _alone(name: str, path: Path, folder: Path) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.ingest", "--component", name]
    done = subprocess.run(
        [*command, str(path), str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    return Seconds(**json.loads(done.stdout.splitlines()[-1]))


def _run_component(name: str, path: Path, folder: Path) -> Seconds:
    # TFX is imported only here, outside of the measured time.
    from tfx import v1 as tfx

    from components.example_gen import example_gen
    from tfmtl.declare.experiment import ExperimentConfig
    from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
    from tfmtl.declare.split import by_hash

    if name == "ours":
        problem = ProblemSpec(
            features=(*map(categorical, CATEGORIES), *map(numerical, NUMBERS)),
            tasks=(
                binary("ctr", label="click"),
                binary("cvr", label="conversion", observed_if="click"),
            ),
            scene="scene",
            request_id="request_id",
        )
        split = by_hash("request_id")
        component = example_gen(
            str(path), ExperimentConfig(name="ingest", problem=problem, split=split)
        )
    else:
        component = tfx.components.CsvExampleGen(input_base=str(path.parent))
    metadata = tfx.orchestration.metadata.sqlite_metadata_connection_config(
        str(folder / "metadata.db")
    )
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="ingest",
        pipeline_root=str(folder),
        components=[component],
        metadata_connection_config=metadata,
        enable_cache=False,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    tfx.orchestration.LocalDagRunner().run(pipeline)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("tfx", "readers"), help="one half of the benchmark")
    parser.add_argument("--rows", type=int, metavar="N", help="Ali-CCP rows for the ExampleGen")
    parser.add_argument("--raw", metavar="FOLDER", help="Ali-CCP's raw files; generated otherwise")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reader"]:
        print(json.dumps(_run_reader(sys.argv[2], Path(sys.argv[3]))))
    elif sys.argv[1:2] == ["--examples"]:
        print(json.dumps(_run_examples(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
    elif sys.argv[1:2] == ["--component"]:
        component, rows_path, root = sys.argv[2:]
        took = _run_component(component, Path(rows_path), Path(root))
        print(json.dumps(dataclasses.asdict(took)))
    else:
        sys.exit(main(__doc__, run, arguments=_arguments))
