"""The search: Keras Tuner chooses the fields of each trial, ordinary training evaluates them."""

import json
import os
from collections.abc import Mapping
from typing import Any

import keras_tuner
import tf_keras as keras
from keras_tuner import oracles
from keras_tuner.errors import FatalError

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import PackedData
from tfmtl.run import train
from tfmtl.training.checkpoints import forget, lower_is_better
from tfmtl.training.epochs import Validate, best_metrics
from tfmtl.tuning.space import check_tuning, choices, trial_experiment

ORACLES = {
    "random": oracles.RandomSearchOracle,
    "bayesian": oracles.BayesianOptimizationOracle,
    "grid": oracles.GridSearchOracle,
}


class ExperimentTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Searches the fields that `experiment.tuning` names for the best validation `monitor`.

    Keras Tuner builds Keras 3 models and refuses ours. So its oracles choose the trials, and
    trials are trained here. A search that was killed continues: finished trials are kept, and the
    unfinished one continues from its last checkpoint.

    Args:
        experiment: Declares the search in `tuning`; all other fields are the same in every trial.
        directory: Folder of the trials and their checkpoints.
        verbose: As in `tfmtl.run.train`.
        validate: Further validation metrics, as in `tfmtl.run.train`.

    Raises:
        SpecError: The search does not fit the experiment.
    """

    def __init__(
        self,
        experiment: ExperimentConfig,
        *,
        directory: str,
        verbose: int = 1,
        validate: Validate | None = None,
    ):
        check_tuning(experiment)
        if experiment.tuning is None:
            raise SpecError(f"experiment {experiment.name!r} declares no tuning=Tuning(...).")
        self.experiment, self.verbose, self.validate = experiment, verbose, validate
        tuning = experiment.tuning
        super().__init__(
            ORACLES[tuning.algorithm](
                objective=keras_tuner.Objective("monitor", direction(experiment.training.monitor)),
                max_trials=tuning.trials,
                hyperparameters=search_space(tuning.space),
                seed=experiment.training.seed,
            ),
            directory=directory,
            project_name="trials",
        )

    def run_trial(self, trial: Any, data: PackedData) -> dict[str, float]:
        """Trains one candidate and returns its best validation value."""
        assert self.experiment.tuning is not None
        values = trial.hyperparameters.values
        # Keras keeps every graph it has built; a search would grow without bound.
        keras.backend.clear_session()
        folder = os.path.join(self.get_trial_dir(trial.trial_id), "checkpoints")
        try:
            experiment = trial_experiment(self.experiment, self.experiment.tuning, values)
            trained = train(
                experiment,
                data,
                checkpoint_dir=folder,
                verbose=self.verbose,
                validate=self.validate,
            )
        except (SpecError, DataError) as error:
            # Keras Tuner would note a failed trial and try the next, which fails alike.
            raise FatalError(str(error)) from error
        metrics = best_metrics(trained)
        with open(self._metrics_path(trial), "w", encoding="utf-8") as file:
            json.dump(metrics, file)
        forget(folder)
        return {"monitor": metrics[experiment.training.monitor]}

    def metrics_of(self, trial: Any) -> dict[str, float]:
        """All validation metrics of a finished trial, at its best epoch."""
        with open(self._metrics_path(trial), encoding="utf-8") as file:
            return json.load(file)

    def _metrics_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "metrics.json")

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Trials keep no models: train the best one with `apply_hyperparameters`."""
        raise NotImplementedError("a search keeps hyper-parameters only; train them to the end.")


def search_space(space: Mapping[str, Any]) -> keras_tuner.HyperParameters:
    """The declared space in Keras Tuner's form; see `tfmtl.declare.experiment.Tuning`."""
    parameters = keras_tuner.HyperParameters()
    for path, candidates in space.items():
        if not isinstance(candidates, Mapping):
            parameters.Choice(path, choices(candidates))
            continue
        least, most = candidates["min"], candidates["max"]
        whole = isinstance(least, int) and isinstance(most, int)
        kind = parameters.Int if whole else parameters.Float
        kind(
            path,
            min_value=least,
            max_value=most,
            step=candidates.get("step"),
            sampling=candidates.get("sampling", "linear"),
        )
    return parameters


def direction(monitor: str) -> str:
    """`min` for a loss or an error, `max` for an AUC.

    Example:
        >>> direction("cvr/auc@click"), direction("ctr/log_loss@imp")
        ('max', 'min')
    """
    return "min" if lower_is_better(monitor) else "max"
