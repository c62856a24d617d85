"""Start-up: seconds before anything moves.

    import    `import tfmtl` in a new process
    help      `python -m pipeline.local_runner --help`
    step      `tfmtl.train` on rows in memory until its first step is done, tracing included, by
              backbone; without the imports, which `libraries` has

Processes are new for each figure; the result is the median.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.contract import Result, main
from benchmarks.steps.environment import REPOSITORY

BACKBONES = ("shared_bottom", "mmoe", "ple", "aitm")
HELP, STEP = 1.0, 5.0
RUNS, QUICK_RUNS = 5, 1

FIRST_STEP = """
import sys, time
start = time.perf_counter()
import numpy as np, tfmtl, tensorflow as tf, tf_keras as keras
libraries = time.perf_counter() - start
features = tuple(tfmtl.categorical(f"c{i}", encoding="identity", size=1000) for i in range(16))
tasks = (tfmtl.binary("ctr", label="click"), tfmtl.binary("ctcvr", label="conversion"))
problem = tfmtl.ProblemSpec(features=features, tasks=tasks)
random = np.random.default_rng(0)
def rows():
    return tfmtl.ArrayRows({
        "ids_context": random.integers(2, 1002, (4096, 16)),
        "labels": random.integers(0, 2, (4096, 2)).astype("float32"),
        "label_weights": np.ones((4096, 2), "float32"),
    })
class First(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(libraries, time.perf_counter() - start - libraries, flush=True)
        import os; os._exit(0)
from tfmtl.features.rows import PackedData
data = PackedData(rows(), rows(), {f"c{i}": 1002 for i in range(16)})
config = tfmtl.ExperimentConfig(
    name="startup", problem=problem, split=tfmtl.by_row_number(),
    model=tfmtl.Model(backbone={"name": sys.argv[1]}), training=tfmtl.Training(batch_size=2048),
)
start = time.perf_counter() - libraries
tfmtl.train(config, data, verbose=0, callbacks=(First(),))
"""


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the seconds of each."""
    runs = QUICK_RUNS if options.quick else RUNS
    yield _result("import", [_seconds("-c", "import tfmtl") for _ in range(runs)])
    helps = [_seconds("-m", "pipeline.local_runner", "--help") for _ in range(runs)]
    yield _result("help", helps, HELP)
    libraries = []
    for name in BACKBONES[1:2] if options.quick else BACKBONES:
        taken = [_first_step(name) for _ in range(runs)]
        libraries += [each for each, _ in taken]
        yield _result(f"step/{name}", [step for _, step in taken], STEP)
    yield _result("libraries", libraries)


def _result(name: str, seconds: list[float], at_most: float | None = None) -> Result:
    return Result(
        f"startup/{name}",
        statistics.median(seconds),
        "s",
        at_most=at_most,
        spread=statistics.stdev(seconds) if len(seconds) > 1 else None,
        runs=len(seconds),
    )


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    _output(*arguments)
    return time.perf_counter() - start


def _first_step(backbone: str) -> tuple[float, float]:
    libraries, step = _output("-c", FIRST_STEP, backbone).split()
    return float(libraries), float(step)


def _output(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(__doc__, run))
