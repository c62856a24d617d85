"""PCGrad, MGDA and CAGrad on inner products: known solutions, and what each promises."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.balancing import gram as of_gram

# In a graph: one by one, the operations of a search take a thousand times as long.
min_norm, cagrad, least_on_simplex = (
    tf.function(f, autograph=False)
    for f in (of_gram.min_norm, of_gram.cagrad, of_gram.least_on_simplex)
)


def vectors(seed, count, width=3):
    """Gradients of random lengths in few dimensions, so that many conflict."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) * rng.lognormal(size=(count, 1))


def everyone(count):
    return tf.constant([True] * count)


def one_order(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(count) for _ in range(count)]).astype(np.int32)


def simplex_grid(count, parts):
    """All weights that are multiples of `1 / parts`."""
    if count == 1:
        return np.full([1, 1], parts) / parts
    first = np.arange(parts + 1)
    grids = np.meshgrid(*[first] * (count - 1), indexing="ij")
    grid = np.stack([g.ravel() for g in grids], axis=1)
    grid = grid[grid.sum(axis=1) <= parts]
    return np.concatenate([grid, parts - grid.sum(axis=1, keepdims=True)], axis=1) / parts


# --- PCGrad ----------------------------------------------------------------------------------


def naive_pcgrad(g, order):
    """Algorithm 1 on the vectors themselves."""
    result = np.zeros(g.shape[1])
    for i, others in enumerate(order):
        mine = g[i].copy()
        for j in others:
            if j != i and mine @ g[j] < 0:
                mine -= mine @ g[j] / (g[j] @ g[j]) * g[j]
        result += mine
    return result


def pcgrad_of(g, order):
    return of_gram.pcgrad(tf.constant(g @ g.T), tf.constant(order)).numpy() @ g


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pcgrad_by_inner_products_is_pcgrad_on_the_vectors(count):
    for seed in range(20):
        g, order = vectors(seed, count), one_order(count, seed)
        np.testing.assert_allclose(pcgrad_of(g, order), naive_pcgrad(g, order), atol=1e-9)


def test_two_conflicting_gradients_are_each_made_orthogonal_to_the_other():
    g = np.array([[1.0, 0.0], [-1.0, 1.0]])
    # g_1' = (1/2, 1/2) and g_2' = (0, 1).
    np.testing.assert_allclose(pcgrad_of(g, one_order(2)), [0.5, 1.5], atol=1e-12)
    for seed in range(10):
        g = vectors(seed, 2, width=4)
        g[1] *= -np.sign(g[0] @ g[1])
        # g_2' has no part along g_1, so what the sum has is what g_1' kept: g_1 less its own
        # part along g_2.
        kept = g[0] @ g[0] - (g[0] @ g[1]) ** 2 / (g[1] @ g[1])
        assert pcgrad_of(g, one_order(2)) @ g[0] == pytest.approx(kept)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_without_a_conflict_pcgrad_is_the_plain_sum(count):
    # Not orthogonal: projecting without the test for a conflict would take much away.
    g = np.abs(vectors(1, count)) + 0.1
    found = of_gram.pcgrad(tf.constant(g @ g.T), tf.constant(one_order(count)))
    np.testing.assert_array_equal(found, np.ones(count))


def test_a_pcgrad_without_the_test_for_a_conflict_would_be_told_apart():
    g = np.array([[1.0, 0.0], [1.0, 1.0]])
    always = g[0] - (g[0] @ g[1]) / (g[1] @ g[1]) * g[1] + g[1] - (g[1] @ g[0]) * g[0]
    assert np.abs(pcgrad_of(g, one_order(2)) - always).max() > 0.4


def test_with_three_tasks_the_order_matters():
    g = np.array([[1.0, 0.2], [-1.0, 0.4], [0.1, -1.0]])
    one = pcgrad_of(g, np.array([[1, 2, 0], [0, 1, 2], [0, 1, 2]]))
    other = pcgrad_of(g, np.array([[2, 1, 0], [0, 1, 2], [0, 1, 2]]))
    assert np.abs(one - other).max() > 0.05


# --- MGDA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_two_tasks_have_the_closed_form_of_the_shortest_vector(seed):
    g = vectors(seed, 2)
    apart = g[0] - g[1]
    share = np.clip((g[1] - g[0]) @ g[1] / (apart @ apart), 0, 1)
    found = min_norm(tf.constant(g @ g.T), everyone(2))
    np.testing.assert_allclose(found, [share, 1 - share], atol=1e-9)


@pytest.mark.parametrize(("count", "parts"), [(3, 200), (4, 40)])
@pytest.mark.parametrize("seed", range(6))
def test_frank_wolfe_finds_no_longer_vector_than_a_search_of_the_simplex(count, parts, seed):
    g = vectors(seed, count, width=4) + [[0.7, 0, 0, 0]]
    g /= np.linalg.norm(g, axis=1).max()
    found = min_norm(tf.constant(g @ g.T), everyone(count)).numpy()
    assert found.sum() == pytest.approx(1.0) and (found >= 0).all()
    best = np.linalg.norm(simplex_grid(count, parts) @ g, axis=1).min()
    assert np.linalg.norm(found @ g) <= best + 1e-3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_shortest_vector_ascends_no_task_and_is_no_longer_than_any(count):
    for seed in range(15):
        g = vectors(seed, count, width=6)
        d = min_norm(tf.constant(g @ g.T), everyone(count)).numpy() @ g
        scale = (g * g).sum(axis=1).max()
        assert (g @ d).min() >= d @ d - 1e-5 * scale
        assert np.linalg.norm(d) <= np.linalg.norm(g, axis=1).min() + 1e-9


def test_equal_gradients_have_themselves_as_the_shortest_and_opposite_ones_zero():
    same = np.array([[1.0, 2.0]] * 3)
    weights = min_norm(tf.constant(same @ same.T), everyone(3)).numpy()
    np.testing.assert_allclose(weights @ same, [1.0, 2.0], atol=1e-9)
    opposite = np.array([[1.0, 2.0], [-3.0, -6.0]])
    weights = min_norm(tf.constant(opposite @ opposite.T), everyone(2)).numpy()
    np.testing.assert_allclose(weights, [0.75, 0.25], atol=1e-9)


# --- CAGrad ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_cagrad_lifts_the_least_gain_as_high_as_any_direction_in_the_ball(count, seed):
    c, g = 0.5, vectors(seed, count, width=2)
    mean = g.mean(axis=0)
    radius = c * np.linalg.norm(mean)
    found = cagrad(tf.constant(g @ g.T), everyone(count), c).numpy() @ g / count
    assert np.linalg.norm(found - mean) <= radius * (1 + 1e-6)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    on_border = mean + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    best = (on_border @ g.T).min(axis=1).max()
    assert (found @ g.T).min() >= best - 1e-5 * np.linalg.norm(g, axis=1).max() ** 2


@pytest.mark.parametrize("seed", range(4))
def test_the_dual_of_cagrad_is_solved_as_well_as_by_a_search_of_the_simplex(seed):
    g = vectors(seed, 4, width=5)
    gram = g @ g.T
    radius = 0.5 * np.sqrt(gram.sum())

    def dual(w):
        return w @ gram.sum(axis=1) + radius * np.linalg.norm(w @ g, axis=-1)

    found = least_on_simplex(
        tf.constant(gram), tf.constant(gram.sum(axis=1)), tf.constant(radius), everyone(4)
    )
    assert dual(found.numpy()) <= dual(simplex_grid(4, 40)).min() + 1e-9


def test_cagrad_with_c_of_zero_is_the_plain_step_and_stays_finite_where_nothing_helps():
    g = vectors(0, 3)
    np.testing.assert_allclose(cagrad(tf.constant(g @ g.T), everyone(3), 0.0), 1.0)
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = cagrad(tf.constant(opposite @ opposite.T), everyone(2), 0.5)
    np.testing.assert_array_equal(found, [1.0, 1.0])


@pytest.mark.parametrize("small", [1e-3, 2e-4, 1e-6])
def test_a_task_of_tiny_gradients_is_not_taken_for_one_that_cancels(small):
    g = np.array([[1.0, 0.0], [-0.5 * small, small]])
    found = cagrad(tf.constant(g @ g.T), everyone(2), 0.5).numpy() @ g
    # The plain step would make the small task worse, and both can gain.
    assert (g @ g.sum(axis=0))[1] < 0 < (g @ found).min()
    tiny = np.array([[1.0, 0.0, 0.0], [0.0, small, 0.0], [0.0, 0.0, 2.0 * small]])
    weights = min_norm(tf.constant(tiny @ tiny.T), everyone(3)).numpy()
    np.testing.assert_allclose(weights[1:], [0.8, 0.2], atol=1e-4)
