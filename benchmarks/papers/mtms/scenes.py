"""What a slot of MTMS costs with few and with many scenes: memory, time, and two processes for one.

Each number of scenes has a process of its own, which trains one slot. Rows grow with the scenes, so
that a scene's work is the same; every scene has a click and a conversion task, and its networks
read the first scene's tables beside their own. Peak memory is over what a process has taken that
has imported everything and read the rows.

Growth is checked on the work of the processor, which another's load on the machine disturbs less
than the time that passes: a scene of many must not cost more than a scene of fewer, but for noise.
Beside it stand a run of the same slot in two processes, and an epoch of models that have all
scenes in one: STAR, a Shared-Bottom for each scene, and one Shared-Bottom whose feature the scene
is.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contract import Result, main
from benchmarks.turns import peak_memory
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.mtms import EVERY, MTMS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import whole
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.passes import settle, train_passes
from tfmtl.mtms.slot import train_slot
from tfmtl.simulator.constants import Constants
from tfmtl.simulator.impressions import impression_log
from tfmtl.simulator.scenes import many_scenes
from tfmtl.simulator.world import draw_world

COUNTS, QUICK_COUNTS = (2, 10, 50), (2, 4)
ROWS, QUICK_ROWS = 6_000, 1_500
# A scene's cost among many over its cost among fewer; a busy machine's noise is a tenth or two.
GROWTH = 1.25
DIM, UNITS = 8, (64, 32)
TRAINING = Training(epochs=1, batch_size=512)
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "star": {"name": "star", "units": UNITS},
    "per_scene": {"name": "per_scene", "bottom_units": UNITS},
    "shared_bottom": {"name": "shared_bottom", "bottom_units": UNITS},
}
MEASURE, SLOT = "--measure", "slot"


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields each size's cost, their growth, and what stands beside them."""
    counts = QUICK_COUNTS if options.quick else COUNTS
    rows = QUICK_ROWS if options.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = {}
        for count in counts:
            _write_rows(folder, count, rows, options.seed)
            costs[count] = _measured(folder, count, SLOT)
            yield from _costs(count, costs[count])
        yield from _growth(costs)
        # Not the largest, whose slots take minutes.
        middle = counts[1]
        both = _measured(folder, middle, SLOT, workers=2)
        yield Result(
            f"scenes/{middle}/two_processes",
            costs[middle]["seconds"] / both["seconds"],
            "times",
            note=f"{costs[middle]['seconds']:.1f} s in one, {both['seconds']:.1f} s in two, "
            f"on {os.cpu_count()} cores",
        )
        for backbone in BACKBONES:
            found = _measured(folder, middle, backbone)
            yield Result(
                f"scenes/{middle}/{backbone}/epoch",
                found["seconds"],
                "s",
                note=f"{found['rows']:,} rows, with tracing; of the processor {found['cpu']:.1f} s",
                details=found,
            )


def problem(**encoding: Any) -> ProblemSpec:
    """Ids of users and ads, clicks and conversions, in scenes.

    Args:
        **encoding: Of the ids. MTMS takes hashes, the same in every slot, and its tables hold
            those that were seen; other models' tables hold what was declared.
    """
    return ProblemSpec(
        features=(
            categorical("user_id", side="user", dtype="int64", **encoding),
            categorical("segment", side="user", **encoding),
            categorical("ad_id", side="ad", dtype="int64", **encoding),
            categorical("category", side="ad", **encoding),
            categorical("advertiser_id", side="ad", dtype="int64", **encoding),
            categorical("scene", **encoding),
            categorical("position", encoding="identity", size=16),
        ),
        tasks=(
            binary("ctr", label="click"),
            binary("cvr", label="conversion", observed_if="click"),
            binary("ctcvr", label="conversion"),
        ),
        scene="scene",
        time="day",
    )


HASHED = problem(encoding="hash", size=2**30)
KNOWN = problem(encoding="vocabulary")


def experiment(count: int) -> ExperimentConfig:
    """MTMS with so many scenes, each of which reads its own tables and the first scene's."""
    names = tuple(scene.name for scene in many_scenes(count))
    return ExperimentConfig(
        name="scenes",
        problem=HASHED,
        split=whole(),
        model=Model(dim=DIM),
        training=TRAINING,
        mtms=MTMS(
            scenes=names,
            contributors={EVERY: names[:1]},
            update_units=UNITS,
            fine_tune_units=UNITS,
            fine_tune_epochs=1,
        ),
    )


def _write_rows(folder: Path, count: int, rows: int, seed: int) -> None:
    """A log of so many scenes with as many rows each, packed for MTMS and for other models."""
    _say(f"{count} scenes of {rows:,} rows")
    scenes = tuple(dataclasses.replace(scene, share=1.0) for scene in many_scenes(count))
    world = draw_world(seed, days=1, constants=Constants(scenes=scenes))
    log = impression_log(world, impressions=rows * count, days=1, seed=seed)
    for name, declared in (("hashed", HASHED), ("known", KNOWN)):
        pack = Preprocessor(declared)
        packed = {key: np.asarray(value) for key, value in pack.fit(log).items()}
        np.savez(folder / f"{name}-{count}.npz", **packed)
        if name == "known":
            (folder / f"rows-{count}.json").write_text(json.dumps(pack.table_rows()))


def _measured(folder: Path, count: int, what: str, workers: int = 1) -> dict[str, Any]:
    _say(f"{what}, {count} scenes, {workers} processes")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.papers.mtms.scenes",
            MEASURE,
            str(folder),
            str(count),
            what,
        ]
        + [str(workers)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, count: int, what: str, workers: int) -> dict[str, Any]:
    """What this process finds: a slot of MTMS, or an epoch of another model.

    Args:
        folder: Holds the rows.
        count: Number of scenes.
        what: `slot`, or a name of `BACKBONES`.
        workers: Processes to train in.

    Returns:
        `seconds` and `cpu` (of this process), `peak` in MiB, `rows`, and of a slot also
        `table_rows` and `parts`.
    """
    name = "hashed" if what == SLOT else "known"
    with np.load(folder / f"{name}-{count}.npz") as arrays:
        rows = ArrayRows(dict(arrays))
    table_rows = json.loads((folder / f"rows-{count}.json").read_text())
    found: dict[str, Any] = {"rows": rows.count()}
    taken, started, worked = peak_memory(), time.perf_counter(), time.process_time()
    if what == SLOT:
        own = str(folder / f"slot-{count}-{workers}")
        model = train_slot(experiment(count), rows, slot=0, folder=own, workers=workers, verbose=0)
        found["parts"] = count + sum(len(of_scene) for of_scene in model.networks.values())
        found["table_rows"] = int(model.tables.table.shape[0])
    else:
        network = Model(dim=DIM, backbone=BACKBONES[what])
        other = MultiTaskModel.build_from(KNOWN, table_rows, network)
        settle(other, TRAINING, rows, cold=True)
        train_passes(other, rows, passes=1, batch_size=TRAINING.batch_size, seed=0, what=what)
    return {
        **found,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - worked,
        "peak": (peak_memory() - taken) / 2**20,
    }


def _costs(count: int, cost: Mapping[str, Any]) -> Iterator[Result]:
    name, parts = f"scenes/{count}", cost["parts"]
    yield Result(
        f"{name}/slot",
        cost["seconds"],
        "s",
        note=f"{cost['rows']:,} rows in {parts} parts",
        details=cost,
    )
    yield Result(f"{name}/slot_cpu", cost["cpu"], "s", note="work of the processor")
    yield Result(f"{name}/part_cpu", cost["cpu"] / parts, "s")
    yield Result(f"{name}/peak", cost["peak"], "MiB", note="over a process that holds the rows")
    yield Result(f"{name}/table_rows", cost["table_rows"], note="of all components")


def _growth(costs: Mapping[int, Mapping[str, Any]]) -> Iterator[Result]:
    for fewer, more in itertools.pairwise(costs):
        for what in ("cpu", "peak", "seconds"):
            yield Result(
                f"scenes/{fewer}_to_{more}/{what}",
                (costs[more][what] / more) / (costs[fewer][what] / fewer),
                "times",
                at_most=None if what == "seconds" else GROWTH,
                note="a scene's cost among more, over its cost among fewer; 1 is linear",
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--seed", type=int, default=1, help="of the simulated logs")


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        folder, count, what, workers = sys.argv[2:]
        print(json.dumps(measure(Path(folder), int(count), what, int(workers))))
    else:
        sys.exit(main(__doc__, run, arguments=add_arguments))
