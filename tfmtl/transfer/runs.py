"""Single trainings of a transfer report, each kept on disk where asked."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged, read_arrays, read_json, whole_file
from tfmtl.features.rows import READ_ROWS, PackedData, Rows, numpy_batches
from tfmtl.metrics.packed import packed_metrics
from tfmtl.plain import file_name, finite, write_json
from tfmtl.run import train
from tfmtl.training.checkpoints import forget
from tfmtl.training.gradient_log import GradientLog
from tfmtl.transfer.gates import GateUse, gate_use
from tfmtl.transfer.report import gate_from_json

RESULT, PREDICTIONS = "result.json", "predictions.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """How a training's gradients are measured.

    Args:
        every: Steps between two measurements.
        rows: How many training rows they are measured on.
    """

    every: int
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known of a trained model.

    Attributes:
        metrics: On the test rows, by full name.
        predictions: Of the test rows, `[N]` by task.
        log: What `GradientLog` noted; nothing where gradients were not watched.
        gates: How the gates used their experts on the test rows, where that was watched.
    """

    metrics: Mapping[str, float]
    predictions: dict[str, NDArray[Any]]
    log: list[dict[str, float]]
    gates: tuple[GateUse, ...]


def outcome_of(
    name: str,
    experiment: ExperimentConfig,
    data: PackedData,
    test_rows: Rows,
    *,
    watch: Watch | None = None,
    gates: bool = False,
    directory: str | None = None,
    rows_digest: str = "",
    verbose: int = 0,
) -> Outcome:
    """Trains an experiment and measures it on test rows, or reads the result of an earlier run.

    Args:
        name: Of the training, for its folder.
        experiment: What is trained.
        data: Training and validation rows.
        test_rows: Rows to measure on.
        watch: How gradients are measured; not at all without it.
        gates: Whether to look at the gates.
        directory: Where results are kept. A result is taken up again only where problem, model,
            training, rows and what is watched are the same.
        rows_digest: Identifies the rows, from `digest_of`.
        verbose: As in `tfmtl.run.train`.
    """
    if directory is None:
        return _trained(experiment, data, test_rows, watch, gates, None, verbose)
    about = {
        "experiment": {k: json.loads(experiment.to_json())[k] for k in DECISIVE},
        "rows": rows_digest,
        "table_rows": dict(data.table_rows),
        "watch": None if watch is None else dataclasses.asdict(watch),
        "gates": gates,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = os.path.join(directory, f"{file_name(name)}-seed{experiment.training.seed}-{key}")
    if os.path.exists(os.path.join(folder, RESULT)):
        try:
            return _read(folder)
        except Damaged as damage:
            logging.warning("%s. %r is trained anew.", damage, name)
    os.makedirs(folder, exist_ok=True)
    outcome = _trained(experiment, data, test_rows, watch, gates, folder, verbose)
    _write(folder, outcome, about)
    forget(_checkpoints(folder))
    return outcome


DECISIVE = ("problem", "model", "training")


def digest_of(*splits: Rows) -> str:
    """A digest of packed rows, in their order, whatever they are stored in; reads them once."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in splits:
        digest.update(f"{rows.count()} rows".encode())
        for batch in numpy_batches(rows, READ_ROWS):
            for name in sorted(batch):
                array = np.ascontiguousarray(batch[name])
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()


def _trained(
    experiment: ExperimentConfig,
    data: PackedData,
    test_rows: Rows,
    watch: Watch | None,
    gates: bool,
    folder: str | None,
    verbose: int,
) -> Outcome:
    logs = []
    if watch is not None:
        # In a seeded order: a log is sorted by day or request, and its first rows are of one kind.
        first = data.train.batches(min(watch.rows, data.train.count()), seed=0)
        path = None if folder is None else os.path.join(folder, "gradients.jsonl")
        logs.append(GradientLog(next(iter(first)), every=watch.every, path=path))
    checkpoints = None if folder is None else _checkpoints(folder)
    trained = train(
        experiment, data, checkpoint_dir=checkpoints, verbose=verbose, callbacks=tuple(logs)
    )
    rows = trained.model.predict_rows(test_rows.batches(READ_ROWS))
    return Outcome(
        metrics=packed_metrics(experiment.problem, rows),
        predictions=dict(rows.predictions),
        log=logs[0].rows if logs else [],
        gates=gate_use(trained.model, test_rows.batches(READ_ROWS)) if gates else (),
    )


def _checkpoints(folder: str) -> str:
    return os.path.join(folder, "checkpoints")


def _write(folder: str, outcome: Outcome, about: Mapping[str, Any]) -> None:
    with whole_file(os.path.join(folder, PREDICTIONS)) as file:
        # The stubs of NumPy 2 check every keyword of `savez` against the type of its flag too.
        arrays: dict[str, Any] = dict(outcome.predictions)
        np.savez(file, **arrays)
    plain = {
        "about": about,
        "metrics": dict(outcome.metrics),
        "log": outcome.log,
        "gates": [dataclasses.asdict(gate) for gate in outcome.gates],
    }
    # Written last, so that a folder with a result is complete.
    write_json(os.path.join(folder, RESULT), finite(plain), allow_nan=False)


def _read(folder: str) -> Outcome:
    plain = read_json(os.path.join(folder, RESULT))
    predictions = read_arrays(os.path.join(folder, PREDICTIONS))
    return Outcome(
        metrics=_defined(plain["metrics"]),
        predictions=predictions,
        log=[_defined(row) for row in plain["log"]],
        gates=tuple(gate_from_json(gate) for gate in plain["gates"]),
    )


def _defined(plain: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in plain.items()}
