"""FAMO against values by hand, and what the second forward pass may and may not do."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.famo import FAMO
from tfmtl.declare.layout import WEIGHTS
from tfmtl.errors import SpecError
from tfmtl.model.losses_again import losses_again
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

_, DATA = packed(train=128, validation=16)
BATCH = next(iter(DATA.train.batches(64)))


def a_step(balancer, before, after, observed=None):
    """A step of training on losses that are the variables themselves; returns the gradient."""
    observed = tf.constant([True] * len(before) if observed is None else observed)
    variables = [tf.Variable(loss) for loss in before]
    with tf.GradientTape() as tape:
        values = [tf.convert_to_tensor(v) for v in variables]
        losses = TaskLosses(values, observed, [], {})
        total = losses.total(balancer)
    step = Step(tape, losses, total, variables, variables, {}, {})
    gradients = [float(g) for g in balancer.gradients(step)]
    balancer.after_update(
        lambda: TaskLosses([tf.constant(loss) for loss in after], observed, [], {})
    )
    return gradients


# --- by hand -----------------------------------------------------------------------------------


def test_at_first_losses_weigh_as_their_inverses_and_the_weights_average_one():
    # z = (1/2, 1/2), z / D = (1/2, 1/4), over their sum 3/4 and times 2 tasks.
    assert a_step(FAMO(["a", "b"], reduction="sum"), [1.0, 2.0], [1.0, 2.0]) == pytest.approx(
        [4 / 3, 2 / 3]
    )
    balancer = FAMO(["a", "b"])
    assert a_step(balancer, [1.0, 2.0], [1.0, 2.0]) == pytest.approx([2 / 3, 1 / 3])
    np.testing.assert_allclose(balancer.weights_now(), [2 / 3, 1 / 3], rtol=1e-6)


def test_the_gradient_is_that_of_the_weighted_logarithms_over_their_constant():
    balancer = FAMO(["a", "b", "c"], reduction="sum", floors={"b": 0.5})
    balancer.scores.assign([0.3, -0.2, 1.0])
    losses = tf.constant([0.7, 0.9, 0.05])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(losses)
        distances = losses - tf.constant([0.0, 0.5, 0.0])
        z = tf.nn.softmax(balancer.scores)
        c = tf.stop_gradient(tf.reduce_sum(z / distances))
        logarithms = 3 * tf.reduce_sum(z * tf.math.log(distances)) / c
        total = balancer(losses)
    expected = tape.gradient(logarithms, losses)
    np.testing.assert_allclose(tape.gradient(total, losses), expected, rtol=1e-5)


def test_a_task_that_fell_less_gains_weight():
    balancer = FAMO(["a", "b"], learning_rate=0.1)
    a_step(balancer, [1.0, 1.0], [0.5, 0.9])
    # Adam's first step is the rate, against the sign of (diag z − z zᵀ) δ = (0.147, −0.147).
    np.testing.assert_allclose(balancer.scores, [-0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(balancer.momentum, [0.014695, -0.014695], rtol=1e-4)
    weights = balancer.weights_of(tf.constant([1.0, 1.0])).numpy()
    np.testing.assert_allclose(weights, [0.90033, 1.09967], rtol=1e-4)


def reference(steps, *, count, rate=0.025, decay=0.01):
    """The authors' loop in NumPy: softmax's Jacobian as a matrix, Adam with coupled decay."""
    scores, m, v = np.zeros(count), np.zeros(count), np.zeros(count)
    for turn, (before, after) in enumerate(steps, 1):
        z = np.exp(scores) / np.exp(scores).sum()
        fall = np.log(np.array(before) + 1e-8) - np.log(np.array(after) + 1e-8)
        slope = (np.diag(z) - np.outer(z, z)) @ fall + decay * scores
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        scores = scores - rate * (m / (1 - 0.9**turn)) / (np.sqrt(v / (1 - 0.999**turn)) + 1e-8)
    return scores


def test_scores_follow_the_authors_loop_over_many_steps():
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(30):
        before = rng.uniform(0.01, 2.0, 3)
        steps.append((before, before * rng.uniform(0.7, 1.1, 3)))
    balancer = FAMO(["a", "b", "c"], decay=0.05)
    for before, after in steps:
        a_step(balancer, before.astype("float32"), after.astype("float32"))
    expected = reference(steps, count=3, decay=0.05)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(balancer.scores, expected, atol=2e-4)


def test_losses_that_fall_alike_move_the_scores_by_their_decay_alone():
    balancer = FAMO(["a", "b"], decay=0.0)
    balancer.scores.assign([0.5, -0.5])
    a_step(balancer, [1.0, 4.0], [0.5, 2.0])
    np.testing.assert_allclose(balancer.scores, [0.5, -0.5], atol=1e-5)
    decaying = FAMO(["a", "b"], decay=0.01)
    decaying.scores.assign([0.5, -0.5])
    a_step(decaying, [1.0, 4.0], [0.5, 2.0])
    np.testing.assert_allclose(decaying.scores, [0.475, -0.475], atol=1e-5)


def test_scaling_a_loss_changes_neither_its_scores_nor_its_share_of_the_step():
    one, other = FAMO(["a", "b"]), FAMO(["a", "b"])
    for balancer, scale in ((one, 1.0), (other, 64.0)):
        for _ in range(3):
            a_step(balancer, [0.5, 0.7 * scale], [0.4, 0.65 * scale])
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    weights = one.weights_of(tf.constant([0.5, 0.7])).numpy()
    scaled = other.weights_of(tf.constant([0.5, 0.7 * 64])).numpy() * [1.0, 64.0]
    np.testing.assert_allclose(scaled[1] / scaled[0], weights[1] / weights[0], rtol=1e-5)


def test_one_task_alone_takes_the_plain_step():
    balancer = FAMO(["a"])
    for _ in range(3):
        assert a_step(balancer, [0.3], [0.2]) == pytest.approx([1.0], rel=1e-6)


def test_a_loss_of_zero_or_below_its_floor_leaves_numbers():
    balancer = FAMO(["a", "b"], floors={"b": 0.5})
    gradients = a_step(balancer, [0.0, 0.3], [0.0, 0.4])
    assert np.isfinite(gradients).all() and np.isfinite(balancer.scores.numpy()).all()
    assert sum(gradients) == pytest.approx(1.0)


# --- tasks that are absent, intervals ----------------------------------------------------------


def test_an_absent_task_is_in_no_share_and_neither_moves_nor_coasts():
    two, three = FAMO(["a", "b"], reduction="sum"), FAMO(["a", "b", "c"], reduction="sum")
    a_step(three, [1.0, 1.0, 1.0], [0.9, 0.8, 0.2])
    two.scores.assign(three.scores[:2])
    for name in ("momentum", "velocity", "steps"):
        getattr(two, name).assign(getattr(three, name)[:2])
    score, momentum = float(three.scores[2]), float(three.momentum[2])
    for _ in range(3):
        of_two = a_step(two, [1.0, 2.0], [0.7, 1.9])
        of_three = a_step(three, [1.0, 2.0, 0.0], [0.7, 1.9, 0.0], [True, True, False])
        assert of_three == pytest.approx([*of_two, 0.0], rel=1e-5)
        assert float(three.weights_now()[2]) == 0.0
    np.testing.assert_allclose(three.scores[:2], two.scores, rtol=1e-5)
    assert float(three.scores[2]) == score and float(three.momentum[2]) == momentum
    assert three.steps.numpy().tolist() == [4, 4, 1]


def test_a_batch_without_any_task_teaches_nothing():
    balancer = FAMO(["a", "b"])
    balancer.scores.assign([0.4, -0.1])
    assert a_step(balancer, [0.0, 0.0], [0.0, 0.0], [False, False]) == [0.0, 0.0]
    np.testing.assert_allclose(balancer.scores, [0.4, -0.1])


def test_the_losses_are_computed_again_at_every_so_many_updates_alone():
    balancer = FAMO(["a", "b"], every=3)
    scores = []
    for _ in range(5):
        a_step(balancer, [1.0, 1.0], [0.5, 0.9])
        scores.append(balancer.scores.numpy()[1])
    assert scores[0] == scores[1] == scores[2] < scores[3] == scores[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be at least 0"),
        ({"decay": float("inf")}, "decay=inf must be at least 0"),
        ({"every": 0}, "every=0 updates"),
        ({"floors": {"ctrr": 0.1}}, "floors names 'ctrr'.*Did you mean 'ctr'"),
        ({"floors": {"ctr": -0.1}}, "floor of task 'ctr' must be at least 0"),
    ],
)
def test_a_mistake_is_refused(arguments, message):
    with pytest.raises(SpecError, match=message):
        FAMO(["ctr", "cvr"], **arguments)


# --- in a model --------------------------------------------------------------------------------


def model_of(balancer=None, more=None, **changes):
    keras.utils.set_random_seed(3)
    settings = experiment(
        backbone={"name": "shared_bottom", **SMALL["shared_bottom"], **(more or {})},
        balancer=balancer or {"name": "famo"},
        optimizer="sgd",
        **changes,
    )
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def test_the_fall_is_that_of_the_same_batch_without_terms_and_decay():
    terms = ({"name": "order_calibration", "weight": 5.0},)
    model = model_of(l2=0.5, terms=terms, learning_rate=0.05)
    before = model.task_losses(BATCH, training=True).stacked
    seen = []
    learn = model.balancer.learn
    model.balancer.learn = lambda falls, observed: seen.append(falls) or learn(falls, observed)
    model.train_step(BATCH)
    after = model.task_losses(BATCH, training=True).stacked
    np.testing.assert_allclose(seen[0], np.log(before) - np.log(after), atol=1e-5)
    assert np.ptp(seen[0]) > 1e-3
    np.testing.assert_array_equal(np.sign(model.balancer.scores), -np.sign(seen[0] - np.mean(seen)))


def test_the_second_pass_leaves_moments_and_queues_as_the_first_left_them():
    changes = {
        "more": {"batch_norm": True},
        "terms": ({"name": "pwiser", "weight": 0.1, "pos_queue": 32},),
        "learning_rate": 1e-30,
    }
    once, twice = model_of({"name": "fixed"}, **changes), model_of(**changes)
    kept = []
    for model in (once, twice):
        step = tf.function(model.train_step, autograph=False)
        step(BATCH)
        step(BATCH)
        learnt = {v.ref() for v in model.balancer.variables}
        learnt |= {v.ref() for mean in model.metrics for v in mean.variables}
        kept.append([v for v in model.variables if v.ref() not in learnt and not v.trainable])
    assert any("moving_mean" in v.name for v in kept[0]) and any("queue" in v.name for v in kept[0])
    for one, other in zip(*kept, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


def test_batch_norm_compares_the_batchs_own_moments_before_and_after():
    model = model_of(more={"batch_norm": True}, learning_rate=1e-30)
    first = model.task_losses(BATCH, training=True).stacked
    np.testing.assert_allclose(losses_again(model, BATCH).stacked, first, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"more": {"dropout": 0.2}}, {"tower_dropout": 0.1}], ids=str)
def test_dropout_is_refused_because_it_would_draw_another_mask(changes):
    with pytest.raises(SpecError, match="dropout .* draws anew"):
        model_of(**changes).train_step(BATCH)
    model_of({"name": "fixed"}, **changes).train_step(BATCH)


def test_a_task_without_a_row_has_no_weight_in_a_models_step():
    weights = BATCH[WEIGHTS].numpy()
    weights[:, 1] = 0
    model = model_of()
    model.train_step({**BATCH, WEIGHTS: tf.constant(weights)})
    assert float(model.balancer.weights_now()[1]) == 0.0
    assert float(model.balancer.scores[1]) == 0.0 and float(model.balancer.scores[0]) != 0.0
    assert float(tf.reduce_sum(model.balancer.weights_now())) == pytest.approx(3 / 4)
