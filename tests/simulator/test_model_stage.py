"""Trained models as early stages: cached users and ads predict what their pairs' rows would."""

import dataclasses

import numpy as np
import pytest

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.random_weights import randomise
from tfmtl.declare import early_stage
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, categorical, numerical
from tfmtl.declare.total_value import TotalValue
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.simulator import (
    Funnel,
    auction_value,
    consolidated_log,
    draw_world,
    early_columns,
    funnel_constants,
    logging_policy,
    retrieve,
    run_funnel,
)
from tfmtl.simulator import model_stage as stages
from tfmtl.simulator.model_stage import model_stage, predictor

FUNNEL = Funnel(retrieved=40, passed=8)
FEATURES = (
    categorical("user_id", dtype="int64", side="user"),
    categorical("segment", side="user"),
    categorical("interests", side="user", max_values=3),
    numerical("age", side="user"),
    numerical("user_dense_0", side="user"),
    categorical("ad_id", dtype="int64", side="ad"),
    categorical("category", side="ad"),
    categorical("objective", side="ad"),
    numerical("bid", side="ad"),
)
SCENE = categorical("scene")
BACKBONES = {
    "two_tower": {"user_units": (8,), "ad_units": (8,), "width": 4},
    "mmoe": {"num_experts": 2, "expert_units": (8,)},
}


def world_of(scenes):
    constants = dataclasses.replace(funnel_constants(scenes), users=200, ads=120)
    return draw_world(3, days=3, constants=constants)


WORLDS = {scenes: world_of(scenes) for scenes in (1, 2)}


def problem(*more, features=FEATURES):
    return ProblemSpec(
        features=(*features, *more), tasks=early_stage.tasks(), indicators=early_stage.INDICATORS
    )


def model_of(world, spec, name="two_tower", **backbone):
    """A model with random weights, and what packs its rows."""
    log = consolidated_log(world, FUNNEL, logging_policy(world), requests=60, days=1)
    preprocessor = Preprocessor(spec)
    packed = preprocessor.fit(log)
    units = () if backbone.get("interaction") == "dot" else (8,)
    config = Model(backbone={"name": name, **BACKBONES[name], **backbone}, dim=4, tower_units=units)
    model = MultiTaskModel.build_from(spec, preprocessor.table_rows(), config)
    model(packed)
    randomise(model)
    return model, preprocessor


def candidates_of(world, requests=30):
    return retrieve(world, FUNNEL, requests=requests, first_request=900, seed=2, day=1)


def by_rows(world, model, preprocessor, candidates):
    """Predictions of every pair as a row of its own."""
    row, column = (index.ravel() for index in np.indices(candidates.ad.shape))
    packed = preprocessor(early_columns(world, candidates, row, column))
    served = model.predict_served(packed)
    return {task: p.numpy().reshape(candidates.ad.shape) for task, p in served.items()}


@pytest.mark.parametrize("scenes", [1, 2])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("two_tower", {}), ("two_tower", {"interaction": "dot"}), ("mmoe", {})],
    ids=["joint", "dot", "mmoe"],
)
def test_cached_users_and_ads_predict_what_rows_of_pairs_do(scenes, name, arguments):
    world = WORLDS[scenes]
    model, preprocessor = model_of(world, problem(SCENE), name, **arguments)
    candidates = candidates_of(world)
    assert len(set(candidates.scene)) == scenes
    found = predictor(world, model, preprocessor)(candidates)
    expected = by_rows(world, model, preprocessor, candidates)
    assert set(found) == set(expected) == {"ctr", "cqs"}
    for task, values in expected.items():
        assert values.std() > 1e-3
        np.testing.assert_allclose(found[task], values, rtol=1e-5, atol=1e-6, err_msg=task)


def test_the_scene_of_a_request_is_read():
    world = WORLDS[2]
    model, preprocessor = model_of(world, problem(SCENE))
    predict, candidates = predictor(world, model, preprocessor), candidates_of(world)
    moved = dataclasses.replace(candidates, scene=1 - candidates.scene)
    assert (predict(moved)["ctr"] != predict(candidates)["ctr"]).mean() > 0.9


def test_pairs_are_predicted_alike_in_steps_of_any_size(monkeypatch):
    world = WORLDS[1]
    candidates = candidates_of(world)
    for name in BACKBONES:
        model, preprocessor = model_of(world, problem(), name)
        whole = predictor(world, model, preprocessor)(candidates)
        with monkeypatch.context() as patch:
            patch.setattr(stages, "PAIRS", 97)
            steps = predictor(world, model, preprocessor)(candidates)
        for task, values in whole.items():
            np.testing.assert_allclose(steps[task], values, rtol=1e-5, atol=1e-6)


def test_the_order_of_candidates_changes_no_prediction_and_no_choice():
    world = WORLDS[1]
    model, preprocessor = model_of(world, problem())
    predict = predictor(world, model, preprocessor)
    stage = model_stage(world, {"ctr": predict, "cqs": predict})
    candidates = candidates_of(world)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(40), (30, 1)), axis=1)
    moved = candidates.permuted(order)
    np.testing.assert_allclose(
        stage(moved), np.take_along_axis(stage(candidates), order, axis=1), rtol=1e-6
    )
    kept = run_funnel(world, FUNNEL, candidates, np.round(stage(candidates), 4))
    again = run_funnel(world, FUNNEL, moved, np.round(stage(moved), 4))
    np.testing.assert_array_equal(kept.ad, again.ad)


def test_an_early_value_is_the_total_value_of_what_is_predicted():
    world = WORLDS[1]
    candidates = candidates_of(world)
    rng = np.random.default_rng(0)
    pctr, cqs = rng.random(candidates.ad.shape), rng.normal(size=candidates.ad.shape)
    found = model_stage(world, {"ctr": lambda c: {"ctr": pctr}, "cqs": lambda c: {"cqs": cqs}})
    names = np.array(list(world.constants.objectives))[candidates.objective]
    expected = auction_value(world.constants)(
        pctr=pctr, rate=candidates.early_cvr, cqs=cqs, bid=candidates.bid, objective=names
    )
    np.testing.assert_array_equal(found(candidates), expected)
    action = {
        "click": pctr,
        "conversion": pctr * candidates.early_cvr,
        "view_conversion": candidates.early_cvr,
    }
    by_hand = candidates.bid * np.select([names == n for n in action], action.values()) + cqs
    np.testing.assert_allclose(found(candidates), by_hand, rtol=1e-12)


def test_a_value_without_quality_needs_no_predictor_of_it():
    world = WORLDS[1]
    value = TotalValue(actions=dict(auction_value(world.constants).actions), cqs=None)
    candidates = candidates_of(world)
    stage = model_stage(world, {"ctr": lambda c: {"ctr": np.ones(c.ad.shape)}}, value=value)
    rate = np.where(candidates.objective == 0, 1, candidates.early_cvr)
    np.testing.assert_allclose(stage(candidates), candidates.bid * rate, rtol=1e-12)


def test_a_model_that_predicts_both_is_asked_once_and_two_are_asked_each():
    world, candidates = WORLDS[1], candidates_of(WORLDS[1])
    asked = []

    def make(name):
        def predict(candidates):
            asked.append(name)
            return {task: np.zeros(candidates.ad.shape) for task in ("ctr", "cqs")}

        return predict

    one, other = make("one"), make("other")
    model_stage(world, {"ctr": one, "cqs": one})(candidates)
    assert asked == ["one"]
    model_stage(world, {"ctr": one, "cqs": other})(candidates)
    assert sorted(asked) == ["one", "one", "other"]


@pytest.mark.parametrize(
    "feature",
    [
        numerical("early_cvr", side="ad"),
        numerical("day"),
        categorical("category", side="user"),
        categorical("segment", side="ad"),
    ],
    ids=lambda feature: f"{feature.name} of {feature.side}",
)
def test_a_feature_that_belongs_to_neither_the_user_nor_the_ad_of_its_side_is_refused(feature):
    world = WORLDS[1]
    features = tuple(f for f in FEATURES if f.name != feature.name)
    model, preprocessor = model_of(world, problem(feature, features=features), "mmoe")
    words = f"of side '{feature.side}' reads '{feature.name}'; users and ads are packed separately"
    with pytest.raises(ValueError, match=words):
        predictor(world, model, preprocessor)
