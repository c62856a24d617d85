"""Losses against finite differences, exact log-space values, and NaN under the mask."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.losses import per_example as losses

LABELS = [0.0, 1.0, 1.0, 0.0, 0.3]
LOGITS = [-3.0, -0.5, 0.4, 2.0, 5.0]
BAD = [np.nan, np.inf, -np.inf]


def gradient(function, *points):
    variables = [tf.constant(p, tf.float64) for p in points]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        value = function(*variables)
    return [g.numpy() for g in tape.gradient(value, variables)]


def finite_difference(function, *points, step=1e-6):
    points = [np.array(p, np.float64) for p in points]
    result = []
    for point in points:
        slope = np.zeros_like(point)
        for i in range(point.size):
            at = point[i]
            ends = []
            for sign in (1, -1):
                point[i] = at + sign * step
                ends.append(float(function(*[tf.constant(p) for p in points])))
            point[i] = at
            slope[i] = (ends[0] - ends[1]) / (2 * step)
        result.append(slope)
    return result


def constant(values, dtype=tf.float64):
    return tf.constant(values, dtype)


def entire_space(labels, a, b, mask=None):
    return losses.log_prob_cross_entropy(
        labels, losses.product_log_prob(a, b, mask=mask), mask=mask
    )


def focal_entire_space(labels, logits, mask=None):
    log_prob = losses.product_log_prob(logits, logits - 1.0, mask=mask)
    return losses.log_prob_focal(labels, log_prob, gamma=0.7, alpha=0.4, mask=mask)


PER_EXAMPLE = {
    "binary_cross_entropy": losses.binary_cross_entropy,
    "focal": lambda y, x, mask=None: losses.focal(y, x, gamma=1.3, alpha=0.3, mask=mask),
    "focal_entire_space": focal_entire_space,
    "squared_error": losses.squared_error,
    "huber": losses.huber,
    "pseudo_huber": losses.pseudo_huber,
    "log_cosh": losses.log_cosh,
    "entire_space": lambda y, x, mask=None: entire_space(y, x, x - 1.0, mask),
}
each_loss = pytest.mark.parametrize("loss", PER_EXAMPLE.values(), ids=PER_EXAMPLE.keys())


@each_loss
def test_gradient_is_the_slope(loss):
    def total(x):
        return tf.reduce_sum(tf.range(1.0, 6.0, dtype=tf.float64)[: x.shape[0]] * rows(x))

    def rows(x):
        return loss(constant(LABELS), x)

    np.testing.assert_allclose(
        gradient(total, LOGITS), finite_difference(total, LOGITS), rtol=1e-6, atol=1e-8
    )


def test_binary_cross_entropy_is_per_example_and_takes_soft_labels():
    p = 1 / (1 + np.exp(-np.array(LOGITS)))
    want = -np.array(LABELS) * np.log(p) - (1 - np.array(LABELS)) * np.log(1 - p)
    got = losses.binary_cross_entropy(constant(LABELS), constant(LOGITS))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_huber_is_half_the_square_inside_and_a_line_outside():
    got = losses.huber(constant([0.0, 0.0, 0.0]), constant([0.5, -2.0, 10.0]), delta=2.0)
    np.testing.assert_allclose(got, [0.125, 2.0, 2 * (10 - 1)])
    wide = losses.huber(constant(LABELS), constant(LOGITS), delta=1e6)
    square = losses.squared_error(constant(LABELS), constant(LOGITS))
    np.testing.assert_allclose(wide, 0.5 * square)
    with pytest.raises(ValueError, match="delta must be positive"):
        losses.huber(constant([0.0]), constant([1.0]), delta=0.0)


@each_loss
def test_a_column_against_a_row_is_refused_and_not_broadcast(loss):
    with pytest.raises(ValueError, match=r"labels \[3, 1\], .* \[3\]"):
        loss(tf.zeros([3, 1]), tf.zeros([3]))


# --- products in log space -----------------------------------------------------------------


def test_log1mexp_is_precise_at_both_ends():
    u = np.array([-1e-9, -1e-4, -0.5, -0.6931, -0.6932, -3.0, -30.0, -80.0])
    want = np.where(u > -0.7, np.log(-np.expm1(u)), np.log1p(-np.exp(u)))
    np.testing.assert_allclose(losses.log1mexp(constant(u)), want, rtol=1e-12)
    single = losses.log1mexp(constant(u, tf.float32))
    np.testing.assert_allclose(single, want, rtol=3e-6)


def test_gradient_of_log1mexp_is_finite_on_the_branch_not_taken():
    u = np.array([-1e-30, -1e-7, -0.5, -1.0, -50.0, -80.0])
    with tf.GradientTape() as tape:
        x = constant(u, tf.float32)
        tape.watch(x)
        y = losses.log1mexp(x)
    np.testing.assert_allclose(tape.gradient(y, x), -1 / np.expm1(-u), rtol=1e-5)


def test_product_of_three_is_the_sum_of_log_probabilities():
    a, b, c = constant([0.3, -50.0]), constant([-1.0, 2.0]), constant([4.0, -60.0])
    want = sum(-np.logaddexp(0, -x.numpy()) for x in (a, b, c))
    np.testing.assert_allclose(losses.product_log_prob(a, b, c), want, rtol=1e-12)
    with pytest.raises(ValueError, match="at least two"):
        losses.product_log_prob(a)


def test_entire_space_loss_is_the_cross_entropy_of_the_product_of_probabilities():
    rng = np.random.default_rng(0)
    a, b, labels = rng.normal(size=20), rng.normal(size=20), rng.random(20)
    p = 1 / (1 + np.exp(-a)) / (1 + np.exp(-b))
    want = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    got = entire_space(constant(labels), constant(a), constant(b))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_naive_product_has_no_gradient_at_minus_forty_and_the_log_space_one_is_exact():
    a, b = tf.constant([-40.0]), tf.constant([-40.0])

    def naive(a, b):
        p = tf.clip_by_value(tf.sigmoid(a) * tf.sigmoid(b), 1e-7, 1 - 1e-7)
        return -tf.math.log(p)

    for function, want in ((naive, 0.0), (lambda a, b: entire_space(tf.ones(1), a, b), -1.0)):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            loss = function(a, b)
        for slope in tape.gradient(loss, [a, b]):
            assert float(slope[0]) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("logit", [-40.0, -20.0, 0.0, 8.0, 14.0])
def test_gradient_for_a_negative_is_that_of_minus_log_one_minus_product(logit):
    a, b = np.float64(logit), np.float64(logit + 0.5)
    # d/da −log(1 − σ(a)σ(b)) = (1 − σ(a)) · q / (1 − q), with 1 − q kept exact by σ(−x).
    q = 1 / (1 + np.exp(-a)) / (1 + np.exp(-b))
    rest = 1 / (1 + np.exp(a)) + 1 / (1 + np.exp(-a)) / (1 + np.exp(b))
    want = q / rest / (1 + np.exp(a))
    x = [tf.constant([v], tf.float32) for v in (a, b)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = entire_space(tf.zeros(1), *x)
    np.testing.assert_allclose(tape.gradient(loss, x)[0], [want], rtol=1e-4)


def test_a_negative_held_for_certain_has_a_finite_loss_and_still_a_gradient():
    for logit in (17.0, 25.0, 200.0):
        x = tf.constant([logit])
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_prob = losses.product_log_prob(x, x)
            loss = losses.log_prob_cross_entropy(tf.zeros(1), log_prob)
        assert float(log_prob[0]) <= -0.99e-7
        assert np.isfinite(loss.numpy()).all() and float(loss[0]) > 15
        slope = float(tape.gradient(loss, x)[0])
        assert np.isfinite(slope) and (slope > 0 or logit == 200.0)


# --- the mean over observed rows -----------------------------------------------------------


def test_masked_mean_is_over_the_observed_and_batch_mean_over_all():
    values, mask = constant([1.0, 2.0, 4.0, 8.0]), tf.constant([True, False, True, False])
    assert float(losses.masked_mean(values, mask)) == 2.5
    assert float(losses.masked_mean(values, mask, reduction="batch")) == 5 / 4
    assert float(losses.masked_mean(values)) == 3.75


def test_a_weight_is_a_row_repeated_and_its_unit_does_not_matter():
    values, mask = constant([1.0, 2.0, 4.0, 8.0]), tf.constant([True, False, True, True])
    weights = constant([1.0, 5.0, 2.0, 0.0])
    repeated = losses.masked_mean(constant([1.0, 4.0, 4.0]))
    assert float(losses.masked_mean(values, mask, weights)) == pytest.approx(float(repeated))
    small = losses.masked_mean(values, mask, weights * 1e-3)
    assert float(small) == pytest.approx(float(repeated))
    batch = losses.masked_mean(values, mask, weights, reduction="batch")
    assert float(batch) == pytest.approx((1 + 2 * 4) / 4)


@pytest.mark.parametrize("reduction", ["masked", "batch"])
@pytest.mark.parametrize("bad", BAD)
@each_loss
def test_what_the_mask_hides_adds_exactly_nothing_even_nan(loss, bad, reduction):
    mask = tf.constant([True, False, True, False, False])
    hidden = ~mask.numpy()

    def total(y, x, w):
        return losses.masked_mean(loss(y, x, mask=mask), mask, w, reduction=reduction)

    labels, logits, weights = (np.array(v) for v in (LABELS, LOGITS, [1.0, 2.0, 3.0, 4.0, 5.0]))
    clean = total(*map(constant, (labels, logits, weights)))
    for array in (labels, logits, weights):
        array[hidden] = bad
    assert float(total(*map(constant, (labels, logits, weights)))) == float(clean)
    for slope in gradient(total, labels, logits, weights):
        assert np.isfinite(slope).all() and (slope[hidden] == 0).all()
    assert (gradient(total, labels, logits, weights)[1][~hidden] != 0).all()


@pytest.mark.parametrize("reduction", ["masked", "batch"])
@each_loss
def test_a_batch_without_observed_rows_is_zero_with_a_gradient_of_zero(loss, reduction):
    mask = tf.zeros([5], tf.bool)

    def total(x):
        rows = loss(constant([np.nan] * 5), x, mask=mask)
        return losses.masked_mean(rows, mask, reduction=reduction)

    assert float(total(constant(LOGITS))) == 0.0
    assert (gradient(total, [np.nan, 1.0, np.inf, -np.inf, 0.0])[0] == 0).all()


def test_masked_mean_of_no_rows_at_all_is_zero():
    assert float(losses.masked_mean(tf.zeros([0]))) == 0.0
    assert float(losses.masked_mean(tf.zeros([0]), reduction="batch")) == 0.0


def test_masked_mean_works_where_the_batch_size_is_unknown():
    vector = tf.TensorSpec([None], tf.float32)

    @tf.function(input_signature=[vector, vector, tf.TensorSpec([None], tf.bool)])
    def total(y, x, mask):
        return losses.masked_mean(losses.binary_cross_entropy(y, x, mask=mask), mask)

    got = total(tf.ones([2]), tf.zeros([2]), tf.constant([True, False]))
    assert float(got) == pytest.approx(np.log(2))


def test_masked_mean_refuses_an_unknown_reduction_and_a_mask_of_another_shape():
    with pytest.raises(ValueError, match="'masked' or 'batch'; got 'mean'"):
        losses.masked_mean(tf.zeros([2]), reduction="mean")
    with pytest.raises(ValueError, match=r"mask \[2, 1\]"):
        losses.masked_mean(tf.zeros([2]), tf.ones([2, 1], tf.bool))
