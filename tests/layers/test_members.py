"""Members: several networks that share all but a few vectors, trained as one."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed, rows, towers_of
from tfmtl import registry
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.errors import SpecError
from tfmtl.layers.members import Members
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export, to_examples
from tfmtl.training.epochs import compile_model

PREPROCESSOR, DATA = packed()
BATCH = next(iter(DATA.train.batches(64)))
COUNT = 3
SINGLE = ("per_scene", "two_tower")


def model_of(name="mmoe", members=COUNT, **changes):
    keras.utils.set_random_seed(1)
    settings = experiment(
        backbone={"name": name, **SMALL[name]},
        members=members,
        tower_units=towers_of(name),
        **changes,
    )
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def alone(model, member):
    """One member as a network of its own: the same weights, and only its vectors."""
    single = model_of(members=1)
    for part in ("embedding", "backbone", "heads"):
        pairs = zip(getattr(single, part).variables, getattr(model, part).variables, strict=True)
        for variable, value in pairs:
            variable.assign(value)
    single.members = Members(1, single.backbone.tasks)
    single(BATCH)
    single.members.signs[""].assign(model.members.signs[""][member : member + 1])
    for task in single.backbone.tasks:
        for vectors in ("gains", "offsets"):
            whole = getattr(model.members, vectors)[task]
            getattr(single.members, vectors)[task].assign(whole[member : member + 1])
    return single


def shaken(model):
    for variable in model.trainable_variables:
        variable.assign_add(0.3 * tf.random.normal(variable.shape, seed=2))
    return model


def test_a_prediction_is_the_mean_of_those_of_the_members_as_networks_of_their_own():
    model = shaken(model_of())
    each = [alone(model, m)(BATCH) for m in range(COUNT)]
    for task, prediction in model(BATCH).items():
        mean = np.mean([one[task] for one in each], axis=0)
        np.testing.assert_allclose(prediction, mean, atol=1e-5)
        assert np.std([one[task] for one in each], axis=0).max() > 1e-3


def test_a_loss_is_the_mean_of_the_members_losses_and_not_the_loss_of_their_mean():
    model = shaken(model_of(l2=0.0))
    losses = np.mean([alone(model, m).compute_loss(BATCH)[1] for m in range(COUNT)], axis=0)
    np.testing.assert_allclose(model.compute_loss(BATCH)[1], losses, rtol=1e-4)
    labels, weights = BATCH[LABELS].numpy()[:, 0], BATCH[WEIGHTS].numpy()[:, 0]
    mean = np.clip(model(BATCH)["ctr"].numpy(), 1e-7, 1 - 1e-7)
    of_mean = -np.average(labels * np.log(mean) + (1 - labels) * np.log1p(-mean), weights=weights)
    assert losses[0] > of_mean + 1e-4


def test_members_start_apart_and_stay_apart():
    model = model_of()
    signs = model.members.signs[""].numpy()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert not np.array_equal(signs[0], signs[1])
    step = tf.function(model.train_step)
    for _ in range(5):
        step(BATCH)
    for vectors in (model.members.signs[""], *model.members.gains.values()):
        assert not np.allclose(vectors[0], vectors[1])


def test_the_members_vectors_have_no_weight_decay():
    model = model_of(l2=1.0)
    with tf.GradientTape() as tape:
        decay = model.task_losses(BATCH).others[-1]
    assert tape.gradient(decay, model.members.signs[""]) is None


@pytest.mark.parametrize("name", sorted(set(registry.names("backbone")) - set(SINGLE)))
def test_every_backbone_that_reads_fields_takes_members(name):
    model = model_of(name)
    first = float(model.compute_loss(BATCH)[0])
    step = tf.function(model.train_step)
    for _ in range(20):
        step(BATCH)
    assert float(model.compute_loss(BATCH)[0]) < first
    assert {p.shape.as_list()[0] for p in model(BATCH).values()} == {64}
    served = model.predict_served(BATCH)
    for task, prediction in served.items():
        np.testing.assert_allclose(prediction, model(BATCH)[task], atol=1e-6)


@pytest.mark.parametrize("name", SINGLE)
def test_a_backbone_that_does_not_read_the_fields_of_every_row_is_refused(name):
    with pytest.raises(SpecError, match=r"model.members.*members=3.*Leave members out"):
        experiment(
            backbone={"name": name, **SMALL[name]}, members=COUNT, tower_units=towers_of(name)
        )


def test_a_saved_model_serves_the_mean(tmp_path):
    model = shaken(model_of())
    export(model, PREPROCESSOR, str(tmp_path / "model"))
    columns = {n: v for n, v in rows(16).items() if n in PROBLEM.feature_columns()}
    lists = {n: v.to_list() if isinstance(v, tf.RaggedTensor) else v for n, v in columns.items()}
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    answer = served(tf.constant(to_examples(PROBLEM, lists)))
    expected = model.predict_served(PREPROCESSOR(columns))
    for task, prediction in expected.items():
        np.testing.assert_allclose(answer[task], prediction, atol=1e-5)
