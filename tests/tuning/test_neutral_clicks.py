"""The search for loss weights: its guard of the click loss, and whose trials are whose.

Nothing is trained: a trial's metrics are a rule of its weights.
"""

import pytest

from pipeline.config import load
from tfmtl.training.epochs import Trained
from tfmtl.tuning import loss_weights, tune
from tfmtl.tuning.loss_weights import tune_loss_weights

EXPERIMENT = load("early_stage").experiment
RECALL = f"soft_recall@{EXPERIMENT.replay.k}"
NE = EXPERIMENT.problem.metric_name(EXPERIMENT.value.ctr, "ne")
CANDIDATES = {EXPERIMENT.value.cqs: (1.0, 2.0, 4.0)}


@pytest.fixture
def trained(monkeypatch):
    """Weights that were trained with; more weight on quality, more recall and worse clicks."""
    weights = []

    def train(experiment, data, **_):
        weight = experiment.model.balancer["task_weights"][EXPERIMENT.value.cqs]
        weights.append(weight)
        # Another rate turns the recall around.
        recall = weight if experiment.training.learning_rate == RATE else 10 - weight
        found = {f"val_{RECALL}": recall, f"val_{NE}": 1 + weight / 10, "val_mean_auc": 0.5}
        return Trained(None, [found], 0)

    for module in (loss_weights, tune):
        monkeypatch.setattr(module, "train", train)
    return weights


RATE = EXPERIMENT.training.learning_rate


def tuned(folder, experiment=EXPERIMENT, **settings):
    return tune_loss_weights(
        experiment,
        None,
        validate=lambda model: {},
        directory=str(folder),
        candidates=CANDIDATES,
        **settings,
    )


def test_the_best_recall_is_taken_among_those_that_leave_the_clicks_alone(tmp_path, trained):
    found = tuned(tmp_path, worse_ne=0.25)
    assert found.most_ne == pytest.approx(1.25)
    assert {row["ne"]: row["allowed"] for row in found.trials} == pytest.approx(
        {1.1: True, 1.2: True, 1.4: False}
    )
    # 4.0 has the best recall of all.
    assert found.weights[EXPERIMENT.value.cqs] == 2.0


def test_where_no_weights_leave_the_clicks_alone_the_least_harm_is_taken(tmp_path, trained, caplog):
    found = tuned(tmp_path, worse_ne=0.05)
    assert found.weights[EXPERIMENT.value.cqs] == 1.0
    assert "the least is taken" in caplog.text


def test_two_experiments_of_one_directory_have_trials_of_their_own(tmp_path, trained):
    assert tuned(tmp_path, worse_ne=0.25).weights[EXPERIMENT.value.cqs] == 2.0
    first = list(trained)
    trained.clear()
    other = EXPERIMENT.replace_path("training.learning_rate", RATE * 2)
    assert tuned(tmp_path, other, worse_ne=0.25).weights[EXPERIMENT.value.cqs] == 1.0
    assert sorted(trained) == sorted(first) == [0.0, 1.0, 2.0, 4.0]
    # The first one's are still there.
    trained.clear()
    assert tuned(tmp_path, worse_ne=0.25).weights[EXPERIMENT.value.cqs] == 2.0
    assert trained == []
