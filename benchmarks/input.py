"""Input: examples per second from TFRecord files into the training step, beside the step alone.

The step is that of `benchmarks.train` at size b: MMoE on 2,048 rows of 16 categorical and 63
numerical features. A result is the speed of a part as a share of the speed of the step on tensors
in memory, in turns of one process:

    read      records from files, in batches
    streamed  `FileRows.batches` of files that do not fit into its memory, without training
    larger    the same into the step: a pipeline whose rows do not fit
    trained   `FileRows.batches` into the step, of rows that are kept after the first pass
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.contract import Result, main
from benchmarks.steps.ours import RESERVED, model_of
from benchmarks.steps.worker import NUMBERS, ROWS, Case
from benchmarks.train import SIZES
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.features.rows import FileRows

FILES, QUICK_FILES, FILE_ROWS = 16, 4, 20_480
LARGER_THAN = 1 << 25
TURNS, QUICK_TURNS = 5, 2
TARGET = 0.9


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the shares of the step's speed."""
    case = Case("mmoe", **SIZES["b"])
    model = model_of(case)
    with tempfile.TemporaryDirectory() as folder:
        count = QUICK_FILES if options.quick else FILES
        files = write(case, folder, count)
        rows = FileRows(model.problem, files)
        larger = FileRows(model.problem, files, memory=LARGER_THAN)
        steps = rows.count() // ROWS
        memory = list(rows.batches(ROWS).take(8))
        model(memory[0])
        step = tf.function(model.train_step)
        step(memory[0])
        for files_rows in (rows, larger):
            next(iter(files_rows.batches(ROWS, seed=0)))
        records = tf.data.TFRecordDataset(files, buffer_size=8 << 20)
        parts: dict[str, Callable[[int], Any]] = {
            "step": lambda turn: _train(step, (memory[i % 8] for i in range(steps))),
            "read": lambda turn: _exhaust(records.batch(ROWS)),
            "streamed": lambda turn: _exhaust(larger.batches(ROWS, seed=turn)),
            "larger": lambda turn: _train(step, larger.batches(ROWS, seed=turn)),
            "trained": lambda turn: _train(step, rows.batches(ROWS, seed=turn)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        for turn in range(QUICK_TURNS if options.quick else TURNS):
            for name, part in parts.items():
                start = time.perf_counter()
                part(turn)
                seconds[name].append(time.perf_counter() - start)
    alone = seconds.pop("step")
    for name, taken in seconds.items():
        shares = [one / other for one, other in zip(alone, taken, strict=True)]
        speed = steps * ROWS / statistics.median(taken)
        yield Result(
            f"input/b/{name}",
            statistics.median(shares),
            "of the step's speed",
            at_least=TARGET if name == "trained" and not options.quick else None,
            spread=statistics.stdev(shares),
            runs=len(shares),
            note=f"{speed:,.0f} examples/s",
        )


def write(case: Case, folder: str, files: int) -> list[str]:
    """Writes files of packed rows, all with the same rows, and returns their paths."""
    random = np.random.default_rng(0)
    sizes = np.array(case.sizes)
    first = Path(folder, "rows-00000.tfrecord")
    with tf.io.TFRecordWriter(str(first)) as writer:
        for _ in range(FILE_ROWS):
            ids = random.zipf(1.2, len(sizes)) % sizes + RESERVED
            values: Mapping[str, Any] = {
                "numbers_context": random.random(NUMBERS),
                LABELS: random.integers(0, 2, 2),
                WEIGHTS: np.ones(2),
            }
            example = tf.train.Example()
            features = example.features.feature
            features["ids_context"].int64_list.value.extend(ids.tolist())
            for name, value in values.items():
                features[name].float_list.value.extend(value.tolist())
            writer.write(example.SerializeToString())
    content = first.read_bytes()
    paths = [first, *(Path(folder, f"rows-{i:05d}.tfrecord") for i in range(1, files))]
    for path in paths[1:]:
        path.write_bytes(content)
    return [str(path) for path in paths]


def _exhaust(batches: tf.data.Dataset) -> None:
    for _ in batches:
        pass


def _train(step: Callable[[Any], Any], batches: Any) -> None:
    for batch in batches:
        report = step(batch)
    float(report["loss"])


if __name__ == "__main__":
    sys.exit(main(__doc__, run))
