"""The search for a network as a tuner: one trial, whose result is an architecture's JSON."""

import json
import os

import pytest

from tests.doubles import searches
from tfmtl import registry
from tfmtl.automtl import search as searching
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.bilevel import Bilevel
from tfmtl.automtl.supernet import Supernet
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import SpecError
from tfmtl.operations.base import Operation
from tfmtl.run import train
from tfmtl.tuning import tune_architecture
from tfmtl.tuning.space import ARCHITECTURE, apply_hyperparameters
from tfmtl.tuning.tune_architecture import ArchitectureTuner

SMALL = {"num_experts": 2, "num_blocks": 1, "epochs": 2}


def experiment(**changes):
    return searches.experiment(searches.declared(**{**SMALL, **changes}), checkpoint_every=2)


def tuner_of(folder, **changes):
    return ArchitectureTuner(experiment(**changes), directory=str(folder), verbose=0)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tuner that has searched, and what its search returned."""
    found = []

    def spied(*args, **kwargs):
        found.append(searching.search(*args, **kwargs))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_architecture, "search", spied)
        tuner = tuner_of(tmp_path_factory.mktemp("tuned"))
        tuner.search(data=searches.data())
    (only,) = found
    return tuner, only


def test_the_best_hyper_parameters_are_the_architectures_json(tuned):
    tuner, found = tuned
    (best,) = tuner.get_best_hyperparameters()
    assert list(best.values) == [ARCHITECTURE]
    assert Architecture.from_json(best.get(ARCHITECTURE)) == found.architecture
    # As TFX sends them from Tuner to Trainer.
    sent = json.loads(json.dumps(best.get_config()))
    assert apply_hyperparameters(experiment(), sent) == found.experiment
    assert found.experiment.search is None
    assert found.experiment.model.backbone["name"] == "automtl"
    score = tuner.oracle.get_best_trials()[0].score
    assert score == pytest.approx(found.history[-1]["val_loss"])


def test_what_was_found_is_trained_without_a_supernet(tuned, monkeypatch):
    tuner, _ = tuned
    built = []
    monkeypatch.setattr(Supernet, "build", lambda *args: built.append(args))
    monkeypatch.setattr(Bilevel, "__init__", lambda *args: built.append(args))
    (best,) = tuner.get_best_hyperparameters()
    text = apply_hyperparameters(experiment(), best.values).to_json()
    rebuilt = ExperimentConfig.from_json(text)
    trained = train(rebuilt, searches.data(), verbose=0)
    assert not built
    names = [variable.name for variable in trained.model.variables]
    # Not `beta`: a layer that is normalised has one of its own.
    search_s_own = ("supernet", "alpha_", "skip_weight")
    assert not [name for name in names if any(part in name for part in search_s_own)]
    count = len(Architecture.from_json(best.get(ARCHITECTURE)).experts)
    assert len(trained.model.backbone.experts) == count <= 2
    # Keras wraps what layers keep: an experiment is the same after it was trained.
    assert rebuilt.to_json() == text


def test_a_finished_trial_keeps_what_it_found_and_no_checkpoints(tuned):
    tuner, found = tuned
    (trial,) = tuner.oracle.get_best_trials()
    folder = tuner.folder_of(trial)
    files = os.listdir(folder)
    assert {"architecture.json", "architecture.png", "history.json", "budget.json"} <= set(files)
    assert {"beta_heatmap.png", "skip_counts.png", "gradient_direction.csv"} <= set(files)
    assert "checkpoints" not in files
    with open(os.path.join(folder, "architecture.json"), encoding="utf-8") as file:
        assert Architecture.from_json(file.read()) == found.architecture


def test_a_second_search_in_the_same_directory_searches_nothing(tuned, monkeypatch):
    tuner, _ = tuned
    monkeypatch.setattr(tune_architecture, "search", None)
    again = ArchitectureTuner(tuner.experiment, directory=tuner.directory, verbose=0)
    again.search(data=searches.data())
    (best,) = tuner.get_best_hyperparameters()
    assert again.get_best_hyperparameters()[0].values == best.values


def test_summaries_say_the_space_and_the_network_and_print_no_json(tuned, caplog, capsys):
    tuner, found = tuned
    with caplog.at_level("INFO", logger="absl"):
        tuner.search_space_summary()
        tuner.results_summary()
    assert "2 experts of 1 layers: 3 interactions, 2 poolings and 3 layers" in caplog.text
    assert str(found.architecture) in caplog.text
    assert capsys.readouterr().out == ""


class Killed(BaseException):
    """What no handler of ours catches."""


def test_a_tuner_made_anew_goes_on_where_the_killed_one_was(tuned, tmp_path, monkeypatch):
    _, found = tuned
    folders = []

    def killed(searched, data, *, directory, verbose):
        folders.append(directory)
        os.makedirs(os.path.join(directory, "checkpoints"))
        raise Killed

    def resumed(searched, data, *, directory, verbose):
        folders.append(directory)
        assert os.listdir(directory) == ["checkpoints"]
        return found

    monkeypatch.setattr(tune_architecture, "search", killed)
    with pytest.raises(Killed):
        tuner_of(tmp_path).search(data=None)
    monkeypatch.setattr(tune_architecture, "search", resumed)
    again = tuner_of(tmp_path)
    again.search(data=None)
    assert folders[0] == folders[1]
    assert again.get_best_hyperparameters()[0].get(ARCHITECTURE) == found.architecture.to_json()


@pytest.mark.slow
def test_a_search_killed_inside_an_epoch_finds_what_an_unkilled_one_does(
    tuned, tmp_path, monkeypatch
):
    _, unkilled = tuned
    step, taken = Bilevel.step, []

    def counted(self, train_batch, validation, number):
        if len(taken) == 5:
            taken.append(None)
            raise Killed
        taken.append(number)
        return step(self, train_batch, validation, number)

    monkeypatch.setattr(Bilevel, "step", counted)
    with pytest.raises(Killed):
        tuner_of(tmp_path).search(data=searches.data())
    again = tuner_of(tmp_path)
    again.search(data=searches.data())
    # Of two epochs of six steps five were done, four of them in a checkpoint.
    assert taken == [0, 1, 2, 3, 4, None, *range(4, 12)]
    found = Architecture.from_json(again.get_best_hyperparameters()[0].get(ARCHITECTURE))
    assert unkilled.architecture.tasks == found.tasks
    assert unkilled.architecture.experts == found.experts


@registry.register("hidden", "refuses_its_width")
class Refuses(Operation):
    """A user's layer that does not fit."""

    def build(self, input_shape):
        raise SpecError(f"refuses_its_width: width {input_shape[-1]}; 9 would be right.")


def test_a_mistake_in_the_search_ends_it_with_its_sentence(tmp_path):
    hidden = (*searches.SPACE["hidden"], ("mine", {"name": "refuses_its_width"}))
    with pytest.raises(Exception, match="width 8; 9 would be right") as raised:
        tuner_of(tmp_path, hidden=hidden).search(data=searches.data())
    assert isinstance(raised.value.__cause__, SpecError)


def test_whatever_ends_a_search_is_told_and_leaves_no_trial_behind(tuned, tmp_path, monkeypatch):
    def diverges(*args, **kwargs):
        raise FloatingPointError("the search diverged")

    monkeypatch.setattr(tune_architecture, "search", diverges)
    with pytest.raises(Exception, match="the search diverged"):
        tuner_of(tmp_path).search(data=None)
    monkeypatch.setattr(tune_architecture, "search", lambda *args, **kwargs: tuned[1])
    again = tuner_of(tmp_path)
    again.search(data=None)
    assert again.get_best_hyperparameters()


@pytest.mark.slow
def test_a_search_of_drawn_networks_gives_its_best_one(tmp_path):
    tuner = tuner_of(tmp_path, algorithm="random", trials=2)
    tuner.search(data=searches.data())
    (best,) = tuner.get_best_hyperparameters()
    folder = tuner.folder_of(tuner.oracle.get_best_trials()[0])
    with open(os.path.join(folder, "history.json"), encoding="utf-8") as file:
        trials = json.load(file)
    lower = min(trials, key=lambda row: row["val_loss"])
    found = Architecture.from_json(best.get(ARCHITECTURE))
    assert found.line == Architecture.from_json(lower["architecture"]).line
    assert len(trials) == 2 and trials[0]["line"] != trials[1]["line"]


def test_training_says_how_to_search_first(monkeypatch):
    with pytest.raises(SpecError, match=r"leaves its network to a search: found = tfmtl.search"):
        train(experiment(), searches.data(), verbose=0)


def test_a_tuner_is_refused_an_experiment_without_a_search(tmp_path):
    with pytest.raises(SpecError, match=r"ExperimentConfig\(search=AutoMTL\(\)\) does"):
        bare = experiment().replace_path("search", None)
        ArchitectureTuner(bare, directory=str(tmp_path))
    assert not os.listdir(tmp_path)
