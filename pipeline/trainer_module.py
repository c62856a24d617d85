"""The `run_fn` of the Trainer component."""

import hashlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf
import tensorflow_transform as tft

from components.analyzers import TransformGraph, vocabulary_size
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.layout import table_rows_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.durable import sync
from tfmtl.features.rows import FileRows, PackedData, Rows
from tfmtl.run import train
from tfmtl.serving.export import export
from tfmtl.training.checkpoints import forget
from tfmtl.tuning.space import apply_hyperparameters

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

IN_MEMORY_BYTES = 4 << 30


def run_fn(fn_args: "FnArgs") -> None:
    """Trains on the packed rows and writes the SavedModel.

    A run that was killed continues from its last checkpoint. The folder of the checkpoints depends
    only on the experiment and its inputs, not on TFX's execution.

    Args:
        fn_args: The arguments from TFX; `custom_config` holds `experiment` (JSON) and
            `checkpoints` (a folder).
    """
    config = fn_args.custom_config
    experiment = ExperimentConfig.from_json(config["experiment"])
    if fn_args.hyperparameters:
        experiment = apply_hyperparameters(experiment, fn_args.hyperparameters)
    problem = experiment.problem
    output = tft.TFTransformOutput(fn_args.transform_output)
    data = packed_data(problem, output, fn_args.train_files, fn_args.eval_files)
    checkpoints = os.path.join(config["checkpoints"], key_of(experiment, fn_args))
    # A progress bar rewrites its line, and only a terminal can show that.
    verbose = 1 if sys.stdout.isatty() else 2
    trained = train(experiment, data, checkpoint_dir=checkpoints, verbose=verbose)
    export(
        trained.model,
        TransformGraph(output, problem),
        fn_args.serving_model_dir,
        value=experiment.value,
        extra={"experiment.json": experiment.to_json()},
    )
    # Before the checkpoints go: after a power cut one or the other must be whole.
    sync(fn_args.serving_model_dir)
    forget(checkpoints)


def packed_data(
    problem: ProblemSpec,
    output: tft.TFTransformOutput,
    train_files: Sequence[str],
    validation_files: Sequence[str],
) -> PackedData:
    """The Transform component's output as training data, in memory if it is small enough."""
    return PackedData(
        train=rows_of(problem, train_files),
        validation=rows_of(problem, validation_files),
        table_rows=table_rows(problem, output),
    )


def table_rows(problem: ProblemSpec, output: tft.TFTransformOutput) -> dict[str, int]:
    """Number of rows of each embedding table, by its name."""
    return table_rows_of(problem, lambda name: vocabulary_size(problem, output, name))


def rows_of(problem: ProblemSpec, patterns: Sequence[str]) -> Rows:
    """Packed rows of the files that match patterns; in memory if they are small enough."""
    files = sorted(itertools.chain.from_iterable(tf.io.gfile.glob(p) for p in patterns))
    rows = FileRows(problem, files)
    size = sum(tf.io.gfile.stat(path).length for path in files)
    packed = size * (5 if files and files[0].endswith(".gz") else 1)
    return rows.load() if packed <= IN_MEMORY_BYTES else rows


def key_of(experiment: ExperimentConfig, fn_args: "FnArgs", *more: str) -> str:
    """A key of the training run: the same experiment and inputs give the same key."""
    parts = [experiment.to_json(), fn_args.transform_output, *fn_args.train_files, *more]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
