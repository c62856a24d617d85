"""Our ExampleGen and TFX's CsvExampleGen on the same rows, in one run.

Each is the only component of a pipeline under TFX's LocalDagRunner, with TFX's default Beam
arguments, in a separate process. The time includes the whole component (driver, executor,
publishing) but not the imports. Ours runs before and after TFX's, and its times are averaged, so
that other load affects both. Ours does more work: it also checks the rows and splits them by
request into three splits. CsvExampleGen splits them by record into two.
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
CATEGORIES = {"user_id": 50_000, "ad_id": 5_000, "campaign": 300, "slot": 5}
NUMBERS = tuple(f"x{i}" for i in range(5))


@dataclasses.dataclass(frozen=True)
class Seconds:
    """The seconds of a component, by the clock and of the processor."""

    wall: float
    cpu: float


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the rows per second of both, then their ratio."""
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


if __name__ == "__main__":
    if sys.argv[1:2] == ["--component"]:
        component, rows_path, root = sys.argv[2:]
        took = _run_component(component, Path(rows_path), Path(root))
        print(json.dumps(dataclasses.asdict(took)))
    else:
        sys.exit(main(__doc__, run))
