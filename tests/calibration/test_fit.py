"""Calibrators of a whole model: fitted per task and scene, funnel-consistent, exported."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.served import random_model
from tests.doubles.worlds import PROBLEM, experiment, packed, rows
from tfmtl import ExperimentConfig, calibrate, calibration_report, train
from tfmtl.backbones.scenes import scene_of
from tfmtl.declare.calibration import Calibration
from tfmtl.errors import SpecError
from tfmtl.features.rows import ArrayRows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export
from tfmtl.serving.towers import tower_vector

PREPROCESSOR, DATA = packed(1280, 8000)
TASKS = ("ctr", "cvr", "ctcvr")


def model_of(semantics="ctcvr_direct", backbone="shared_bottom"):
    config = experiment(backbone={"name": backbone}, conv_semantics=semantics).model
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, config)
    model(next(iter(DATA.train.batches(4))))
    return model


def shift_scene(model, scene=2, by=1.5):
    """Data whose click labels in one scene are of a logit that is shifted."""
    rng = np.random.default_rng(0)
    batch = next(iter(DATA.validation.batches(8000)))
    outputs, _ = model.forward(batch)
    columns = {name: values.numpy() for name, values in batch.items()}
    scenes = scene_of(PROBLEM.scene_feature(), PROBLEM, batch).numpy()
    logits = outputs["ctr"]["logit"].numpy() + np.where(scenes == scene, by, 0.0)
    columns["labels"][:, 0] = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    return ArrayRows(columns), scenes


def ratio(model, data, chosen):
    predicted = model.predict_rows(data.batches(4096))
    return predicted.predictions["ctr"][chosen].mean() / predicted.labels[chosen, 0].mean()


@pytest.mark.parametrize("by_scene", [True, False])
def test_a_shift_of_one_scene_is_repaired_by_scene_alone(by_scene):
    model = model_of()
    data, scenes = shift_scene(model)
    assert ratio(model, data, scenes == 2) < 0.75
    calibrate(model, data, Calibration(by_scene=by_scene, tasks=("ctr",)))
    apart = [ratio(model, data, scenes == scene) for scene in (2, 3)]
    if by_scene:
        np.testing.assert_allclose(apart, 1, atol=0.03)
    else:
        assert apart[0] < 0.9 and apart[1] > 1.1
        assert ratio(model, data, slice(None)) == pytest.approx(1, abs=0.01)


def test_losses_do_not_see_calibrators_and_predictions_do():
    model = model_of()
    batch = next(iter(DATA.train.batches(64)))
    loss, before = model.compute_loss(batch)[0], model(batch)["ctr"]
    calibrators = calibrate(model, shift_scene(model)[0], Calibration(tasks=("ctr",)))
    assert model.compute_loss(batch)[0] == loss
    assert np.abs(model(batch)["ctr"] - before).max() > 0.01
    model.calibrate_with(None)
    np.testing.assert_array_equal(model(batch)["ctr"], before)
    assert calibrators.record["tasks"]["ctr"]["pooled"]["kept"]


@pytest.mark.parametrize("semantics", ["ctcvr_direct", "esmm", "cvr_click"])
def test_conversions_are_never_likelier_than_clicks(semantics):
    model = model_of(semantics)
    calibrate(model, DATA.validation, Calibration(method="isotonic"))
    predicted = model.predict_rows(DATA.validation.batches(4096)).predictions
    assert (predicted["ctcvr"] <= predicted["ctr"]).all()
    if semantics != "ctcvr_direct":
        product = predicted["ctr"] * predicted["cvr"]
        np.testing.assert_allclose(predicted["ctcvr"], product, rtol=1e-4, atol=1e-7)


def test_the_order_within_a_task_and_scene_is_kept():
    model = model_of()
    before = model.predict_rows(DATA.validation.batches(4096)).predictions["ctr"]
    data, scenes = shift_scene(model)
    calibrate(model, data, Calibration(method="isotonic", tasks=("ctr",)))
    after = model.predict_rows(data.batches(4096)).predictions["ctr"]
    for scene in (2, 3):
        order = np.argsort(before[scenes == scene], kind="stable")
        assert (np.diff(after[scenes == scene][order].astype(np.float64)) >= -1e-7).all()


def test_a_scene_with_few_positives_has_the_pooled_curve():
    model = model_of()
    data, scenes = shift_scene(model)
    batch = {k: v.numpy() for k, v in next(iter(data.batches(8000))).items()}
    positives = np.flatnonzero((scenes == 2) & (batch["labels"][:, 0] > 0))
    batch["labels"][positives[30:], 0] = 0
    calibrators = calibrate(model, ArrayRows(batch), Calibration(tasks=("ctr",)))
    assert list(calibrators.record["tasks"]["ctr"]["scenes"]) == ["3"]


def test_a_calibrator_that_does_not_help_is_not_kept():
    model = model_of()
    data, _ = shift_scene(model, by=0.0)
    task = calibrate(model, data, Calibration(method="isotonic")).record["tasks"]["ctr"]
    for told in (task["pooled"], *task["scenes"].values()):
        assert told["kept"] == (told["log_loss_after"] < told["log_loss_before"])
        if not told["kept"]:
            assert told["x"] == [0.0] and told["y"] == [0.0] and told["slope"] == 1.0


def test_the_export_has_the_calibrators_and_their_record(tmp_path):
    model = model_of()
    calibrate(model, shift_scene(model)[0], Calibration())
    path = export(model, PREPROCESSOR, str(tmp_path / "1"))
    raw = rows(50, seed=3)
    given = {name: raw[name] for name in PROBLEM.feature_columns()}
    named = {
        name: v.to_tensor("" if v.dtype == tf.string else np.nan)
        if isinstance(v, tf.RaggedTensor)
        else tf.constant(v)
        for name, v in given.items()
    }
    served = tf.saved_model.load(path).signatures["predict"](**named)
    for task, expected in model(PREPROCESSOR(given)).items():
        np.testing.assert_allclose(served[task], expected, atol=1e-6)
    with open(f"{path}/assets.extra/calibration.json") as file:
        record = json.load(file)
    assert record["method"] == "platt" and set(record["tasks"]) == set(TASKS)


def test_the_report_tells_before_and_after_per_task_and_scene():
    model = model_of()
    data, _ = shift_scene(model)
    calibrate(model, data, Calibration(tasks=("ctr",)))
    report = calibration_report(model, data)
    assert set(report.index.get_level_values("task")) == set(TASKS)
    for scene in (2, 3, "all"):
        line = report.loc[("ctr", scene)]
        assert abs(line["calibration_after"] - 1) <= abs(line["calibration_before"] - 1)
        assert line["log_loss_after"] <= line["log_loss_before"]
        if scene != "all":
            assert line["auc_after"] == pytest.approx(line["auc_before"], abs=1e-6)


def test_train_calibrates_and_a_report_of_other_rows_can_be_had():
    config = dataclasses.replace(experiment(epochs=1), calibration=Calibration())
    assert ExperimentConfig.from_json(config.to_json()) == config
    trained = train(config, DATA, verbose=0)
    assert trained.model.heads.calibrators is not None
    assert len(calibration_report(trained.model, DATA.train)) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "plat"}, "method"),
        ({"tasks": ("cqs",)}, "'cqs'.*binary tasks are"),
        ({"tasks": ("ctrr",)}, "Did you mean 'ctr'"),
    ],
)
def test_a_wrong_setting_is_refused_when_it_is_declared(settings, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(experiment(), calibration=Calibration(**settings))


def test_a_product_has_no_calibrator_of_its_own():
    with pytest.raises(SpecError, match="'ctcvr'.*logit of their own are"):
        calibrate(model_of("esmm"), DATA.validation, Calibration(tasks=("ctcvr",)))


def test_towers_are_calibrated_without_scenes(tmp_path):
    model = random_model("two_tower")
    with pytest.raises(SpecError, match="by_scene=False"):
        calibrate(model, DATA.validation, Calibration())
    calibrate(model, DATA.validation, Calibration(by_scene=False))
    raw = {name: rows(20, seed=3)[name] for name in PROBLEM.feature_columns()}
    path = export(model, PREPROCESSOR, str(tmp_path / "1"))
    signatures = tf.saved_model.load(path).signatures
    packed_rows = PREPROCESSOR(raw)
    vectors = {t: tower_vector(model, t, packed_rows) for t in ("user", "ad")}
    ranked = signatures["rank"](user=vectors["user"], ads=vectors["ad"])
    np.testing.assert_allclose(ranked["ctr"], model(packed_rows)["ctr"], atol=1e-6)
