"""An interaction between embedding and backbone: declared, trained, saved and served."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline.config import check
from tests.doubles.mtms_rows import experiment as mtms_experiment
from tests.doubles.worlds import SMALL
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.operations import CrossNetwork
from tfmtl.serving.export import export
from tfmtl.training.epochs import compile_model

CROSS = {"name": "cross", "layers": 2}
PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        categorical("scene"),
        numerical("price", side="ad"),
    ),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
    scene="scene",
)


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.choice(["u1", "u2", "u3"], count),
            "scene": rng.choice(["feed", "search"], count),
            "price": rng.lognormal(size=count).astype(np.float32),
            "click": rng.integers(0, 2, count).astype(np.float32),
            "like": rng.integers(0, 2, count).astype(np.float32),
        }
    )


PREPROCESSOR = Preprocessor(PROBLEM)
BATCH = {name: tf.constant(value) for name, value in PREPROCESSOR.fit(rows(64)).items()}


def settings_of(interaction, backbone="shared_bottom", **changes):
    named = {"name": backbone, **SMALL[backbone]}
    towers = () if backbone == "per_scene" else (8,)
    model = {"backbone": named, "interaction": interaction, "dim": 8, "tower_units": towers}
    return ExperimentConfig(
        name="interacting",
        problem=PROBLEM,
        split=by_row_number(),
        model=Model(**{**model, **changes}),
        training=Training(batch_size=64),
    )


def built(settings):
    rows_of = PREPROCESSOR.table_rows()
    return MultiTaskModel.build_from(PROBLEM, rows_of, settings.model)


def model_of(interaction=CROSS, backbone="shared_bottom", **changes):
    settings = settings_of(interaction, backbone, **changes)
    model = built(settings)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def predictions(model):
    return {task: prediction.numpy() for task, prediction in model(BATCH).items()}


@pytest.mark.parametrize("backbone", ["shared_bottom", "single_task"])
@pytest.mark.parametrize("interaction", [CROSS, {"name": "self_attention"}], ids=["cross", "sa"])
def test_a_step_moves_every_weight_of_the_interaction(interaction, backbone):
    model = model_of(interaction, backbone)
    own = [v for v in model.dense_variables if "interaction" in v.name]
    per_interaction = 6 if interaction == CROSS else 4
    owners = len(PROBLEM.tasks) if backbone == "single_task" else 1
    assert len(own) == per_interaction * owners
    before = [v.numpy() for v in own]
    model.train_step(BATCH)
    for v, old in zip(own, before, strict=True):
        assert np.abs(v.numpy() - old).max() > 0, v.name


def test_the_backbone_reads_what_the_interaction_makes_of_the_fields():
    model = model_of()
    fields = model.embedding(BATCH)
    through = model.heads(model.backbone(model.interaction(fields)))
    past = model.heads(model.backbone(fields))
    for task, prediction in predictions(model).items():
        np.testing.assert_allclose(prediction, through[task]["prediction"], atol=1e-5)
        assert np.abs(prediction - past[task]["prediction"]).max() > 1e-3


def test_skip_is_the_model_without_an_interaction():
    skipping, plain = model_of({"name": "skip"}), model_of(None)
    assert len(skipping.variables) == len(plain.variables)
    for v, other in zip(skipping.variables, plain.variables, strict=True):
        v.assign(other)
    for task, prediction in predictions(skipping).items():
        np.testing.assert_array_equal(prediction, predictions(plain)[task])


def test_the_tasks_of_single_task_each_have_an_interaction_of_their_own():
    model = model_of(backbone="single_task")
    before = predictions(model)
    for v in model.interaction["ctr"].weights:
        v.assign(v + 0.5)
    for task, prediction in predictions(model).items():
        changed = np.abs(prediction - before[task]).max() > 1e-4
        assert changed == (task == "ctr"), task


def test_weight_decay_is_on_the_kernels_of_an_interaction_and_not_on_its_biases():
    model = model_of(l2=1.0)
    first = float(model.compute_loss(BATCH)[0])
    kernel, bias = model.interaction.down[0], model.interaction.biases[0]
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(BATCH)
    of_kernel, of_bias = tape.gradient(loss, [kernel, bias])
    model.l2 = 0.0
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(BATCH)
    assert float(loss) < first
    alone, alone_bias = tape.gradient(loss, [kernel, bias])
    np.testing.assert_allclose(of_kernel - alone, kernel, atol=1e-4)
    np.testing.assert_allclose(of_bias, alone_bias, atol=1e-4)


@pytest.mark.parametrize("backbone", ["shared_bottom", "single_task"])
def test_saved_weights_are_found_again(backbone, tmp_path):
    model, other = model_of(backbone=backbone), model_of(backbone=backbone)
    model.train_step(BATCH)
    model.save_weights(str(tmp_path / "weights"))
    other.load_weights(str(tmp_path / "weights")).assert_existing_objects_matched()
    for task, prediction in predictions(other).items():
        np.testing.assert_allclose(prediction, predictions(model)[task], atol=1e-6)


@pytest.mark.parametrize(
    "backbone", [pytest.param("shared_bottom", marks=pytest.mark.slow), "single_task"]
)
def test_the_exported_model_says_what_the_trained_one_does(backbone, tmp_path):
    model = model_of(backbone=backbone)
    for v in model.trainable_variables:
        v.assign(tf.random.stateless_normal(v.shape, [1, 2], stddev=0.3))
    raw = {name: rows(20, seed=5)[name].to_numpy() for name in PROBLEM.feature_columns()}
    served = tf.saved_model.load(export(model, PREPROCESSOR, str(tmp_path / "model")))
    found = served.signatures["predict"](
        **{
            name: tf.constant(values.tolist() if values.dtype == object else values)
            for name, values in raw.items()
        }
    )
    for task, expected in model(PREPROCESSOR(raw)).items():
        np.testing.assert_allclose(found[task], expected, rtol=1e-4, atol=1e-5)


def test_an_experiment_with_an_interaction_survives_json_and_is_searched_by_path():
    settings = settings_of(CROSS)
    again = ExperimentConfig.from_json(settings.to_json())
    assert again == settings and again.model.interaction == CROSS
    assert settings.replace_path("model.interaction.layers", 3).model.interaction["layers"] == 3
    check(again)


@pytest.mark.parametrize(
    ("interaction", "backbone", "says"),
    [
        ({"name": "crss"}, "mmoe", "Did you mean 'cross'"),
        ({"name": "cross", "layer": 2}, "mmoe", "no argument 'layer'"),
        ({"name": "self_attention", "heads": 3}, "mmoe", "heads=3 .* dim=8"),
        (CROSS, "two_tower", "towers have interactions of their own"),
        (CROSS, "per_scene", "whose scenes share nothing"),
    ],
)
def test_an_interaction_that_does_not_fit_is_refused_before_anything_is_read(
    interaction, backbone, says
):
    with pytest.raises(SpecError, match=f"model.interaction: .*{says}"):
        settings_of(interaction, backbone)


def test_the_layer_is_the_registered_one_with_the_declared_arguments():
    interaction = model_of({"name": "cross", "layers": 3, "rank": 2}).interaction
    assert isinstance(interaction, CrossNetwork)
    assert (interaction.layers, interaction.rank, interaction.name) == (3, 2, "interaction")


def test_the_networks_of_mtms_take_no_interaction():
    settings = mtms_experiment()
    with pytest.raises(SpecError, match="networks of mtms .* leave it out"):
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, interaction=CROSS))
