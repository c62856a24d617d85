"""The cost of a slot of MTMS with few and with many scenes: memory, time, and two processes.

For each number of scenes, a separate process trains one slot. The number of rows per scene is
constant, so the work per scene is the same. Every scene has a click and a conversion task, and its
networks read the first scene's tables and their own. Peak memory is the memory above that of a
process that has imported everything and read the rows.

The growth is checked in processor time, which depends less on other load than the time by the
clock: apart from noise, the cost per scene must not grow with the number of scenes. For comparison
there are a run of the same slot in two processes, and an epoch of single models for all scenes:
STAR, one Shared-Bottom per scene, and one Shared-Bottom with the scene as a feature.
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
# The cost per scene with many scenes divided by that with few. Noise is 10 to 20 % on a busy
# machine.
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
    """Yields the cost of each size, its growth, and the comparisons."""
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
        # The largest size would take minutes.
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
            cost = _measured(folder, middle, backbone)
            yield Result(
                f"scenes/{middle}/{backbone}/epoch",
                cost["seconds"],
                "s",
                note=f"{cost['rows']:,} rows, with tracing; processor time {cost['cpu']:.1f} s",
                details=cost,
            )


def problem(**encoding: Any) -> ProblemSpec:
    """The problem: ids of users and ads, clicks and conversions, in scenes.

    Args:
        **encoding: Encoding of the ids. MTMS uses hashes, the same in every slot, and its tables
            hold only hashes that occur. The tables of other models have the declared size.
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
    """MTMS with `count` scenes. Each reads its own tables and those of the first scene."""
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
    """Writes a log of `count` scenes with `rows` rows each, packed for MTMS and other models."""
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
    """Measures a slot of MTMS, or an epoch of another model, in this process.

    Args:
        folder: Folder of the rows.
        count: Number of scenes.
        what: `slot`, or a name in `BACKBONES`.
        workers: Number of processes for training.

    Returns:
        `seconds` and `cpu` (of this process), `peak` in MiB and `rows`; for a slot also
        `table_rows` and `parts`.
    """
    name = "hashed" if what == SLOT else "known"
    with np.load(folder / f"{name}-{count}.npz") as arrays:
        rows = ArrayRows(dict(arrays))
    table_rows = json.loads((folder / f"rows-{count}.json").read_text())
    counts: dict[str, Any] = {"rows": rows.count()}
    taken, started, worked = peak_memory(), time.perf_counter(), time.process_time()
    if what == SLOT:
        slot_folder = str(folder / f"slot-{count}-{workers}")
        model = train_slot(
            experiment(count), rows, slot=0, folder=slot_folder, workers=workers, verbose=0
        )
        counts["parts"] = count + sum(len(of_scene) for of_scene in model.networks.values())
        counts["table_rows"] = int(model.tables.table.shape[0])
    else:
        network = Model(dim=DIM, backbone=BACKBONES[what])
        other = MultiTaskModel.build_from(KNOWN, table_rows, network)
        settle(other, TRAINING, rows, cold=True)
        train_passes(other, rows, passes=1, batch_size=TRAINING.batch_size, seed=0, what=what)
    return {
        **counts,
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
    yield Result(f"{name}/slot_cpu", cost["cpu"], "s", note="processor time")
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
                note="cost per scene with more scenes, divided by that with fewer; 1 is linear",
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated logs")


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        folder, count, what, workers = sys.argv[2:]
        print(json.dumps(measure(Path(folder), int(count), what, int(workers))))
    else:
        sys.exit(main(__doc__, run, arguments=add_arguments))
