"""What the Trainer component runs where an experiment trains slot by slot."""

import os
import shutil
import sys

import tensorflow_transform as tft

from components.analyzers import TransformGraph
from pipeline import trainer_module
from pipeline.window import SLOT
from tfmtl import training
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.serving.export import export
from tfmtl.training.checkpoints import forget


def run_fn(fn_args) -> None:
    """Trains a slot on the packed rows of its window and writes the SavedModel.

    The slot's state goes to the folder `slot` beside the SavedModel, where Pusher does not look
    and the next slot does. A run that was killed goes on with the parts it had not finished: they
    lie in a folder that depends on the experiment and its inputs alone, not on TFX's execution.

    Args:
        fn_args: As TFX gives them; `base_model`, where there is one, is the last blessed slot's,
            and `custom_config` holds `experiment` (JSON), `slot`, `checkpoints` (a folder) and,
            where they are several, `workers`.
    """
    config = fn_args.custom_config
    experiment = ExperimentConfig.from_json(config["experiment"])
    output = tft.TFTransformOutput(fn_args.transform_output)
    # TFX gives the path of what is served; the state lies beside it.
    previous = fn_args.base_model and os.path.join(os.path.dirname(fn_args.base_model), SLOT)
    key = trainer_module.key_of(experiment, fn_args, previous or "", str(config["slot"]))
    checkpoints = os.path.join(config["checkpoints"], f"slot-{config['slot']}-{key}")
    model = training.train_slot(
        experiment,
        trainer_module.rows_of(experiment.problem, fn_args.train_files),
        slot=config["slot"],
        folder=checkpoints,
        previous=previous or None,
        workers=config.get("workers", 1),
        # A progress bar rewrites its line, which only a terminal can show.
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
    shutil.copytree(checkpoints, os.path.join(os.path.dirname(fn_args.serving_model_dir), SLOT))
    forget(checkpoints)
