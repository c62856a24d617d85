"""Weights over losses, against their closed forms, and what all balancers have in common."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.gradnorm import GradNorm, on_simplex
from tfmtl.balancing.weights import DWA, FixedWeights, Uncertainty
from tfmtl.errors import SpecError

TASKS = ["ctr", "cvr", "quality"]
KINDS = ["binary", "binary", "regression"]


def settle(balancer, losses, steps=500, observed=None):
    """Trains the balancer's own variables on constant losses, and returns `e^s`."""
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, steps))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = balancer(tf.constant(losses), observed)
        variables = balancer.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

    for _ in range(steps):
        step()
    return np.exp(balancer.log_variance.numpy())


def slopes(balancer, losses, observed=None):
    losses = tf.constant(losses)
    with tf.GradientTape() as tape:
        tape.watch(losses)
        total = balancer(losses, observed)
    return [g.numpy() for g in tape.gradient(total, [losses, *balancer.trainable_variables])]


# --- fixed ---------------------------------------------------------------------------------


def test_fixed_weights_sum_or_average_over_all_tasks():
    losses = tf.constant([1.0, 2.0, 4.0])
    assert float(FixedWeights(TASKS)(losses)) == pytest.approx(7 / 3)
    assert float(FixedWeights(TASKS, reduction="sum")(losses)) == 7
    weighted = FixedWeights(TASKS, task_weights={"quality": 1.5, "cvr": 0.0}, reduction="sum")
    assert float(weighted(losses)) == 7
    np.testing.assert_allclose(weighted.weights_now(), [1.0, 0.0, 1.5])
    np.testing.assert_allclose(FixedWeights(TASKS).weights_now(), [1 / 3] * 3)


def test_the_step_of_a_fixed_task_does_not_depend_on_which_others_are_observed():
    balancer = FixedWeights(TASKS)
    (whole,) = slopes(balancer, [1.0, 2.0, 3.0])
    (part,) = slopes(balancer, [1.0, np.nan, 3.0], tf.constant([True, False, True]))
    np.testing.assert_array_equal(part, [whole[0], 0, whole[2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_weights": {"qualty": 1.0}}, "Did you mean 'quality'"),
        ({"task_weights": {"ctr": -1.0}}, "weight of task 'ctr' must be at least 0"),
        ({"reduction": "median"}, "'mean' or 'sum'"),
    ],
)
def test_fixed_weights_refuse_a_mistake(arguments, message):
    with pytest.raises(SpecError, match=message):
        FixedWeights(TASKS, **arguments)


# --- uncertainty ---------------------------------------------------------------------------


def test_uncertainty_starts_as_the_plain_sum_with_regression_halved():
    balancer = Uncertainty(TASKS, KINDS)
    assert float(balancer(tf.constant([1.0, 2.0, 4.0]))) == 1 + 2 + 4 / 2
    np.testing.assert_array_equal(balancer.weights_now(), [1, 1, 0.5])
    balancer.log_variance.assign([0.0, 1.0, -1.0])
    want = 1 + 2 * np.exp(-1) + 0.5 + 2 * np.exp(1) - 0.5
    assert float(balancer(tf.constant([1.0, 2.0, 4.0]))) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("form", ["kendall", "paper_eq3"])
@pytest.mark.parametrize("positive", [False, True])
def test_uncertainty_has_no_slope_at_its_optimum_and_one_on_either_side(form, positive):
    losses = np.array([0.69, 0.01, 3.0], np.float32)
    c = losses * ([1.0, 1.0, 0.5] if form == "kendall" else 0.5)
    # c e^{-s} + s/2 is least at e^s = 2c; c e^{-s} + log(1 + e^s) where v² = c (1 + v).
    optimum = (c + np.sqrt(c**2 + 4 * c)) / 2 if positive else 2 * c
    balancer = Uncertainty(TASKS, KINDS, form=form, positive=positive)
    for shift, sign in ((0.0, 0), (-0.1, -1), (0.1, 1)):
        balancer.log_variance.assign(np.log(optimum) + shift)
        slope = slopes(balancer, losses)[1]
        if sign:
            assert (np.sign(slope) == sign).all()
        else:
            np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_training_settles_at_twice_the_loss_of_a_class_and_the_loss_of_a_number():
    balancer = Uncertainty(TASKS, KINDS)
    found = settle(balancer, [0.7, 0.05, 3.0])
    np.testing.assert_allclose(found, [1.4, 0.1, 3.0], rtol=0.01)
    # The rare task's small loss is weighted up, beyond 1.
    np.testing.assert_allclose(balancer.weights_now(), [1 / 1.4, 10, 1 / 6], rtol=0.01)


def test_in_training_the_weights_of_the_papers_form_track_half_the_inverse_of_each_mean_loss():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4_000, 3)).astype(np.float32)
    clicks = rng.uniform(size=4_000) < 1 / (1 + np.exp(1.0 - 2.0 * x[:, 0]))
    buys = clicks & (rng.uniform(size=4_000) < 0.03)
    labels = tf.constant(np.stack([clicks, buys], axis=1), tf.float32)
    balancer = Uncertainty(["ctr", "ctcvr"], form="paper_eq3")
    kernel, bias = tf.Variable(tf.zeros([3, 2])), tf.Variable(tf.zeros([2]))
    variables = [kernel, bias, balancer.log_variance]
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(variables)

    def losses():
        logits = tf.matmul(x, kernel) + bias
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=0)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = balancer(losses())
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

    for _ in range(300):
        step()
    found = losses().numpy()
    # The rare conversion's loss is small, and no bound at 1 is in the way of its weight.
    assert found[1] < 0.2 * found[0] and balancer.weights_now()[1] > 3
    np.testing.assert_allclose(balancer.weights_now(), 1 / (2 * found), rtol=0.2)


def test_scaling_a_loss_shifts_its_optimal_s_by_the_log_and_leaves_its_weighted_slope():
    one, other = (Uncertainty(["ctr", "cvr"], ["binary", "regression"]) for _ in range(2))
    before = np.log(settle(one, [0.7, 0.5]))
    after = np.log(settle(other, [0.7 * 8, 0.5]))
    np.testing.assert_allclose(after - before, [np.log(8), 0], atol=0.02)
    # What reaches the network is weight · ∂(c L)/∂θ, so it is c · weight that must not change.
    np.testing.assert_allclose(other.weights_now() * [8, 1], one.weights_now(), rtol=0.02)


def test_positive_uncertainty_stays_positive_where_kendalls_does_not():
    losses = tf.constant([1e-4, 1e-4, 1e-4])
    for positive, negative_total in ((True, False), (False, True)):
        balancer = Uncertainty(TASKS, KINDS, positive=positive)
        balancer.log_variance.assign([-8.0] * 3)
        assert (float(balancer(losses)) < 0) == negative_total


def test_a_task_without_observed_rows_adds_no_loss_and_moves_no_s():
    balancer = Uncertainty(TASKS, KINDS)
    observed = tf.constant([True, False, True])
    whole = slopes(balancer, [0.7, 0.0, 1.0])
    part = slopes(balancer, [0.7, 0.0, 1.0], observed)
    assert whole[1][1] == 0.5 and part[1][1] == 0.0
    assert part[0][1] == 0.0
    np.testing.assert_array_equal(part[1][[0, 2]], whole[1][[0, 2]])
    assert settle(balancer, [0.7, 0.0, 1.0], steps=50, observed=observed)[1] == 1.0
    assert float(balancer(tf.zeros([3]), tf.zeros([3], tf.bool))) == 0.0


def test_s_stops_at_its_border_and_comes_back():
    balancer = Uncertainty(["ctr"], ["binary"])
    optimizer = keras.optimizers.SGD(1.0)

    def step(loss):
        _, slope = slopes(balancer, [loss])
        optimizer.apply_gradients([(tf.constant(slope), balancer.log_variance)])
        return float(balancer.log_variance[0])

    assert step(1e6) == 10.0
    assert step(1e6) == 10.0
    assert step(0.0) == 9.5
    balancer.log_variance.assign([-9.9])
    assert step(0.0) == -10.0
    assert step(1.0) == 10.0


def test_uncertainty_refuses_a_mistake():
    with pytest.raises(SpecError, match="needs kinds"):
        Uncertainty(TASKS)
    with pytest.raises(SpecError, match="3 tasks, 2 kinds"):
        Uncertainty(TASKS, KINDS[:2])
    with pytest.raises(SpecError, match="got 'class'"):
        Uncertainty(["ctr"], ["class"])
    with pytest.raises(SpecError, match="'kendall' or 'paper_eq3'"):
        Uncertainty(TASKS, KINDS, form="eq3")
    Uncertainty(TASKS, form="paper_eq3")


# --- dynamic weight average ----------------------------------------------------------------


def training_step(balancer, losses, observed=(True, True, True)):
    """A step of training on losses that are the variables themselves; returns the gradient."""
    each = [tf.Variable(loss) for loss in losses]
    with tf.GradientTape(persistent=True) as tape:
        values = [tf.convert_to_tensor(v) for v in each]
        found = TaskLosses(values, tf.constant(observed), [], {})
        total = found.total(balancer)
    return balancer.gradients(Step(tape, found, total, each, each, {}, {}))


def test_dwa_weighs_by_the_ratio_of_the_last_two_epochs_mean_losses():
    balancer = DWA(TASKS, temperature=2.0, reduction="sum")
    for epoch in ([[1.0, 2.0, 4.0], [3.0, 2.0, 4.0]], [[1.0, 2.0, 5.0]]):
        np.testing.assert_allclose(balancer.weights_now(), [1, 1, 1], rtol=1e-6)
        for losses in epoch:
            training_step(balancer, losses)
        balancer.end_epoch()
    ratios = np.array([1 / 2, 2 / 2, 5 / 4])
    want = 3 * np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    np.testing.assert_allclose(balancer.weights_now(), want, rtol=1e-6)
    # The task that falls least weighs most, and the step is by these weights.
    np.testing.assert_allclose(training_step(balancer, [1.0, 1.0, 1.0]), want, rtol=1e-6)
    balancer.end_epoch()
    ratios = np.array([1 / 1, 1 / 2, 1 / 5])
    want = np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    np.testing.assert_allclose(balancer.weights_now(), 3 * want, rtol=1e-6)


def test_dwa_takes_an_epochs_mean_over_the_batches_that_observed_the_task():
    balancer = DWA(["a", "b", "c"], reduction="sum")
    nan = float("nan")
    for epoch in (
        [([2.0, 1.0, 1.0], (True, True, False)), ([nan, 3.0, 1.0], (False, True, False))],
        [([1.0, 2.0, 1.0], (True, True, False))],
    ):
        for losses, observed in epoch:
            training_step(balancer, losses, observed)
        balancer.end_epoch()
    np.testing.assert_allclose(balancer.last, [1.0, 2.0, nan])
    np.testing.assert_allclose(balancer.before, [2.0, 2.0, nan])
    ratios = np.array([0.5, 1.0, 1.0])
    want = 3 * np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    np.testing.assert_allclose(balancer.weights_now(), want, rtol=1e-6)
    # An epoch without a task leaves its ratio as it was.
    training_step(balancer, [1.0, nan, 1.0], (True, False, True))
    balancer.end_epoch()
    np.testing.assert_allclose(balancer.last, [1.0, 2.0, 1.0])
    np.testing.assert_allclose(balancer.before, [1.0, 2.0, nan])


def test_a_look_at_the_loss_without_training_teaches_dwa_nothing():
    balancer = DWA(TASKS)
    balancer(tf.constant([9.0, 9.0, 9.0]))
    np.testing.assert_array_equal(balancer.batches, [0, 0, 0])


def test_dwa_refuses_a_temperature_of_zero():
    with pytest.raises(SpecError, match="temperature=0 must be above 0"):
        DWA(TASKS, temperature=0)


# --- GradNorm ------------------------------------------------------------------------------


def learnt(balancer, losses, norms, steps, observed=None):
    """The weights after steps on constant losses and norms."""
    observed = tf.constant([True] * len(norms) if observed is None else observed)
    arguments = tf.constant(losses, tf.float32), tf.constant(norms, tf.float32), observed
    # A trace pays for many steps only.
    step = tf.function(balancer.learn, autograph=False) if steps > 50 else balancer.learn
    for _ in range(steps):
        step(*arguments)
    return balancer.task_weights.numpy()


def test_where_all_tasks_fall_alike_gradnorm_ends_with_equal_weighted_norms():
    norms = np.array([4.0, 1.0, 0.5], np.float32)
    balancer = GradNorm(TASKS, first_batches=1)
    found = learnt(balancer, [1.0, 2.0, 3.0], norms, 600)
    np.testing.assert_allclose(found, 3 / norms / (1 / norms).sum(), atol=0.03)
    assert found.sum() == pytest.approx(3.0, abs=1e-5)


def test_a_task_that_falls_slowly_is_pulled_by_its_rate_to_the_power_of_alpha():
    norms, first = np.array([1.0, 2.0], np.float32), np.array([2.0, 8.0], np.float32)
    for alpha in (0.0, 0.5, 1.5):
        balancer = GradNorm(["a", "b"], alpha=alpha, first_batches=1)
        learnt(balancer, first, norms, 1)
        # One fell to a half, the other to nine tenths.
        found = learnt(balancer, first * [0.5, 0.9], norms, 600)
        want = np.array([0.5, 0.9]) ** alpha / norms
        np.testing.assert_allclose(found, 2 * want / want.sum(), atol=0.03)


def test_the_slope_of_gradnorm_is_that_of_its_loss_with_the_target_held():
    balancer = GradNorm(TASKS, first_batches=1)
    first, losses = tf.constant([1.0, 2.0, 0.5]), tf.constant([0.7, 1.9, 0.1])
    norms, everyone = tf.constant([0.3, 2.0, 5.0]), tf.constant([True] * 3)
    balancer.learn(first, norms, everyone)
    weights = tf.constant([1.5, 1.2, 0.3])
    balancer.task_weights.assign(weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        weighted = weights * norms
        rates = (losses / first) / tf.reduce_mean(losses / first)
        target = tf.stop_gradient(tf.reduce_mean(weighted) * rates**1.5)
        loss = tf.reduce_sum(tf.abs(weighted - target))
    found = balancer._slope(losses, norms, everyone)
    np.testing.assert_allclose(found, tape.gradient(loss, weights), rtol=1e-6)


def test_gradnorm_starts_once_every_task_has_its_first_losses_and_takes_their_mean():
    balancer = GradNorm(["a", "b"], first_batches=3)
    norms = [5.0, 1.0]
    for loss in (1.0, 2.0, 6.0):
        assert (learnt(balancer, [loss, 7.0], norms, 1, [True, False]) == 1).all()
    assert (learnt(balancer, [50.0, 7.0], norms, 5, [True, False]) == 1).all()
    assert (learnt(balancer, [50.0, 2.0], norms, 3) == 1).all()
    np.testing.assert_allclose(balancer.first, [3.0, 2.0])
    # From here the steps are Adam's first: a learning rate each, and the sum restored.
    np.testing.assert_allclose(learnt(balancer, [3.0, 2.0], norms, 1), [0.99, 1.01], atol=1e-5)


def test_a_task_that_is_not_observed_neither_moves_nor_coasts_in_gradnorm():
    balancer = GradNorm(TASKS, first_batches=1)
    learnt(balancer, [1.0, 1.0, 1.0], [1.0, 2.0, 3.0], 30)
    before = [v.numpy() for v in (balancer.momentum, balancer.velocity, balancer.steps)]
    weights = balancer.task_weights.numpy()
    found = learnt(balancer, [1.0, 0.0, 1.0], [1.0, 0.0, 3.0], 1, [True, False, True])
    for old, new in zip(
        before, (balancer.momentum, balancer.velocity, balancer.steps), strict=True
    ):
        assert old[1] == new[1] and (old[[0, 2]] != new.numpy()[[0, 2]]).all()
    # Its weight changes as the sum is restored, by a hundredth at most.
    assert found[1] == pytest.approx(weights[1], rel=0.01)
    # One task alone has nobody to be compared with.
    learnt(balancer, [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], 1, [True, False, False])
    np.testing.assert_allclose(balancer.task_weights, found, rtol=1e-6)


def test_no_weight_of_gradnorm_falls_below_the_least_and_they_sum_to_the_tasks():
    balancer = GradNorm(TASKS, first_batches=1, learning_rate=0.5)
    for norms in ([9.0, 1.0, 1e-6], [1e-6, 1.0, 9.0], [1.0, 9.0, 1e-6]):
        for _ in range(10):
            found = learnt(balancer, [1.0, 1.0, 1.0], norms, 1)
            assert found.min() >= 1e-3 * 0.999 and found.sum() == pytest.approx(3.0, abs=1e-5)
    np.testing.assert_allclose(on_simplex(tf.constant([3.0, 3.0]), 0.001), [1.0, 1.0])
    # To hold the third up takes so much of the second that it has to be held up too.
    np.testing.assert_allclose(on_simplex(tf.constant([3.0, 2.0, -1.0]), 0.9), [1.2, 0.9, 0.9])


def test_gradnorm_refuses_a_mistake():
    with pytest.raises(SpecError, match="alpha=-1 must be in"):
        GradNorm(TASKS, alpha=-1)
    with pytest.raises(SpecError, match="first_batches=0 must be at least 1"):
        GradNorm(TASKS, first_batches=0)
