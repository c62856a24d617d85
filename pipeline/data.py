"""Where a run's data lie: given by the user, named by the configuration, or generated once."""

import argparse
import os
import shutil

from pipeline.config import Config
from pipeline.fingerprint import code_hash
from tfmtl.data.readers import Source
from tfmtl.data.sources import files_of
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError


def data_of(config: Config, options: argparse.Namespace, output: str) -> str:
    """Where the data lie; generated first, where none are given.

    Raises:
        DataError: They are not there, or none are given and the configuration neither names nor
            generates any.
    """
    if options.data or config.data:
        return _given(config, options.data or config.data)
    if config.generate is None:
        raise DataError(
            f"{options.config} comes without data. Give a file or a folder, as --data rows.csv."
        )
    folder = _generated(config, output)
    return folder if config.experiment.replay is None else os.path.join(folder, "log")


def replay_of(
    config: Config, experiment: ExperimentConfig, options: argparse.Namespace, output: str
) -> str | None:
    """Where the replay log lies; `None` where the experiment declares none.

    Raises:
        DataError: It is not there; or the experiment declares one and none is given, or the
            other way round.
    """
    if experiment.replay is None:
        if options.replay:
            raise DataError(
                f"--replay {options.replay}: {options.config} declares no replay. Give its "
                "experiment value=TotalValue(…) and replay=Replay(…)."
            )
        return None
    # The configuration's replay log goes with the configuration's data, not with the user's.
    given = options.replay or (None if options.data else config.replay)
    if given:
        return _given(config, given)
    if options.data or config.data or config.generate is None:
        raise DataError(
            f"{options.config} measures recall on a replay log, and none is given. Give a file or "
            "a folder with every retrieved ad of held-out requests, as --replay replay.parquet, "
            "or leave recall out by --set replay=None."
        )
    return os.path.join(_generated(config, output), "replay")


def _given(config: Config, path: str) -> str:
    path = os.path.abspath(path)
    if "{" not in path and config.experiment.mtms is None:
        # A mistyped path is told at once; TFX's {SPAN} and a folder of days are looked into later.
        files_of(path, config.source or Source())
    return path


def _generated(config: Config, output: str) -> str:
    # Another generator gives other rows, which must not pass for those made before.
    code = [config.path, "tfmtl/simulator", "tfmtl/declare/total_value.py"]
    folder = os.path.join(output, "data", code_hash(code))
    if not os.path.isdir(folder):
        print(f"Generating data in {folder}", flush=True)
        building = f"{folder}.building"
        shutil.rmtree(building, ignore_errors=True)
        os.makedirs(building)
        config.generate(building)
        os.replace(building, folder)
    return folder
