"""Choosing by replayed recall: as a monitor of training, and in the search for loss weights."""

import numpy as np
import pyarrow.compute as pc
import pytest
import tensorflow as tf

from tfmtl.declare import early_stage
from tfmtl.declare.experiment import ExperimentConfig, Model, Replay, Training
from tfmtl.declare.problem import ProblemSpec, categorical
from tfmtl.declare.split import by_hash
from tfmtl.errors import DataError, SpecError
from tfmtl.features.prepare import prepare
from tfmtl.features.rows import ArrayRows
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import recall_at
from tfmtl.replay.validation import predicted, replay_validation
from tfmtl.run import train
from tfmtl.simulator.constants import Funnel
from tfmtl.simulator.early_stage import consolidated_log, replay_log
from tfmtl.simulator.funnel import auction_value, logging_policy
from tfmtl.simulator.world import draw_world
from tfmtl.tuning.loss_weights import tune_loss_weights

PROBLEM = ProblemSpec(
    features=(
        categorical("segment", side="user"),
        categorical("category", side="ad"),
        categorical("objective", side="ad"),
    ),
    tasks=early_stage.tasks(),
    indicators=early_stage.INDICATORS,
)


@pytest.fixture(scope="module")
def world():
    return draw_world(3, days=3)


@pytest.fixture(scope="module")
def prepared(world):
    log = consolidated_log(
        world, Funnel(), logging_policy(world), requests=400, days=2, keep_final=0.1
    )
    last = pc.equal(log["day"], 1)
    tables = {"train": log.filter(pc.invert(last)), "validation": log.filter(last)}
    return prepare(PROBLEM, {**tables, "test": tables["validation"]})


@pytest.fixture(scope="module")
def replayed(world):
    return replay_log(world, Funnel(), requests=40, first_request=1000, first_day=2)


@pytest.fixture(scope="module")
def experiment(world):
    return ExperimentConfig(
        name="small",
        problem=PROBLEM,
        split=by_hash("request_id"),
        model=Model(
            backbone={"name": "two_tower", "user_units": (8,), "ad_units": (8,), "width": 4},
            dim=4,
            balancer={"name": "fixed", "task_weights": early_stage.loss_weights()},
            l2=0.0,
        ),
        training=Training(epochs=2, batch_size=256, learning_rate=1e-2),
        value=auction_value(world.constants),
        replay=Replay(k=20, ks=(5,)),
    )


@pytest.fixture(scope="module")
def model(experiment, prepared):
    return train(experiment, prepared.data, verbose=0).model


def test_training_keeps_the_epoch_with_the_best_replayed_recall(experiment, prepared, replayed):
    validate = replay_validation(experiment, replayed, prepared.preprocessor)
    monitored = experiment.replace_path("training.monitor", "soft_recall@20")
    trained = train(monitored, prepared.data, verbose=0, validate=validate)
    recalls = [epoch["val_soft_recall@20"] for epoch in trained.history]
    assert trained.best_epoch == int(np.argmax(recalls))
    assert validate(trained.model)["soft_recall@20"] == pytest.approx(max(recalls), abs=1e-12)


def test_a_validation_ranks_by_the_total_value_of_the_predictions(
    experiment, model, prepared, replayed
):
    validate = replay_validation(experiment, replayed, prepared.preprocessor)
    packed = prepared.preprocessor(replayed)
    found = {t: p.numpy().astype(float) for t, p in model.predict_served(packed).items()}
    action = {
        "click": found["ctr"],
        "conversion": found["ctr"] * np.asarray(replayed["early_cvr"]),
        "view_conversion": np.asarray(replayed["early_cvr"]),
    }
    objective = np.asarray(replayed["objective"])
    paid = np.select([objective == name for name in action], list(action.values()))
    value = np.asarray(replayed["bid"]) * paid + found["cqs"]
    log = ReplayLog.from_table(replayed)
    by_hand = recall_at(log, value, [20]).values()["soft_recall"][0]
    assert validate(model)["soft_recall@20"] == pytest.approx(by_hand, abs=1e-9)


def test_weights_are_the_best_recall_among_those_with_a_neutral_click_loss(
    experiment, prepared, replayed, tmp_path
):
    validate = replay_validation(experiment, replayed, prepared.preprocessor)
    candidates = {"cqs": (0.5, 8.0), "teacher": (2.0,)}
    settings = {"validate": validate, "directory": str(tmp_path), "candidates": candidates}
    found = tune_loss_weights(experiment, prepared.data, worse_ne=0.02, **settings)
    assert {(t["cqs"], t["teacher"]) for t in found.trials} == {
        (a, b) for a in candidates["cqs"] for b in candidates["teacher"]
    }
    allowed = [t for t in found.trials if t["ne"] <= found.most_ne]
    chosen = max(allowed or found.trials, key=lambda t: t["recall"] if allowed else -t["ne"])
    assert found.weights == {"ctr": 1.0, "cqs": chosen["cqs"], "teacher": chosen["teacher"]}
    assert found.experiment.training.monitor == "soft_recall@20"

    def untrained(model):
        raise AssertionError("a finished trial was trained again")

    again = tune_loss_weights(
        experiment, prepared.data, worse_ne=0.02, **{**settings, "validate": untrained}
    )
    assert again.trials == found.trials


def test_without_the_quality_loss_the_clicks_are_those_of_a_dedicated_model(experiment, prepared):
    # What the search takes for the dedicated model: the quality task at weight 0.
    alone = experiment.replace_path("model.balancer.task_weights.cqs", 0.0)
    model = train(alone.replace_path("training.epochs", 1), prepared.data, verbose=0).model
    batch = next(iter(prepared.data.train.batches(256)))
    with tf.GradientTape() as tape:
        loss, per_task = model.compute_loss(batch, training=True)
    assert float(per_task[1]) > 0
    for gradient in tape.gradient(loss, model.heads.towers["cqs"].trainable_variables):
        assert not np.any(gradient)


def test_predictions_of_unlabelled_rows_are_in_their_order(model, prepared, replayed):
    packed = prepared.preprocessor(replayed)
    packed.pop("group", None)
    found = predicted(model, ArrayRows(packed))
    assert set(found) == {"ctr", "cqs"}
    np.testing.assert_allclose(found["ctr"], model.predict_served(packed)["ctr"], atol=1e-6)


def test_a_metric_that_is_best_at_a_value_is_no_monitor(experiment, prepared):
    monitor = "ctr/calibration@ctr_traffic&is_impression"
    with pytest.raises(SpecError, match="best at 1, neither high nor low"):
        train(experiment.replace_path("training.monitor", monitor), prepared.data, verbose=0)


def test_what_a_search_needs_is_said(experiment, prepared, replayed, tmp_path):
    validate = replay_validation(experiment, replayed, prepared.preprocessor)
    settings = {"validate": validate, "directory": str(tmp_path)}
    learnt = experiment.replace_path("model.balancer", {"name": "uncertainty"})
    with pytest.raises(SpecError, match="balancer 'fixed'; the experiment's is 'uncertainty'"):
        tune_loss_weights(learnt, prepared.data, **settings)
    with pytest.raises(SpecError, match="'quality' is no task"):
        tune_loss_weights(experiment, prepared.data, candidates={"quality": (1.0,)}, **settings)
    with pytest.raises(SpecError, match="no replay=Replay"):
        replay_validation(experiment.replace_path("replay", None), replayed, prepared.preprocessor)
    with pytest.raises(DataError, match="final_tv"):
        replay_validation(experiment, replayed.drop(["final_tv"]), prepared.preprocessor)
