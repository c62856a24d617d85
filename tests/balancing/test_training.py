"""Any backbone with any balancer: steps, resumed runs, and the log of the tasks' gradients."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl import registry
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.training.epochs import compile_model
from tfmtl.training.gradient_log import GradientLog, task_gram

_, DATA = packed(train=192, validation=64)
BATCH = next(iter(DATA.train.batches(64)))
BALANCERS = registry.names("balancer")
SHARING = [name for name in registry.names("backbone") if name != "single_task"]


def settings(backbone="shared_bottom", balancer="fixed", **changes):
    balancer = {"name": balancer} if isinstance(balancer, str) else balancer
    named = {"name": backbone, **SMALL[backbone]}
    return experiment(backbone=named, balancer=balancer, **changes)


def model_of(*names, **changes):
    config = settings(*names, **changes)
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, config.model)
    compile_model(model, config.training)
    model(BATCH)
    return model


# --- every pair ------------------------------------------------------------------------------


def steps_of(backbone, balancer):
    model = model_of(backbone, balancer)
    before = [v.numpy() for v in model.trainable_variables]
    for _ in range(2):
        found = model.train_step(BATCH)
    assert all(np.isfinite(value) for value in found.values())
    after = [v.numpy() for v in model.trainable_variables]
    assert all(np.isfinite(value).all() for value in after)
    moved = [np.any(old != new) for old, new in zip(before, after, strict=True)]
    # A tower that its rectifiers closed may stay; most of the model may not.
    assert np.mean(moved) > 0.8


@pytest.mark.parametrize("balancer", BALANCERS)
def test_every_balancer_trains_gates_of_all_tasks_in_one_product(balancer):
    steps_of("mmoe", balancer)


@pytest.mark.parametrize("balancer", ["pcgrad", "gradnorm"])
@pytest.mark.parametrize("backbone", ["per_scene", "star", "two_tower", "esmm"])
def test_scenes_towers_and_products_are_balanced_too(backbone, balancer):
    steps_of(backbone, balancer)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SHARING)
def test_every_balancer_trains_every_backbone(backbone):
    for balancer in BALANCERS:
        steps_of(backbone, balancer)


@pytest.mark.parametrize("balancer", ["fixed", "uncertainty", "dwa", "famo"])
def test_weights_over_losses_train_tasks_that_share_nothing(balancer):
    steps_of("single_task", balancer)


@pytest.mark.parametrize("backbone", SHARING)
def test_every_task_reads_the_last_shared_layer_of_a_backbone(backbone):
    model = model_of(backbone)
    with tf.GradientTape(persistent=True) as tape:
        found = model.task_losses(BATCH)
    kernels = model.step_of(tape, found, tf.constant(0.0)).last_shared
    assert kernels
    for loss in found.each:
        assert all(g is not None for g in tape.gradient(loss, kernels))


def test_gradnorm_compares_norms_at_the_last_layer_of_the_experts():
    balancer = {"name": "gradnorm", "first_batches": 1}
    model = model_of("mmoe", balancer, optimizer="sgd")
    (kernel,) = model.backbone.last_shared()
    assert kernel is model.backbone.experts.dense[-1].kernel
    model.train_step(BATCH)
    with tf.GradientTape(persistent=True) as tape:
        each = model.task_losses(BATCH, training=True).each
    norms = [np.linalg.norm(tape.gradient(loss, kernel)) for loss in each]
    model.train_step(BATCH)
    # Adam's first square of a slope, which is a norm with a sign.
    np.testing.assert_allclose(model.balancer.velocity, 0.001 * np.square(norms), rtol=1e-3)


# --- resumed -----------------------------------------------------------------------------------


class Watch(keras.callbacks.Callback):
    """Notes the balancer's weights after each step; ends the run as a kill would."""

    def __init__(self, after=None):
        super().__init__()
        self.left, self.weights = after, []

    def on_train_batch_begin(self, batch, logs=None):
        if self.left is not None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.balancer.weights_now().numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    "balancer",
    [
        {"name": "dwa"},
        {"name": "gradnorm", "first_batches": 3},
        {"name": "pcgrad"},
        {"name": "famo", "learning_rate": 0.2, "every": 2},
        {"name": "nash_mtl", "every": 3},
    ],
    ids=lambda config: config["name"],
)
def test_a_balancer_with_a_state_goes_on_after_a_kill_as_if_there_was_none(tmp_path, balancer):
    config = settings(balancer=balancer, epochs=4, checkpoint_every=2, patience=9)
    whole = Watch()
    unkilled = train(config, DATA, verbose=0, callbacks=(whole,))
    assert len(whole.weights) == 12
    assert np.ptp(whole.weights[-1]) > 1e-3, "weights that do not differ show nothing"
    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(Watch(8),))
    rest = Watch()
    resumed = train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(rest,))
    assert len(rest.weights) == 4  # The kill came within the third epoch, after a checkpoint.
    for one, other in zip(whole.weights[-4:], rest.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(unkilled.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(one, other)


# --- the log of the tasks' gradients -----------------------------------------------------------


def flat_gradients(model, task):
    """A task's gradient on tables, experts and bottom, as one dense vector."""
    shared = [v for v in model.trainable_variables if "heads" not in v.name]
    with tf.GradientTape() as tape:
        loss = model.task_losses(BATCH).each[task]
    found = tape.gradient(loss, shared, unconnected_gradients="zero")
    return np.concatenate([tf.convert_to_tensor(g).numpy().ravel() for g in found])


@pytest.mark.parametrize("balancer", ["fixed", "mgda"])
def test_the_log_has_the_norms_and_cosines_of_the_tasks_flat_gradients(balancer):
    model = model_of("shared_bottom", balancer)
    log = GradientLog(BATCH, every=3)
    log.set_model(model)
    g = np.stack([flat_gradients(model, task) for task in range(4)])
    norms = np.linalg.norm(g, axis=1)
    (row,) = log.rows
    assert row["step"] == 0
    tasks = model.heads.trained
    np.testing.assert_allclose([row[f"norm/{t}"] for t in tasks], norms, rtol=1e-4)
    np.testing.assert_allclose([row[f"weight/{t}"] for t in tasks], 0.25)
    assert row["cosine/ctr/cqs"] == pytest.approx(g[0] @ g[3] / norms[0] / norms[3], abs=1e-4)
    assert row["cosine/cvr/ctcvr"] == pytest.approx(g[1] @ g[2] / norms[1] / norms[2], abs=1e-4)
    assert len(row) == 1 + 3 * 4 + 6


def test_the_log_writes_every_so_many_steps_and_changes_nothing_of_training(tmp_path):
    path = tmp_path / "log" / "gradients.jsonl"
    log = GradientLog(BATCH, every=2, path=str(path))
    config = settings(epochs=2)
    watched = train(config, DATA, verbose=0, callbacks=(log,))
    plain = train(config, DATA, verbose=0)
    for one, other in zip(watched.model.variables, plain.model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [row["step"] for row in log.rows] == [0, 2, 4, 6]
    assert [json.loads(line) for line in path.read_text().splitlines()] == log.rows


def test_a_resumed_run_keeps_the_log_up_to_where_it_goes_on_and_a_new_one_does_not(tmp_path):
    path = tmp_path / "gradients.jsonl"
    model = model_of()
    log = GradientLog(BATCH, path=str(path))
    log.set_model(model)
    with open(path, "a") as file:
        for step in (100, 200, 300):
            file.write(json.dumps({**log.rows[0], "step": step, "norm/cvr": None}) + "\n")
    model.optimizer.iterations.assign(250)
    resumed = GradientLog(BATCH, path=str(path))
    resumed.set_model(model)
    assert [row["step"] for row in resumed.rows] == [0, 100, 200]
    assert math.isnan(resumed.rows[1]["norm/cvr"])
    assert len(path.read_text().splitlines()) == 3
    model.optimizer.iterations.assign(0)
    GradientLog(BATCH, path=str(path)).set_model(model)
    assert len(path.read_text().splitlines()) == 1


def test_a_task_without_a_row_has_no_norm_and_no_cosine(tmp_path):
    weights = BATCH[WEIGHTS].numpy()
    weights[:, 1] = 0
    path = tmp_path / "gradients.jsonl"
    log = GradientLog({**BATCH, WEIGHTS: tf.constant(weights)}, path=str(path))
    log.set_model(model_of())
    undefined = {name for name, value in log.rows[0].items() if math.isnan(value)}
    cosines = {"cosine/ctr/cvr", "cosine/cvr/ctcvr", "cosine/cvr/cqs"}
    assert undefined == cosines | {"norm/cvr", "loss/cvr"}
    plain = json.loads(path.read_text())
    assert {name for name, value in plain.items() if value is None} == undefined


def test_tasks_that_share_nothing_have_no_gradients_to_compare():
    with pytest.raises(SpecError, match="no variable is reached by two tasks"):
        task_gram(model_of("single_task"), BATCH)
    with pytest.raises(ValueError, match="every=0 steps"):
        GradientLog({LABELS: None}, every=0)
    with pytest.raises(SpecError, match="leave it out of meta-training"):
        GradientLog({LABELS: None}).set_model(keras.Sequential(name="meta_learner"))
