"""What every balancer keeps to, whatever its method; a new one needs a line in `BALANCERS`."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.balancers import BALANCERS
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl import registry
from tfmtl.balancing.base import Balancer
from tfmtl.balancing.task_gradients import plus
from tfmtl.balancing.weights import FixedWeights
from tfmtl.declare.layout import WEIGHTS
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

TASKS = ["ctr", "cvr", "quality"]
KINDS = ["binary", "binary", "regression"]
every_balancer = pytest.mark.parametrize("name", sorted(BALANCERS))

_, DATA = packed(train=64, validation=16)
BATCH = next(iter(DATA.train.batches(64)))


def built(name):
    return registry.build("balancer", {"name": name, **BALANCERS[name]}, TASKS, KINDS)


def model_of(name, **changes):
    keras.utils.set_random_seed(3)
    settings = experiment(
        backbone={"name": "shared_bottom", **SMALL["shared_bottom"]},
        balancer={"name": name, **BALANCERS[name]},
        **changes,
    )
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def gradients_of(model, batch=BATCH):
    with tf.GradientTape(persistent=True) as tape:
        losses = model.task_losses(batch, training=True)
        total = losses.total(model.balancer)
    step = model.step_of(tape, losses, total)
    return step, model.balancer.gradients(step)


def dense(gradient):
    return tf.convert_to_tensor(gradient).numpy()


def test_every_registered_balancer_has_a_small_configuration():
    missing = set(registry.names("balancer")) ^ set(BALANCERS)
    assert not missing, f"add a line for {sorted(missing)} to tests/doubles/balancers.py"


@every_balancer
def test_a_balancer_is_built_by_name_and_comes_back_from_its_config(name):
    balancer = built(name)
    config = balancer.get_config()
    again = keras.layers.deserialize(keras.layers.serialize(balancer))
    assert type(again) is type(balancer) and again.get_config() == config
    assert config | BALANCERS[name] == config
    assert config["tasks"] == TASKS and config["kinds"] == KINDS
    losses = tf.constant([1.0, 2.0, 3.0])
    assert float(again(losses)) == float(balancer(losses))


@every_balancer
def test_weights_now_are_the_slopes_of_the_total(name):
    balancer = built(name)
    # Equal losses (beyond their floors): FAMO's weights depend on the losses themselves.
    losses = tf.constant([0.3, 0.31 if name == "famo" else 0.3, 0.3])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        total = balancer(losses)
    np.testing.assert_allclose(tape.gradient(total, losses), balancer.weights_now(), rtol=1e-5)


@every_balancer
def test_losses_of_another_number_of_tasks_are_refused(name):
    with pytest.raises(ValueError, match=r"one per task, \[3\]; got \[2\]"):
        built(name)(tf.zeros([2]))


@every_balancer
def test_the_total_stays_float32_under_mixed_precision(name):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert built(name)(tf.constant([1.0, 2.0, 1e6])).dtype == tf.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")


@every_balancer
def test_the_loss_of_a_task_without_a_row_is_not_in_the_total(name):
    balancer, observed = built(name), tf.constant([True, False, True])
    totals = [float(balancer(tf.constant([1.0, x, 2.0]), observed)) for x in (0.0, 9.0, np.nan)]
    assert totals[0] == totals[1] == totals[2] and np.isfinite(totals[0])


@every_balancer
def test_a_batch_in_which_nothing_is_observed_moves_no_weight_of_the_model(name):
    model = model_of(name, l2=0.0, optimizer="sgd")
    batch = {**BATCH, WEIGHTS: tf.zeros_like(BATCH[WEIGHTS])}
    before = [v.numpy() for v in model.trainable_variables]
    report = tf.function(model.train_step, autograph=False)(batch)
    assert all(np.isfinite(value) for value in report.values())
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(np.isfinite(v.numpy()).all() or "epoch" in v.name for v in model.balancer.variables)


@every_balancer
def test_terms_and_weight_decay_are_added_as_they_are(name):
    without, whole = model_of(name, l2=0.0), model_of(name, l2=0.1)
    _, bare = gradients_of(without)
    step, gradients = gradients_of(whole)
    others = step.tape.gradient(list(step.losses.others), step.variables)
    assert any(other is not None for other in others)
    for one, other, total in zip(bare, others, gradients, strict=True):
        np.testing.assert_allclose(dense(total), dense(plus(one, other)), rtol=1e-4, atol=1e-6)


@every_balancer
def test_a_traced_step_is_the_eager_one(name):
    eager, traced = model_of(name, optimizer="sgd"), model_of(name, optimizer="sgd")
    step = tf.function(traced.train_step, autograph=False)
    for _ in range(4):
        eager.train_step(BATCH)
        step(BATCH)
    for one, other in zip(eager.variables, traced.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=one.name)


@every_balancer
def test_a_step_has_one_forward_pass_but_where_the_balancer_asks_for_a_second(name):
    model = model_of(name)
    passes = []
    forward = model.task_losses
    model.task_losses = lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs)
    model.train_step(BATCH)
    asks = type(model.balancer).after_update is not Balancer.after_update
    assert len(passes) == 1 + asks


@every_balancer
def test_what_a_step_teaches_a_balancer_is_in_its_checkpoint(name, tmp_path):
    taught, anew = model_of(name, optimizer="sgd"), model_of(name, optimizer="sgd")
    for _ in range(3):
        taught.train_step(BATCH)
    path = tf.train.Checkpoint(model=taught).write(str(tmp_path / "weights"))
    tf.train.Checkpoint(model=anew).read(path).assert_existing_objects_matched()
    for model in (taught, anew):
        for _ in range(2):
            model.train_step(BATCH)
    for one, other in zip(taught.variables, anew.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


@every_balancer
def test_what_makes_or_follows_gradients_is_refused_in_meta_training(name):
    kind = registry.get("balancer", name)
    if kind.gradients is Balancer.gradients and kind.after_update is Balancer.after_update:
        kind.check_weighs()
        return
    with pytest.raises(SpecError, match="meta-training"):
        kind.check_weighs()


def test_a_balancer_that_only_looks_at_the_losses_after_the_update_is_refused_in_meta_training():
    class Follows(FixedWeights):
        def after_update(self, losses_again):
            losses_again()

    with pytest.raises(SpecError, match="balancer Follows .* learns during the step"):
        Follows.check_weighs()
