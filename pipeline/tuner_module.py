"""The `tuner_fn` of the Tuner component."""

import hashlib
import os
import sys
from typing import TYPE_CHECKING

import tensorflow_transform as tft
from tfx.components.tuner.component import TunerFnResult

from pipeline.trainer_module import packed_data
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.tuning.tune import ExperimentTuner
from tfmtl.tuning.tune_architecture import ArchitectureTuner

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def tuner_fn(fn_args: "FnArgs") -> TunerFnResult:
    """A search over the settings that the experiment's `tuning` names, or for a network.

    A search that was killed continues. The folder of its trials depends only on the experiment and
    its inputs, not on TFX's execution.

    Args:
        fn_args: The arguments from TFX; `custom_config` as in `pipeline.trainer_module.run_fn`.
    """
    experiment = ExperimentConfig.from_json(fn_args.custom_config["experiment"])
    output = tft.TFTransformOutput(fn_args.transform_graph_path)
    data = packed_data(experiment.problem, output, fn_args.train_files, fn_args.eval_files)
    parts = [experiment.to_json(), fn_args.transform_graph_path, *fn_args.train_files]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = os.path.join(fn_args.custom_config["checkpoints"], f"search-{key}")
    # A progress bar rewrites its line, and only a terminal can show that.
    verbose = 1 if sys.stdout.isatty() else 2
    tuner = ExperimentTuner if experiment.search is None else ArchitectureTuner
    return TunerFnResult(
        tuner=tuner(experiment, directory=folder, verbose=verbose), fit_kwargs={"data": data}
    )
