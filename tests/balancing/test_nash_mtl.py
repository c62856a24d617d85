"""NashMTL: the bargaining equation, its closed forms, tasks that are absent, intervals."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.nash_mtl import NashMTL, bargain, nash
from tfmtl.balancing.task_gradients import TaskGradients
from tfmtl.declare.layout import WEIGHTS
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

_, DATA = packed(train=128, validation=16)
BATCH, OTHER = list(DATA.train.batches(64).take(2))


def everyone(count):
    return tf.constant([True] * count)


def gram_of(gradients):
    return tf.constant(gradients @ gradients.T, tf.float64)


def gradients(seed, count=4, width=9):
    """Gradients of very different lengths, some of which conflict."""
    rng = np.random.default_rng(seed)
    lengths = 10.0 ** rng.uniform(-4, 3, count)
    return rng.normal(size=(count, width)) * lengths[:, np.newaxis]


# --- the equation ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_gram_matrix_times_alpha_is_one_over_alpha(count, seed):
    gram = gram_of(gradients(seed, count))
    alpha = bargain(gram, everyone(count)).numpy()
    assert (alpha > 0).all()
    np.testing.assert_allclose(gram.numpy() @ alpha * alpha, 1.0, atol=1e-9)


@pytest.mark.parametrize("cosine", [-0.999999, -0.9, 0.0, 0.7, 1.0])
def test_two_tasks_have_the_closed_form(cosine):
    norms = np.array([3.0, 0.02])
    gram = np.outer(norms, norms) * [[1, cosine], [cosine, 1]]
    alpha = bargain(tf.constant(gram), everyone(2))
    np.testing.assert_allclose(alpha, 1 / (norms * np.sqrt(1 + cosine)), rtol=1e-7)


def test_orthogonal_tasks_count_as_one_over_their_norms():
    alpha = bargain(tf.constant(np.diag([4.0, 1.0, 0.25])), everyone(3))
    np.testing.assert_allclose(alpha, [0.5, 1.0, 2.0], rtol=1e-9)


def test_no_other_direction_of_that_length_has_a_larger_product_of_gains():
    g = gradients(1, 3, 5)
    d = bargain(gram_of(g), everyone(3)).numpy() @ g
    best = np.log(g @ d).sum()
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = d + 0.3 * np.linalg.norm(d) * rng.normal(size=5)
        other *= np.linalg.norm(d) / np.linalg.norm(other)
        gains = g @ other
        assert (gains <= 0).any() or np.log(gains).sum() < best


@pytest.mark.parametrize("task", range(3))
def test_scaling_a_loss_divides_its_alpha_and_leaves_the_direction(task):
    g = gradients(2, 3)
    scaled = g.copy()
    scaled[task] *= 1e3
    one, other = (nash(gram_of(x), everyone(3)).numpy() @ x for x in (g, scaled))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine == pytest.approx(1.0, abs=1e-12)
    alphas = [bargain(gram_of(x), everyone(3)).numpy() for x in (g, scaled)]
    alphas[0][task] /= 1e3
    np.testing.assert_allclose(alphas[1], alphas[0], rtol=1e-9)


def test_the_update_is_as_long_as_the_plain_one():
    g = gradients(3)
    update = nash(gram_of(g), everyone(4)).numpy() @ g
    assert np.linalg.norm(update) == pytest.approx(np.linalg.norm(g.sum(axis=0)), rel=1e-9)


def test_equal_gradients_and_a_task_alone_take_the_plain_step():
    np.testing.assert_allclose(nash(tf.ones([3, 3]), everyone(3)), 1.0, rtol=1e-9)
    np.testing.assert_allclose(nash(tf.constant([[7.0]]), everyone(1)), 1.0, rtol=1e-9)


# --- tasks that are absent, and no agreement ---------------------------------------------------


def test_a_task_without_a_gradient_has_no_say():
    g = gradients(4, 3)
    whole = np.zeros((4, 9))
    whole[[0, 2, 3]] = g
    coefficients = nash(gram_of(whole), tf.constant([True, False, True, True])).numpy()
    assert coefficients[1] == 1.0
    np.testing.assert_allclose(coefficients[[0, 2, 3]], nash(gram_of(g), everyone(3)), rtol=1e-9)
    nobody = nash(tf.zeros([3, 3]), tf.constant([False] * 3))
    np.testing.assert_array_equal(nobody, [1, 1, 1])


@pytest.mark.parametrize(
    "g",
    [
        [[1.0, 0.0], [-1.0, 0.0]],
        [[1.0, 0.0], [-3.0, 0.0]],
        [[1.0, 0.0], [-0.5, np.sqrt(0.75)], [-0.5, -np.sqrt(0.75)]],
    ],
    ids=["opposite", "opposite of other lengths", "a triangle"],
)
def test_where_no_direction_helps_all_the_step_is_the_plain_one(g):
    np.testing.assert_array_equal(nash(gram_of(np.array(g)), everyone(len(g))), 1.0)


# --- in a model --------------------------------------------------------------------------------


def model_of(balancer, backbone="mmoe", **changes):
    keras.utils.set_random_seed(3)
    settings = experiment(
        backbone={"name": backbone, **SMALL[backbone]},
        balancer={"name": "nash_mtl", **balancer},
        optimizer="sgd",
        **changes,
    )
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def gram_in(model, batch):
    with tf.GradientTape(persistent=True) as tape:
        losses = model.task_losses(batch, training=True)
    return TaskGradients(model.step_of(tape, losses, tf.constant(0.0)), 0.25).gram()


def test_coefficients_are_those_of_the_gram_matrix_on_shared_variables():
    model = model_of({})
    expected = nash(gram_in(model, BATCH), everyone(4))
    model.train_step(BATCH)
    np.testing.assert_allclose(model.balancer.last, expected, rtol=1e-4)
    assert np.ptp(model.balancer.last) > 0.1


def test_coefficients_are_solved_at_every_so_many_updates_and_kept_in_between():
    model = model_of({"every": 3})
    step = tf.function(model.train_step, autograph=False)
    coefficients, solved = [], []
    for batch in (BATCH, OTHER, BATCH, OTHER, BATCH):
        solved.append(nash(gram_in(model, batch), everyone(4)).numpy())
        step(batch)
        coefficients.append(model.balancer.last.numpy())
    for turn, expected in enumerate([0, 0, 0, 3, 3]):
        np.testing.assert_allclose(coefficients[turn], solved[expected], rtol=1e-3)
    assert np.abs(solved[3] - solved[0]).max() > 1e-2
    assert int(model.balancer.turn) == 5


@pytest.mark.parametrize("semantics", ["ctcvr_direct", "mtms"])
def test_one_backward_pass_with_the_coefficients_is_the_sum_of_the_tasks(semantics):
    # With `mtms` a block of the gates is private, and the other ones are shared.
    model = model_of({}, conv_semantics=semantics)
    with tf.GradientTape(persistent=True) as tape:
        losses = model.task_losses(BATCH, training=True)
    tasks = TaskGradients(model.step_of(tape, losses, tf.constant(0.0)), 0.25)
    coefficients = tf.constant([2.0, 0.5, 1.5, 3.0], tf.float64)
    pairs = zip(tasks.combined(coefficients), tasks.combined_in_one_pass(coefficients), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(
            tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-4, atol=1e-7
        )


def test_between_two_solutions_one_backward_pass_reaches_what_is_shared():
    passes = []

    def note(gradient):
        passes.append(1)
        return gradient

    @tf.custom_gradient
    def watched(x):
        # Without side effects for TensorFlow: a pass whose result nobody needs is not made.
        return x, lambda g: tf.ensure_shape(tf.numpy_function(note, [g], g.dtype, False), g.shape)

    balancer = NashMTL(list("abc"), every=2)
    theta = tf.Variable([1.0, 2.0])
    factors = tf.constant([[1.0, 0.2], [0.3, 1.0], [-0.1, 0.5]])

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape(persistent=True) as tape:
            h = watched(tf.square(theta))
            each = [tf.reduce_sum(factor * h) for factor in tf.unstack(factors)]
        losses = TaskLosses(each, everyone(3), [], {})
        return balancer.gradients(Step(tape, losses, tf.add_n(each), [theta], [theta], {}, {}))

    counts = []
    for _ in range(4):
        passes.clear()
        step()
        counts.append(len(passes))
    assert counts == [4, 1, 4, 1]


def test_a_task_without_a_row_leaves_the_others_agreement_as_it_is():
    weights = BATCH[WEIGHTS].numpy()
    weights[:, 1] = 0
    batch = {**BATCH, WEIGHTS: tf.constant(weights)}
    model = model_of({})
    gram = gram_in(model, batch).numpy()
    kept = [0, 2, 3]
    model.train_step(batch)
    expected = nash(tf.constant(gram[np.ix_(kept, kept)]), everyone(3))
    np.testing.assert_allclose(model.balancer.last.numpy()[kept], expected, rtol=1e-4)
    assert model.balancer.last[1] == 1.0


def test_an_interval_below_one_is_refused():
    with pytest.raises(SpecError, match="every=0 updates"):
        NashMTL(["a"], every=0)
