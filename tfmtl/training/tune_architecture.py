"""The search for a network behind Keras Tuner's interface, for whoever runs a tuner."""

import os
from typing import Any

import keras_tuner
from keras_tuner import oracles
from keras_tuner.errors import FatalError

from tfmtl.errors import DataError, SpecError
from tfmtl.experiment import ExperimentConfig
from tfmtl.inputs import PackedData
from tfmtl.training.search import check_search, search
from tfmtl.tuning import ARCHITECTURE


class ArchitectureTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Searches the network that `experiment.search` leaves open; see `tfmtl.search`.

    One trial is the whole search. Its hyper-parameters have the architecture as JSON, from which
    `apply_hyperparameters` makes the experiment to train, without any of the search. A search that
    was killed goes on.

    Args:
        experiment: Declares the search.
        directory: Where the trial, its checkpoints and its pictures are kept.
        verbose: As in `tfmtl.search`.

    Raises:
        SpecError: The experiment declares no search, or one that leaves nothing to find.
    """

    def __init__(self, experiment: ExperimentConfig, *, directory: str, verbose: int = 1):
        check_search(experiment)
        self.experiment, self.verbose = experiment, verbose
        super().__init__(
            oracles.RandomSearchOracle(
                objective=keras_tuner.Objective("loss", "min"),
                max_trials=1,
                hyperparameters=keras_tuner.HyperParameters(),
                seed=experiment.training.seed,
            ),
            directory=directory,
            project_name="search",
        )

    def run_trial(self, trial: Any, data: PackedData) -> dict[str, float]:
        """Searches, and returns the last validation loss."""
        folder = self.folder_of(trial)
        try:
            found = search(self.experiment, data, directory=folder, verbose=self.verbose)
        except (SpecError, DataError) as error:
            # Keras Tuner would note a failed trial and try again, which fails alike.
            raise FatalError(str(error)) from error
        trial.hyperparameters.Fixed(ARCHITECTURE, found.architecture.to_json())
        return {"loss": found.loss}

    def folder_of(self, trial: Any) -> str:
        """Where a trial's architecture, tables and pictures are."""
        return os.path.join(self.get_trial_dir(trial.trial_id), "found")

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """A search keeps no model: train the network it found with `apply_hyperparameters`."""
        raise NotImplementedError("a search keeps an architecture only; train it from the start.")
