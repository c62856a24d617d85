import json

import numpy as np
import pytest

from tfmtl import (
    ExperimentConfig,
    Model,
    ProblemSpec,
    Training,
    Tuning,
    binary,
    by_row_number,
    numerical,
)
from tfmtl.errors import SpecError
from tfmtl.features.prepare import prepare
from tfmtl.tuning import tune
from tfmtl.tuning.space import apply_hyperparameters, check_tuning, trial_experiment

PROBLEM = ProblemSpec(
    features=(numerical("x"), numerical("z")), tasks=(binary("y", label="y"),), space="row"
)


def experiment(space, **settings):
    return ExperimentConfig(
        name="search",
        problem=PROBLEM,
        split=by_row_number(),
        model=Model(
            backbone={"name": "shared_bottom", "bottom_units": (4,)}, dim=4, tower_units=(4,)
        ),
        training=Training(epochs=9, batch_size=64),
        tuning=Tuning(space=space, **settings),
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "is empty"),
        ({"training.rate": [1]}, "Training has no field 'rate'"),
        ({"problem.scene": ["a", "b"]}, "no field of model or training"),
        ({"training.epochs": 3}, "a list of values"),
        ({"training.learning_rate": {"min": 0.1, "max": 0.01}}, "'min' must lie below"),
        ({"training.learning_rate": {"min": 0.1, "maxi": 1}}, "Did you mean 'max'"),
        ({"training.learning_rate": {"min": 0, "max": 1, "sampling": "log"}}, "above 0"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, message):
    with pytest.raises(SpecError, match=message):
        check_tuning(experiment(space))


def test_what_keras_tuner_chose_becomes_the_declared_value_again():
    searched = experiment(
        {
            "model.backbone.bottom_units": [(8,), (8, 4)],
            "model.numeric_mode": ["joint", "fieldwise"],
            "model.tower_units": [None, (4,)],
            "training.learning_rate": {"min": 1e-4, "max": 1e-2, "sampling": "log"},
        }
    )
    parameters = tune.search_space(searched.tuning.space)
    for name, value in [
        ("model.backbone.bottom_units", "[8, 4]"),
        ("model.numeric_mode", "fieldwise"),
        ("model.tower_units", "null"),
        ("training.learning_rate", 0.002),
    ]:
        parameters.values[name] = value
    # The way that TFX sends them from Tuner to Trainer.
    sent = json.loads(json.dumps(parameters.get_config()))
    found = apply_hyperparameters(searched, sent)
    assert found.model.backbone["bottom_units"] == (8, 4)
    assert found.model.numeric_mode == "fieldwise"
    assert found.model.tower_units is None
    assert found.training.learning_rate == 0.002
    assert found.training.epochs == 9


def test_a_search_reaches_into_the_list_of_terms_and_moves_that_term_alone():
    terms = ({"name": "order_calibration"}, {"name": "order_calibration", "weight": 0.1})
    declared = experiment({"training.epochs": [1]}).replace_path("model.terms", terms)
    found = declared.replace_path("model.terms.1.weight", 0.5)
    assert found.model.terms == (terms[0], {"name": "order_calibration", "weight": 0.5})
    assert declared.model.terms[1]["weight"] == 0.1
    for place in ("2", "-1", "pwiser"):
        with pytest.raises(SpecError, match=f"'{place}' is no place in a list of 2"):
            declared.replace_path(f"model.terms.{place}.weight", 0.5)


def test_a_trial_is_as_long_as_the_search_says():
    searched = experiment({"training.learning_rate": [0.1]}, epochs=2)
    trial = trial_experiment(searched, searched.tuning, {"training.learning_rate": 0.1})
    assert trial.training.epochs == 2 and trial.training.learning_rate == 0.1


def test_losses_are_minimised_and_aucs_maximised():
    assert tune.direction("y/log_loss@row") == tune.direction("loss") == "min"
    assert tune.direction("y/auc@row") == tune.direction("mean_auc") == "max"
    assert (tune.direction("y/brier@row"), tune.direction("y/pr_auc@row")) == ("min", "max")
    with pytest.raises(SpecError, match="Did you mean 'log_loss'"):
        tune.direction("y/logloss@row")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    tables = {}
    for name, rows in [("train", 1024), ("validation", 512), ("test", 512)]:
        x, z = rng.normal(size=(2, rows)).astype(np.float32)
        tables[name] = {"x": x, "z": z, "y": (x + rng.normal(size=rows) > 0).astype(np.float32)}
    return prepare(PROBLEM, tables).data


@pytest.mark.parametrize("algorithm", ["random", "bayesian"])
def test_the_search_prefers_the_rate_that_learns_and_remembers_its_trials(
    tmp_path, data, algorithm
):
    searched = experiment(
        {"training.learning_rate": [1e-9, 3e-2], "model.backbone.bottom_units": [(4,), (8, 4)]},
        trials=3,
        epochs=2,
        algorithm=algorithm,
    )
    tuner = tune.ExperimentTuner(searched, directory=str(tmp_path), verbose=0)
    tuner.search(data=data)
    (best,) = tuner.get_best_hyperparameters()
    assert best.get("training.learning_rate") == 3e-2
    again = tune.ExperimentTuner(searched, directory=str(tmp_path), verbose=0)
    again.run_trial = None  # A finished search trains nothing more.
    again.search(data=data)
    assert again.get_best_hyperparameters()[0].values == best.values


def test_a_mistake_of_the_user_ends_the_search_at_once(tmp_path, data, monkeypatch):
    def refuse(*_):
        raise SpecError("y/auc@click")

    # What a candidate gets wrong is said before the search; a trial can still stumble over data.
    monkeypatch.setattr(tune, "trial_experiment", refuse)
    declared = experiment({"training.learning_rate": [0.1]})
    tuner = tune.ExperimentTuner(declared, directory=str(tmp_path), verbose=0)
    with pytest.raises(Exception, match="y/auc@click") as raised:
        tuner.search(data=data)
    assert isinstance(raised.value.__cause__, SpecError)
