"""The search for a network behind Keras Tuner's interface, for code that runs a tuner."""

import os
from typing import Any

import keras_tuner
import tf_keras as keras
from absl import logging
from keras_tuner import oracles
from keras_tuner.errors import FatalError

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.checks import check_search
from tfmtl.automtl.derive import candidates_of
from tfmtl.automtl.found import CHECKPOINTS
from tfmtl.automtl.search import search
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.features.rows import PackedData
from tfmtl.training.checkpoints import forget
from tfmtl.tuning.space import ARCHITECTURE
from tfmtl.tuning.tune import forget_damaged

PROJECT = "search"
"""Folder of the search that Keras Tuner keeps."""


class ArchitectureTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Searches the network that `experiment.search` leaves open; see `tfmtl.search`.

    One trial is the whole search. Its hyper-parameters hold the architecture as JSON, from which
    `apply_hyperparameters` makes the experiment to train, which has no search. A search that was
    killed continues; a finished one is not repeated.

    Args:
        experiment: Declares the search.
        directory: Folder of the trial: its checkpoints while it runs, and then its result in tables
            and pictures.
        verbose: As in `tfmtl.search`.

    Raises:
        SpecError: The experiment declares no search, or one that leaves nothing to find.
    """

    def __init__(self, experiment: ExperimentConfig, *, directory: str, verbose: int = 1):
        check_search(experiment)
        self.experiment, self.verbose = experiment, verbose
        forget_damaged(os.path.join(directory, PROJECT))
        super().__init__(
            oracles.RandomSearchOracle(
                objective=keras_tuner.Objective("loss", "min"),
                max_trials=1,
                hyperparameters=keras_tuner.HyperParameters(),
                seed=experiment.training.seed,
            ),
            directory=directory,
            project_name=PROJECT,
        )
        # The oracle would log one trial without hyper-parameters; the search logs its epochs.
        self.oracle.verbose = 0

    def run_trial(self, trial: Any, data: PackedData) -> dict[str, float]:
        """Searches, and returns the validation loss of the network."""
        # Keras keeps every graph that it has built, and the graph of a supernet is large.
        keras.backend.clear_session()
        folder = self.folder_of(trial)
        try:
            found = search(self.experiment, data, directory=folder, verbose=self.verbose)
        except Exception as error:
            # Keras Tuner would record a failed trial and go on, but there is only this trial.
            raise FatalError(str(error)) from error
        found.draw(folder)
        trial.hyperparameters.Fixed(ARCHITECTURE, found.architecture.to_json())
        return {"loss": found.loss}

    def on_trial_end(self, trial: Any) -> None:
        """Saves the result, and removes the checkpoints after that."""
        super().on_trial_end(trial)
        forget(os.path.join(self.folder_of(trial), CHECKPOINTS))

    def search_space_summary(self, extended: bool = False) -> None:
        """Logs the size of the space."""
        declared = check_search(self.experiment)
        counts = {kind: len(choices) for kind, choices in candidates_of(declared).items()}
        logging.info(
            "Searching %d experts of %d layers: %d interactions, %d poolings and %d layers to "
            "choose from.",
            declared.num_experts,
            declared.num_blocks,
            counts["interaction"] if declared.interaction else 0,
            counts["pooling"],
            counts["hidden"],
        )

    def results_summary(self, num_trials: int = 10) -> None:
        """Logs the network."""
        for best in self.get_best_hyperparameters(1):
            logging.info("%s", Architecture.from_json(best.get(ARCHITECTURE)))

    def folder_of(self, trial: Any) -> str:
        """The folder of a trial's architecture, tables and pictures."""
        return os.path.join(self.get_trial_dir(trial.trial_id), "found")

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Refused: a search keeps no model. Train its network with `apply_hyperparameters`."""
        raise NotImplementedError("a search keeps an architecture only; train it from the start.")
