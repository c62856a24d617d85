"""`prepare` with nine target encodings beside the same encodings in pandas, in one run.

Both make out-of-fold target encodings of nine text columns of a table of 200,000 rows (16 MB):
`prepare` for three splits, and pandas by a group-by and a merge per sum. Each runs in a process of
its own, several calls in turn. CPU seconds are the median of the calls after the first; the kept
memory is the growth of the resident memory per call after the first, once what was returned is
deleted, collected and given back to the system. Both must encode the training rows alike.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.contract import Result, main

ROWS, CALLS, QUICK_CALLS = 200_000, 20, 5
COLUMNS, FOLDS, SMOOTHING = tuple(f"c{i}" for i in range(9)), 5, 20.0
MOST_SECONDS, MOST_KEPT, MOST_RATIO, MOST_DIFFERENCE = 1.5, 8.0, 1.5, 1e-4


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields CPU seconds and kept memory of both, the ratio and the greatest difference."""
    calls = QUICK_CALLS if options.quick else CALLS
    measured = {name: _alone(name, calls) for name in ("ours", "pandas")}
    seconds = {name: each["seconds"] for name, each in measured.items()}
    for name, most in (("ours", MOST_SECONDS), ("pandas", None)):
        yield Result(f"prepare/{name}/cpu", seconds[name], "s", at_most=most, runs=calls - 1)
    for name, most in (("ours", MOST_KEPT), ("pandas", None)):
        kept = measured[name]["kept"]
        yield Result(f"prepare/{name}/kept", kept, "MB per call", at_most=most, runs=calls - 1)
    ratio = seconds["ours"] / seconds["pandas"]
    yield Result("prepare/ratio", ratio, "x", at_most=MOST_RATIO, note="CPU, ours by pandas'")
    ours, pandas = (np.array(measured[name]["encoded"]) for name in ("ours", "pandas"))
    difference = float(np.abs(ours - pandas).max())
    yield Result("prepare/difference", difference, at_most=MOST_DIFFERENCE)


def table(seed: int = 0) -> pa.Table:
    """Nine text columns of 100 to 1,000,000 values and a binary label."""
    random = np.random.default_rng(seed)
    columns = {
        name: np.char.add("v", random.integers(0, 10 ** (2 + i // 2), ROWS).astype(str))
        for i, name in enumerate(COLUMNS)
    }
    label = (random.random(ROWS) < 0.1).astype(np.float32)
    return pa.table({**columns, "y": label})


def splits(rows: pa.Table) -> dict[str, pa.Table]:
    """80 % for training, 10 % each for validation and test."""
    train, validation = int(0.8 * ROWS), int(0.1 * ROWS)
    return {
        "train": rows.slice(0, train),
        "validation": rows.slice(train, validation),
        "test": rows.slice(train + validation),
    }


def by_pandas(tables: dict[str, pd.DataFrame], fold: np.ndarray) -> dict[str, pd.DataFrame]:
    """The same encodings by group-by and merge, per column."""
    train = tables["train"].assign(fold=fold)
    mean = train["y"].mean()
    prior = np.log(mean) - np.log1p(-mean)
    encoded: dict[str, dict[str, pd.Series]] = {name: {} for name in tables}
    for column in COLUMNS:
        sums = train.groupby(column)["y"].agg(["count", "sum"]).reset_index()
        own = train.groupby([column, "fold"])["y"].agg(["count", "sum"]).reset_index()
        for name, frame in tables.items():
            merged = frame[[column]].merge(sums, how="left", on=column)
            count, total = merged["count"].fillna(0), merged["sum"].fillna(0)
            if name == "train":
                keyed = train[[column, "fold"]].merge(own, how="left", on=[column, "fold"])
                count, total = count - keyed["count"], total - keyed["sum"]
            p = ((total + SMOOTHING * mean) / (count + SMOOTHING)).clip(1e-6, 1 - 1e-6)
            encoded[name][column] = np.log(p) - np.log1p(-p) - prior
    return {name: pd.DataFrame(columns) for name, columns in encoded.items()}


def _ours() -> Callable[[], np.ndarray]:
    from tfmtl.declare.features import FOLD
    from tfmtl.declare.problem import ProblemSpec, binary, target_encoding
    from tfmtl.features.prepare import prepare
    from tfmtl.features.rows import ArrayRows

    features = (
        target_encoding(name, task="y", smoothing=SMOOTHING, folds=FOLDS) for name in COLUMNS
    )
    problem = ProblemSpec(features=tuple(features), tasks=(binary("y", label="y"),))
    tables = splits(table())
    folds = np.arange(tables["train"].num_rows) % FOLDS
    tables["train"] = tables["train"].append_column(FOLD, pa.array(folds))

    def encoded() -> np.ndarray:
        rows = prepare(problem, tables).data.train
        assert isinstance(rows, ArrayRows)
        return rows.tensors["numbers_context"].numpy()

    return encoded


def _pandas() -> Callable[[], np.ndarray]:
    tables = {name: rows.to_pandas() for name, rows in splits(table()).items()}
    fold = np.arange(len(tables["train"])) % FOLDS
    return lambda: by_pandas(tables, fold)["train"].to_numpy()


def _measure(name: str, calls: int) -> dict[str, Any]:
    call = {"ours": _ours, "pandas": _pandas}[name]()
    seconds, resident, encoded = [], [], []
    for _ in range(calls):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
        encoded = result[::997].ravel().tolist()
        del result
        resident.append(resident_bytes())
    kept = (resident[-1] - resident[0]) / (calls - 1) / 1e6
    return {"seconds": statistics.median(seconds[1:]), "kept": kept, "encoded": encoded}


def resident_bytes() -> int:
    """The process's resident memory (Linux), after unused memory is given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # Only glibc has it.
        trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _alone(name: str, calls: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.prepare", "--side", name, str(calls)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(_measure(sys.argv[2], int(sys.argv[3]))))
    else:
        sys.exit(main(__doc__, run))
