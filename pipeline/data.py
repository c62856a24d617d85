"""The path of a run's data: given by the user, named by the configuration, or generated once."""

import argparse
import os

from pipeline.config import Config, generate
from pipeline.fingerprint import code_hash
from tfmtl.data.readers import Source
from tfmtl.data.sources import files_of
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import whole_folder
from tfmtl.errors import DataError


def data_of(config: Config, options: argparse.Namespace, output: str) -> str:
    """The path of the data; they are generated first if none are given.

    Raises:
        DataError: The data do not exist, or none are given and the configuration neither names
            nor generates any.
    """
    given: str | None = options.data or config.data
    if given:
        return _given(config, given)
    if config.generate is None:
        raise DataError(
            f"{options.config} comes without data. Give a file or a folder, for example --data "
            "rows.csv."
        )
    folder = _generated(config, output)
    return folder if config.experiment.replay is None else os.path.join(folder, "log")


def replay_of(
    config: Config, experiment: ExperimentConfig, options: argparse.Namespace, output: str
) -> str | None:
    """The path of the replay log; `None` if the experiment declares none.

    Raises:
        DataError: The log does not exist; the experiment declares `replay` and no log is given;
            or a log is given and the experiment does not declare `replay`.
    """
    if experiment.replay is None:
        if options.replay:
            raise DataError(
                f"--replay {options.replay}: {options.config} declares no replay. Give its "
                "experiment value=TotalValue(…) and replay=Replay(…)."
            )
        return None
    # The replay log of the configuration fits only the data of the configuration.
    given = options.replay or (None if options.data else config.replay)
    if given:
        return _given(config, given)
    if options.data or config.data or config.generate is None:
        raise DataError(
            f"{options.config} measures recall on a replay log, and none is given. Give a file or "
            "a folder with every retrieved ad of held-out requests, for example --replay "
            "replay.parquet, or switch recall off by --set replay=None."
        )
    return os.path.join(_generated(config, output), "replay")


def _given(config: Config, path: str) -> str:
    path = os.path.abspath(path)
    if "{" not in path and config.experiment.mtms is None:
        # Reports a mistyped path at once. Patterns with {SPAN} and folders of days are read later.
        files_of(path, config.source or Source())
    return path


def _generated(config: Config, output: str) -> str:
    # The folder depends on the code, so that rows of an older generator are not used again.
    code = [config.path, "tfmtl/simulator", "tfmtl/datasets", "tfmtl/declare/total_value.py"]
    folder = os.path.join(output, "data", code_hash(code))
    if not os.path.isdir(folder):
        print(f"Generating data in {folder}", flush=True)
        with whole_folder(folder) as building:
            generate(config, building)
    return folder
