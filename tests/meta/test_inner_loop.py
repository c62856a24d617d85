"""The gradient through adaptation, against finite differences, closed forms and plain gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.meta.inner_loop import Inner, adapt, mean_meta_gradient, meta_gradient

VALUES, WIDTH, TASKS, ROWS = 11, 3, 3, 8
RATE = 0.7
ADAPTING = pytest.mark.parametrize("adapting", ["no_embedding", "all"])
STEPS = pytest.mark.parametrize("steps", [1, 3])


class Net:
    """A table looked up twice a row, two layers and a log-variance that weighs the loss."""

    def __init__(self):
        rng = np.random.default_rng(0)
        shapes = {"table": (VALUES, WIDTH), "hidden": (2 * WIDTH, 4), "out": (4, 1), "log": ()}
        self.parts = {
            name: tf.Variable(rng.normal(size=shape), dtype=tf.float64, name=name)
            for name, shape in shapes.items()
        }
        self.unread = tf.Variable(tf.ones([2], tf.float64))
        self.variables = [*self.parts.values(), self.unread]

    def loss(self, rows):
        ids, labels, weight = rows
        table, hidden, out, log = self.parts.values()
        vectors = tf.reshape(tf.gather(table, ids), [-1, 2 * WIDTH])
        logits = (tf.tanh(vectors @ hidden) @ out)[:, 0]
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        mean = tf.reduce_mean(each)
        return tf.exp(-weight * log) * mean + 0.5 * weight * log, tf.stack([mean, 2.0 * mean])

    def inner(self, adapting="all", rate=RATE, steps=1):
        names = ("hidden", "out") if adapting == "no_embedding" else ("table", "hidden", "out")
        return Inner([self.parts[name] for name in names], rate, steps)

    def mean_gradient(self, tasks, inner, **more):
        """The gradients as dense arrays by name, the value and the losses."""
        found = tf.function(
            lambda tasks: mean_meta_gradient(
                self.loss, tasks, inner, self.variables, length=2, **more
            ),
            autograph=False,
        )(tasks)
        gradients, value, losses = found
        assert gradients[-1] is None
        return dict(zip(self.parts, map(dense, gradients[:-1]), strict=True)), value, losses


def dense(gradient):
    return tf.convert_to_tensor(gradient).numpy()


def rows_of(seed, weight=1.0):
    """Rows of every task; few values, so that each is looked up several times."""
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.integers(0, VALUES - 1, (TASKS, ROWS, 2)), tf.int32),
        tf.constant(rng.integers(0, 2, (TASKS, ROWS)), tf.float64),
        tf.fill([TASKS], tf.constant(weight, tf.float64)),
    )


def tasks_of(query_weight=1.0):
    return rows_of(1), rows_of(2, query_weight)


def of_task(tasks, index):
    return tf.nest.map_structure(lambda t: t[index], tasks)


def by_differences(net, tasks, inner):
    """The mean loss after adapting, and its gradient by central differences."""

    @tf.function(autograph=False)
    def of_one(support, query):
        adapted = adapt(net.loss, support, inner)
        value, _ = net.loss(query)
        adapted.restore()
        return value

    each = [of_task(tasks, index) for index in range(TASKS)]

    def value():
        return np.mean([of_one(*task) for task in each])

    step, found = 1e-5, {}
    for name, variable in net.parts.items():
        held = variable.numpy()
        found[name] = np.zeros_like(held)
        for place in np.ndindex(*held.shape):
            for sign in (1, -1):
                moved = np.array(held)
                moved[place] += sign * step
                variable.assign(moved)
                found[name][place] += sign * value() / (2 * step)
        variable.assign(held)
    return value(), found


def assert_same(variables, before):
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def furthest(one, other):
    """The largest difference, over the largest entry."""
    size = max(np.abs(g).max() for g in other.values())
    return max(np.abs(one[name] - other[name]).max() for name in other) / size


@pytest.mark.parametrize("adapting,steps", [("no_embedding", 1), ("all", 1), ("all", 3)])
def test_the_gradient_is_that_of_finite_differences_and_of_first_order_is_not(adapting, steps):
    net, tasks = Net(), tasks_of()
    inner = net.inner(adapting, steps=steps)
    value, expected = by_differences(net, tasks, inner)
    before = [v.numpy() for v in net.variables]
    exact, found, losses = net.mean_gradient(tasks, inner)
    assert_same(net.variables, before)
    assert furthest(exact, expected) < 1e-8
    assert float(found) == pytest.approx(value, rel=1e-12)
    assert losses.numpy()[1] == pytest.approx(2 * losses.numpy()[0], rel=1e-12)
    mutant, same, _ = net.mean_gradient(tasks, inner, second_order=False)
    assert furthest(mutant, expected) > 0.03
    assert float(same) == pytest.approx(value, rel=1e-12)


def test_what_only_the_support_rows_read_has_its_share_through_them():
    net, tasks = Net(), tasks_of(query_weight=0.0)
    _, expected = by_differences(net, tasks, net.inner())
    exact, _, _ = net.mean_gradient(tasks, net.inner())
    assert np.abs(expected["log"]) > 1e-3
    np.testing.assert_allclose(exact["log"], expected["log"], rtol=1e-6)
    mutant, _, _ = net.mean_gradient(tasks, net.inner(), second_order=False)
    assert mutant["log"] == 0


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_on_quadratics_every_step_is_one_more_factor(steps):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(4, 4))
    curvature, target = root @ root.T, rng.normal(size=4)
    w = tf.Variable(rng.normal(size=4))

    def loss(rows):
        scale, centre = rows
        off = tf.linalg.matvec(scale, w - centre)
        return 0.5 * tf.tensordot(w - centre, off, 1), tf.zeros([1])

    support, query = (curvature, np.zeros(4)), (np.eye(4), target)
    (found,), _, _ = meta_gradient(loss, support, query, Inner([w], 0.03, steps), [w])
    factor = np.linalg.matrix_power(np.eye(4) - 0.03 * curvature, steps)
    np.testing.assert_allclose(found, factor @ (factor @ w.numpy() - target), rtol=1e-10)


@ADAPTING
def test_at_a_rate_of_zero_it_is_the_plain_gradient_of_the_query_rows(adapting):
    net, (support, query) = Net(), of_task(tasks_of(), 0)
    with tf.GradientTape() as tape:
        value, _ = net.loss(query)
    plain = tape.gradient(value, net.variables)
    found, at, _ = meta_gradient(
        net.loss, support, query, net.inner(adapting, rate=0.0), net.variables
    )
    assert float(at) == float(value)
    assert found[-1] is None and plain[-1] is None
    for one, other in zip(found[:-1], plain[:-1], strict=True):
        np.testing.assert_array_equal(dense(one), dense(other))


@ADAPTING
@STEPS
def test_of_first_order_it_is_the_plain_gradient_at_the_adapted_weights(adapting, steps):
    net, (support, query) = Net(), of_task(tasks_of(), 0)
    inner = net.inner(adapting, steps=steps)
    found, at, _ = meta_gradient(net.loss, support, query, inner, net.variables, second_order=False)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value, _ = net.loss(support)
        for v, g in zip(inner.variables, tape.gradient(value, inner.variables), strict=True):
            v.assign(v - RATE * tf.convert_to_tensor(g))
    with tf.GradientTape() as tape:
        value, _ = net.loss(query)
    assert float(at) == pytest.approx(float(value), rel=1e-12)
    for one, other in zip(found[:-1], tape.gradient(value, net.variables), strict=False):
        np.testing.assert_allclose(dense(one), dense(other), rtol=1e-10, atol=1e-14)


def test_the_order_of_tasks_does_not_matter():
    net, tasks = Net(), tasks_of()
    one, value, losses = net.mean_gradient(tasks, net.inner())
    turned = tf.nest.map_structure(lambda t: tf.gather(t, [2, 0, 1]), tasks)
    other, same, alike = net.mean_gradient(turned, net.inner())
    assert furthest(one, other) < 1e-13
    np.testing.assert_allclose(value, same, rtol=1e-13)
    np.testing.assert_allclose(losses, alike, rtol=1e-13)


def test_the_mean_is_that_of_the_tasks_one_by_one():
    net, tasks = Net(), tasks_of()
    mean, _, _ = net.mean_gradient(tasks, net.inner())
    each = [
        meta_gradient(net.loss, *of_task(tasks, i), net.inner(), net.variables)[0][:-1]
        for i in range(TASKS)
    ]
    for place, name in enumerate(net.parts):
        expected = np.mean([dense(gradients[place]) for gradients in each], axis=0)
        np.testing.assert_allclose(mean[name], expected, rtol=1e-10, atol=1e-14)


@ADAPTING
@STEPS
def test_every_variable_is_bit_for_bit_what_it_was(adapting, steps):
    net = Net()
    before = [v.numpy() for v in net.variables]
    meta_gradient(
        net.loss, *of_task(tasks_of(), 0), net.inner(adapting, steps=steps), net.variables
    )
    assert_same(net.variables, before)


def test_a_row_that_a_task_looks_up_often_adapts_by_the_sum_of_its_gradients():
    table = tf.Variable([[1.0], [2.0], [3.0]])
    held = table.numpy()

    def loss(rows):
        return tf.reduce_sum(tf.gather(table, rows)), tf.zeros([1])

    adapted = adapt(loss, [2, 0, 2, 2], Inner([table], 0.5, 2))
    np.testing.assert_array_equal(table.numpy()[:, 0], [0.0, 2.0, 0.0])
    adapted.restore()
    np.testing.assert_array_equal(table.numpy(), held)


@ADAPTING
def test_the_gradient_of_a_table_names_the_rows_that_were_looked_up_alone(adapting):
    net, (support, query) = Net(), of_task(tasks_of(), 0)
    of_query = set(query[0].numpy().ravel())
    of_both = of_query | set(support[0].numpy().ravel())
    assert of_query != of_both and len(of_both) < VALUES
    for second_order, rows in ((True, of_both), (False, of_query)):
        found = meta_gradient(
            net.loss,
            support,
            query,
            net.inner(adapting),
            net.variables,
            second_order=second_order,
        )[0][0]
        assert isinstance(found, tf.IndexedSlices)
        assert set(found.indices.numpy()) == rows
        untouched = [row for row in range(VALUES) if row not in rows]
        assert not dense(found)[untouched].any()


def test_what_was_drawn_at_random_to_adapt_is_drawn_once():
    w = tf.Variable(tf.ones([64], tf.float64))

    def loss(of_support):
        kept = tf.cast(tf.random.uniform([64]) < 0.5, tf.float64)
        of_row = tf.where(of_support, kept * tf.square(w), tf.square(w - 3.0))
        return 0.5 * tf.reduce_sum(of_row), tf.zeros([1])

    found = tf.function(
        lambda: meta_gradient(loss, tf.constant(True), tf.constant(False), Inner([w], 0.5), [w])[0],
        autograph=False,
    )()[0].numpy()
    # Dropped: 1 − 3. Kept: half of ½ − 3. Another draw for the curvature would give -1 and -2.5.
    assert set(found) == {-2.0, -1.25}
