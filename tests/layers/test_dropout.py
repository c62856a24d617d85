"""Dropout by random bytes: the share, the scale, the gradient and the seed."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.layers.batch_norm import BatchNorm
from tfmtl.layers.dropout import Dropout, dropout, kept, rectified_dropout

ROWS, WIDTH = 4_000, 50


def drawn():
    return tf.constant(np.random.default_rng(0).normal(size=(ROWS, WIDTH)), tf.float32)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.5, 0.9, 0.999])
def test_the_share_dropped_is_exact_although_a_byte_has_256_values(share):
    keras.utils.set_random_seed(1)
    masks = [kept(drawn(), share).numpy() for _ in range(10)]
    dropped = 1 - np.mean(masks)
    assert abs(dropped - share) < 5 * (share * (1 - share) / (10 * ROWS * WIDTH)) ** 0.5


@pytest.mark.parametrize("axis", [0, 1])
def test_no_row_and_no_column_is_favoured_and_neighbours_are_independent(axis):
    keras.utils.set_random_seed(2)
    mask = kept(drawn(), 0.3).numpy().astype(float)
    share = mask.mean(axis=axis)
    assert np.abs(share - 0.7).max() < 6 * (0.21 / mask.shape[axis]) ** 0.5
    pairs = np.take(mask, range(0, mask.shape[axis] - 1), axis) * np.take(
        mask, range(1, mask.shape[axis]), axis
    )
    assert abs(pairs.mean() - 0.49) < 0.01


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (3, 5), (2, 3, 7)])
def test_any_width_and_rank_is_dropped(shape):
    keras.utils.set_random_seed(3)
    values = dropout(tf.ones(shape), 0.5).numpy()
    assert values.shape == shape
    assert set(np.unique(values)) <= {0.0, 2.0}


def test_values_that_are_kept_are_scaled_and_their_gradient_is_that_scale():
    keras.utils.set_random_seed(4)
    values = drawn()
    with tf.GradientTape() as tape:
        tape.watch(values)
        out = dropout(values, 0.2)
    gradient = tape.gradient(out, values).numpy()
    mask = out.numpy() != 0
    np.testing.assert_allclose(out.numpy()[mask], values.numpy()[mask] / 0.8, rtol=1e-6)
    np.testing.assert_allclose(gradient, mask / 0.8, rtol=1e-6)


def test_the_gradient_of_rectified_values_is_zero_where_they_are_dropped_or_negative():
    keras.utils.set_random_seed(5)
    values = drawn()
    with tf.GradientTape() as tape:
        tape.watch(values)
        out = rectified_dropout(values, 0.4)
    gradient = tape.gradient(out, values).numpy()
    np.testing.assert_array_equal(gradient, (out.numpy() > 0).astype(np.float32))
    positive = values.numpy() > 0
    assert abs((out.numpy() > 0)[positive].mean() - 0.6) < 0.01
    assert not out.numpy()[~positive].any()


def test_a_layer_that_normalises_rectifies_and_drops_is_the_three_layers_in_a_row():
    values, norm, drop = drawn(), BatchNorm(), Dropout(0.2)
    keras.utils.set_random_seed(6)
    together = drop.rectified(values, norm, training=True).numpy()
    apart = tf.nn.relu(BatchNorm()(values, training=True)).numpy() / 0.8
    kept_ones = together > 0
    np.testing.assert_allclose(together[kept_ones], apart[kept_ones], rtol=1e-5, atol=1e-6)
    assert abs(kept_ones[apart > 0].mean() - 0.8) < 0.01


def test_nothing_is_dropped_at_inference():
    values = drawn()
    np.testing.assert_array_equal(Dropout(0.9)(values), values)
    np.testing.assert_array_equal(Dropout(0.9).rectified(values), tf.nn.relu(values))


def test_a_seed_gives_the_same_masks_and_each_step_other_ones():
    def masks():
        keras.utils.set_random_seed(7)
        layer = Dropout(0.5)
        step = tf.function(lambda: layer(tf.ones([8, 16]), training=True))
        return [step().numpy() for _ in range(3)]

    first, again = masks(), masks()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_two_layers_of_a_step_draw_different_masks():
    keras.utils.set_random_seed(8)
    layers = Dropout(0.5), Dropout(0.5)
    ones = tf.ones([64, 16])
    step = tf.function(lambda: [layer(ones, training=True) for layer in layers])
    first, second = step()
    assert 0.4 < np.mean(first.numpy() == second.numpy()) < 0.6
