"""The baseline of the search: trains networks drawn at random from the space (AutoMTL-R)."""

import dataclasses
import math
import os
from typing import Any

import numpy as np
import tf_keras as keras
from absl import logging
from tqdm import tqdm

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.derive import sample
from tfmtl.automtl.found import CHECKPOINTS, Budget, Found
from tfmtl.automtl.supernet import Supernet
from tfmtl.declare.conversions import direct_tasks
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged, read_json
from tfmtl.features.rows import PackedData
from tfmtl.plain import write_json
from tfmtl.run import train
from tfmtl.training.checkpoints import check_same, decisive, forget
from tfmtl.training.epochs import best_metrics

ABOUT = "trials.json"


def search_at_random(
    experiment: ExperimentConfig, data: PackedData, *, directory: str | None, verbose: int
) -> Found:
    """Draws networks, trains each with the experiment's settings, and takes the lowest loss.

    The loss is the validation loss of each trial's best epoch; see `search`. Finished trials are
    kept, and the unfinished one continues from its last checkpoint. A network that diverges is left
    out.

    Args:
        experiment: An experiment with `search`.
        data: Training and validation rows.
        directory: As for `search`.
        verbose: 1 shows a progress bar over trials, 2 logs one line per trial, 0 nothing.

    Raises:
        SpecError: `directory` holds a search of another experiment.
        FloatingPointError: Every network diverged.
    """
    assert experiment.search is not None
    declared, about = experiment.search, _About(experiment, directory)
    done: list[dict[str, Any]] = about.plain["trials"]
    budget = Budget(about.plain["budget"])
    with tqdm(
        total=declared.trials, initial=len(done), disable=verbose != 1, unit=" networks"
    ) as bar:
        while len(done) < declared.trials:
            trial = len(done)
            row = _trial(experiment, data, trial, about.folder(trial), budget)
            done.append(row)
            about.save()
            best = min(done, key=_loss_of)
            bar.set_postfix(val_loss=f"{_loss_of(row):.4f}", best=f"{_loss_of(best):.4f}")
            bar.update()
            if verbose == 2:
                logging.info("Trial %d: loss %.5f; %s", trial, _loss_of(row), row["line"])
    best = min(done, key=_loss_of)
    if best["val_loss"] is None:
        raise FloatingPointError(
            f"all {len(done)} networks that were drawn diverged. Lower training.learning_rate (it "
            f"is {experiment.training.learning_rate:g}), or look for enormous numbers among labels "
            "and features."
        )
    architecture = dataclasses.replace(
        Architecture.from_json(best["architecture"]),
        search={**dataclasses.asdict(declared), "trial": best["trial"], "budget": budget.spent},
    )
    return Found(architecture, architecture.apply(experiment), done, budget.spent)


def drawn(experiment: ExperimentConfig, trial: int) -> Architecture:
    """The network of a trial; it is the same for the same experiment and number."""
    assert experiment.search is not None
    model = experiment.model
    tasks = direct_tasks(experiment.problem, model.conv_semantics or Supernet.conv_semantics)
    seed = experiment.training.seed
    return sample(
        np.random.default_rng([seed, trial]),
        experiment.search,
        tasks,
        dataset=experiment.name,
        seed=seed,
        width=model.dim,
        dim=model.dim,
    )


def _trial(
    experiment: ExperimentConfig,
    data: PackedData,
    trial: int,
    folder: str | None,
    budget: Budget,
) -> dict[str, Any]:
    # Keras keeps every graph that it has built, so the memory of a search would grow and grow.
    keras.backend.clear_session()
    architecture = drawn(experiment, trial)
    trial_of = {
        "trial": trial,
        "n_skip": architecture.skips,
        "line": architecture.line,
        "architecture": architecture.to_json(),
    }
    try:
        trained = train(architecture.apply(experiment), data, checkpoint_dir=folder, verbose=0)
    except FloatingPointError as error:
        # The search goes on with the other networks.
        logging.warning("Trial %d diverged and is left out: %s", trial, error)
        budget.add(0, 0)
        return {**trial_of, "epochs": 0, "val_loss": None}
    epochs, size = len(trained.history), experiment.training.batch_size
    steps = epochs * max(data.train.count() // size, 1)
    budget.add(steps, steps * min(size, data.train.count()) + epochs * data.validation.count())
    if folder is not None:
        forget(folder)
    metrics = {f"val_{name}": value for name, value in best_metrics(trained).items()}
    return {**trial_of, "epochs": epochs, **metrics}


def _loss_of(row: dict[str, Any]) -> float:
    return math.inf if row["val_loss"] is None else row["val_loss"]


class _About:
    """The state of a search that is kept between processes."""

    def __init__(self, experiment: ExperimentConfig, directory: str | None) -> None:
        self.directory = directory
        self.plain: dict[str, Any] = {
            "experiment": decisive(experiment),
            "trials": [],
            "budget": {},
        }
        if directory is None or not os.path.exists(self._path):
            return
        try:
            former = read_json(self._path)
        except Damaged as damage:
            logging.warning("%s. The search starts anew.", damage)
            return
        check_same(former["experiment"], self.plain["experiment"], directory)
        self.plain = former

    def folder(self, trial: int) -> str | None:
        """The folder of a trial's checkpoints."""
        if self.directory is None:
            return None
        return os.path.join(self.directory, CHECKPOINTS, f"trial-{trial:04d}")

    def save(self) -> None:
        """Writes the state, if there is a directory."""
        if self.directory is not None:
            os.makedirs(self.directory, exist_ok=True)
            write_json(self._path, self.plain, indent=1)

    @property
    def _path(self) -> str:
        return os.path.join(self.directory or "", ABOUT)
