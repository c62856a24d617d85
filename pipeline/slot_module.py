"""The `run_fn` of the Trainer component for experiments that train slot by slot."""

import os
import shutil
import sys
from typing import TYPE_CHECKING

import tensorflow_transform as tft

from components.analyzers import TransformGraph
from pipeline import trainer_module
from pipeline.window import SLOT
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import sync, whole_folder
from tfmtl.mtms.slot import train_slot
from tfmtl.serving.export import export
from tfmtl.training.checkpoints import forget

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def run_fn(fn_args: "FnArgs") -> None:
    """Trains a slot on the packed rows of its window and writes the SavedModel.

    The slot's state is written to the folder `slot` beside the SavedModel. Pusher does not copy
    it; the next slot reads it. A run that was killed continues with the unfinished parts. Their
    folder depends only on the experiment and its inputs, not on TFX's execution.

    Args:
        fn_args: The arguments from TFX. `base_model`, if given, is the model of the last blessed
            slot. `custom_config` holds `experiment` (JSON), `slot`, `checkpoints` (a folder) and,
            if there is more than one, `workers`.
    """
    config = fn_args.custom_config
    experiment = ExperimentConfig.from_json(config["experiment"])
    output = tft.TFTransformOutput(fn_args.transform_output)
    # TFX gives the path of the SavedModel; the state is beside it.
    previous = fn_args.base_model and os.path.join(os.path.dirname(fn_args.base_model), SLOT)
    key = trainer_module.key_of(experiment, fn_args, previous or "", str(config["slot"]))
    checkpoints = os.path.join(config["checkpoints"], f"slot-{config['slot']}-{key}")
    model = train_slot(
        experiment,
        trainer_module.rows_of(experiment.problem, fn_args.train_files),
        slot=config["slot"],
        folder=checkpoints,
        previous=previous or None,
        workers=config.get("workers", 1),
        # A progress bar rewrites its line, and only a terminal can show that.
        verbose=int(sys.stdout.isatty()),
    )
    export(
        model,
        TransformGraph(output, experiment.problem),
        fn_args.serving_model_dir,
        value=experiment.value,
        extra={"experiment.json": experiment.to_json()},
    )
    # Copied, and removed last: killed in between, the run finds a finished slot again.
    with whole_folder(os.path.join(os.path.dirname(fn_args.serving_model_dir), SLOT)) as folder:
        shutil.copytree(checkpoints, folder, dirs_exist_ok=True)
    sync(fn_args.serving_model_dir)
    forget(checkpoints)
