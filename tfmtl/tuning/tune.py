"""The search: Keras Tuner chooses the fields of each trial, ordinary training evaluates them."""

import glob
import os
from collections.abc import Mapping
from typing import Any

import keras_tuner
import tf_keras as keras
from absl import logging
from keras_tuner import oracles
from keras_tuner.errors import FailedTrialError, FatalError

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec
from tfmtl.durable import Damaged, read_json, remove
from tfmtl.errors import SpecError
from tfmtl.features.rows import PackedData
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.plain import write_json
from tfmtl.run import train
from tfmtl.training.checkpoints import forget
from tfmtl.training.epochs import Validate, best_metrics
from tfmtl.tuning.space import check_tuning, choices, trial_experiment

ORACLES = {
    "random": oracles.RandomSearchOracle,
    "bayesian": oracles.BayesianOptimizationOracle,
    "grid": oracles.GridSearchOracle,
}


TRIALS = "trials"
"""Folder of a search's trials."""


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

    _diverged = ""

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
        best = direction(experiment.training.monitor, experiment.problem)
        forget_damaged(os.path.join(directory, TRIALS))
        super().__init__(
            ORACLES[tuning.algorithm](
                objective=keras_tuner.Objective("monitor", best),
                max_trials=tuning.trials,
                hyperparameters=search_space(tuning.space),
                seed=experiment.training.seed,
                # Neighbours in a grid diverge together.
                max_consecutive_failed_trials=tuning.trials + 1,
            ),
            directory=directory,
            project_name=TRIALS,
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
        except FloatingPointError as error:
            # One candidate of many: the others are still worth a try.
            logging.warning("Trial %s diverged and is left out: %s", trial.trial_id, error)
            self._diverged = str(error)
            raise FailedTrialError(str(error)) from error
        except Exception as error:
            # Keras Tuner would note a failed trial and try the next, which fails alike.
            raise FatalError(str(error)) from error
        metrics = best_metrics(trained)
        write_json(self._metrics_path(trial), metrics)
        forget(folder)
        return {"monitor": metrics[experiment.training.monitor]}

    def on_search_end(self) -> None:
        """Refuses a search in which nothing could be trained to the end.

        Raises:
            FloatingPointError: Every candidate diverged.
        """
        super().on_search_end()
        if not self.finished():
            raise FloatingPointError(
                f"all {len(self.oracle.trials)} candidates of the search diverged; the last said: "
                f"{self._diverged}"
            )

    def finished(self) -> list[Any]:
        """Trials that were trained to the end; those that diverged are none."""
        return [t for t in self.oracle.trials.values() if t.status == "COMPLETED"]

    def metrics_of(self, trial: Any) -> dict[str, float]:
        """All validation metrics of a finished trial, at its best epoch."""
        metrics: dict[str, float] = read_json(self._metrics_path(trial))
        return metrics

    def _metrics_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "metrics.json")

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """Trials keep no models: train the best one with `apply_hyperparameters`."""
        raise NotImplementedError("a search keeps hyper-parameters only; train them to the end.")


def forget_damaged(folder: str) -> None:
    """Removes a search of Keras Tuner's that it could not go on with: it starts anew.

    Keras Tuner writes its files in place, so that a power cut may leave half of one, and then
    fails each time it reads it.

    Args:
        folder: Its project's folder.
    """
    # No deeper: a trial's checkpoints are looked after by the run they are of.
    patterns = (os.path.join(glob.escape(folder), name) for name in ("*.json", "trial_*/*.json"))
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        try:
            read_json(path)
        except Damaged as damage:
            logging.warning("%s. The search starts anew.", damage)
            remove(folder)
            return


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


def direction(monitor: str, problem: ProblemSpec | None = None) -> str:
    """`min` for a loss or an error, `max` for an AUC.

    Args:
        monitor: Full or bare name.
        problem: Knows the metrics of your own that are not registered.

    Raises:
        SpecError: No metric has that name, or it is best at a value, neither high nor low.

    Example:
        >>> direction("cvr/auc@click"), direction("ctr/log_loss@imp")
        ('max', 'min')
    """
    return "min" if lower_is_better(monitor, problem) else "max"
