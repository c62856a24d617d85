"""The fused normalisation beside Keras' own, on the same rows."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.layers.batch_norm import BatchNorm


def both():
    layers = BatchNorm(), keras.layers.BatchNormalization()
    random = np.random.default_rng(0)
    for layer in layers:
        layer.build([None, 6])
    for weight, other in zip(layers[0].weights, layers[1].weights, strict=True):
        assert weight.name == other.name
        weight.assign(random.uniform(0.5, 2.0, weight.shape))
        other.assign(weight)
    return layers


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_results_moving_moments_and_gradients_are_those_of_keras(rows):
    ours, theirs = both()
    values = tf.constant(np.random.default_rng(1).normal(3.0, 2.0, (rows, 6)), tf.float32)
    weights = tf.constant(np.random.default_rng(2).normal(size=(rows, 6)), tf.float32)
    results = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(values)
            out = layer(values, training=True)
            total = tf.reduce_sum(out * weights)
        results.append(
            [out, *layer.weights, *tape.gradient(total, [values, layer.gamma, layer.beta])]
        )
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_layer_and_one_at_inference_use_the_moving_moments_and_keep_them(training):
    ours, theirs = both()
    ours.trainable = theirs.trainable = not training
    before = [weight.numpy() for weight in ours.weights]
    values = tf.random.normal([5, 6])
    np.testing.assert_allclose(
        ours(values, training=training), theirs(values, training=training), rtol=1e-6
    )
    for weight, former in zip(ours.weights, before, strict=True):
        np.testing.assert_array_equal(weight, former)


@pytest.mark.parametrize("training", [False, True])
def test_a_gain_multiplies_the_result_and_leaves_the_moments(training):
    ours, again = both()[0], both()[0]
    values = tf.random.normal([9, 6])
    plain, scaled = ours(values, training=training), again(values, training=training, gain=1.25)
    np.testing.assert_allclose(scaled, 1.25 * plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours.moving_variance, again.moving_variance)
