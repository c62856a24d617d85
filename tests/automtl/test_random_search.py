"""Networks drawn evenly, each trained, the best by validation loss."""

import dataclasses

import numpy as np
import pytest

from tests.doubles import searches
from tests.doubles.searches import declared
from tfmtl.automtl import random_search
from tfmtl.automtl.random_search import drawn
from tfmtl.automtl.search import search
from tfmtl.errors import SpecError
from tfmtl.training.epochs import Trained

CONFIG = searches.experiment(declared(algorithm="random", trials=3))
DATA = searches.data()


@pytest.fixture
def trained(monkeypatch):
    """The experiments that were trained; their losses are given."""
    seen, losses = [], iter([0.6, 0.4, 0.5, 0.3])

    def train(experiment, data, *, checkpoint_dir=None, verbose=1):
        loss = next(losses)
        seen.append(experiment)
        # By AUC the last trial would be the best, and every trial's last epoch its best.
        history = [{"val_loss": loss, "val_mean_auc": 0.5 + 0.01 * len(seen)}, {"val_loss": 0.1}]
        return Trained(None, history, 0)

    monkeypatch.setattr(random_search, "train", train)
    return seen


def test_the_trial_of_least_validation_loss_at_its_best_epoch_is_taken(trained):
    found = search(CONFIG, DATA, verbose=0)
    assert [row["val_loss"] for row in found.history] == [0.6, 0.4, 0.5]
    assert found.experiment == trained[1]
    assert found.architecture.experts == drawn(CONFIG, 1).experts
    assert found.experiment.search is None
    assert found.experiment.training == CONFIG.training
    # Two epochs of six steps each, three times, with validation after each epoch.
    assert found.budget["steps"] == 3 * 2 * 6
    assert found.budget["rows"] == 3 * 2 * (192 + 96)


def test_trials_that_finished_are_not_trained_again(tmp_path, trained):
    first = search(CONFIG, DATA, directory=str(tmp_path), verbose=0)
    assert len(trained) == 3
    again = search(CONFIG, DATA, directory=str(tmp_path), verbose=0)
    assert (len(trained), again.history) == (3, first.history)
    with pytest.raises(SpecError, match=r"search\.trials"):
        search(searches.replaced(CONFIG, trials=4), DATA, directory=str(tmp_path), verbose=0)


def test_a_killed_search_goes_on_with_the_trial_under_way(tmp_path, trained, monkeypatch):
    train, folders = random_search.train, []

    def killed_in_the_second(experiment, data, *, checkpoint_dir, verbose):
        folders.append(checkpoint_dir)
        if len(folders) == 2:
            raise KeyboardInterrupt
        return train(experiment, data, checkpoint_dir=checkpoint_dir, verbose=verbose)

    monkeypatch.setattr(random_search, "train", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        search(CONFIG, DATA, directory=str(tmp_path), verbose=0)
    found = search(CONFIG, DATA, directory=str(tmp_path), verbose=0)
    assert [row["val_loss"] for row in found.history] == [0.6, 0.4, 0.5]
    assert folders[1] == folders[2] != folders[0]
    assert trained == [drawn(CONFIG, trial).apply(CONFIG) for trial in range(3)]


def test_a_network_that_diverges_is_passed_over_and_not_all_may(tmp_path, trained, monkeypatch):
    train, left = random_search.train, [1]

    def diverging(experiment, data, **more):
        left[0] -= 1
        if left[0] >= 0:
            raise FloatingPointError("the training loss is nan")
        return train(experiment, data, **more)

    monkeypatch.setattr(random_search, "train", diverging)
    found = search(CONFIG, DATA, directory=str(tmp_path / "one"), verbose=0)
    assert [row["val_loss"] for row in found.history] == [None, 0.6, 0.4]
    assert (found.loss, found.architecture.experts) == (0.4, drawn(CONFIG, 2).experts)
    left[0] = 3
    with pytest.raises(FloatingPointError, match="all 3 networks that were drawn diverged"):
        search(CONFIG, DATA, verbose=0)


def test_trials_are_drawn_apart_and_by_the_seed():
    many = [drawn(CONFIG, trial) for trial in range(40)]
    assert drawn(CONFIG, 3) == many[3]
    assert len({network.line for network in many}) > 20
    other = dataclasses.replace(CONFIG.training, seed=2)
    assert drawn(dataclasses.replace(CONFIG, training=other), 0).experts != many[0].experts
    labels = [network.interaction.label for network in many]
    assert np.ptp(np.unique(labels, return_counts=True)[1]) < 20


@pytest.mark.slow
def test_networks_that_were_drawn_are_trained_and_the_best_can_be_trained_again():
    from tfmtl.run import train
    from tfmtl.training.epochs import best_metrics

    config = searches.replaced(CONFIG, trials=2)
    found = search(config, DATA, verbose=0)
    best = min(row["val_loss"] for row in found.history)
    assert best_metrics(train(found.experiment, DATA, verbose=0))["loss"] == best
