"""Grouped products: each row by its own group's kernel, forwards and backwards."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.layers.grouped import GroupedDense, grouped_matmul, tiles_of

IN, OUT, GROUPS = 5, 3, 7
RNG = np.random.default_rng(0)
CASES = {
    "unequal": RNG.choice(GROUPS, 300, p=[0.8, 0.1, 0.05, 0.03, 0.01, 0.01, 0.0]),
    "one row": np.array([4]),
    "two rows": np.array([6, 0]),
    "one group": np.full(200, 3),
    "a row each": RNG.permutation(GROUPS),
    "whole tiles": np.repeat([2, 5], 64),
}


def drawn(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def naive(x, kernels, group):
    return tf.stack([tf.tensordot(x[i], kernels[g], 1) for i, g in enumerate(group)])


@pytest.mark.parametrize("group", CASES.values(), ids=CASES)
@pytest.mark.parametrize("inner", [(), (4,)], ids=["vectors", "fields"])
def test_product_and_gradients_are_those_of_a_loop_over_rows(group, inner):
    x, kernels = drawn(len(group), *inner, IN), tf.Variable(drawn(GROUPS, IN, OUT))
    upstream = drawn(len(group), *inner, OUT)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *inner, IN]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, *inner, OUT]),
        ]
    )
    def tiled(x, group, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            tiles = tiles_of(group)
            y = grouped_matmul(x, tf.gather(kernels, tiles.present), tiles)
        of_x, of_kernels = tape.gradient(y, [x, kernels], upstream)
        return y, of_x, tf.convert_to_tensor(of_kernels)

    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = naive(x, tf.convert_to_tensor(kernels), group)
    wanted = [expected, *tape.gradient(expected, [x, kernels], upstream)]
    for found, value in zip(tiled(x, tf.constant(group, tf.int32), upstream), wanted, strict=True):
        np.testing.assert_allclose(found, tf.convert_to_tensor(value), atol=1e-4)


@pytest.mark.parametrize("group", CASES.values(), ids=CASES)
@pytest.mark.parametrize("height", [1, 2, 64])
def test_tiles_hold_every_row_once_and_are_no_more_than_rows_and_groups_ask(group, height):
    tiles = tiles_of(tf.constant(group, tf.int32), height=height)
    slot = tiles.slot.numpy()
    assert len(set(slot)) == len(group)
    assert slot.max() < len(tiles.of_tile) * int(tiles.height)
    np.testing.assert_array_equal(tf.gather(tiles.present, tiles.of_row), group)
    # A place's tile is of the row's group.
    np.testing.assert_array_equal(tf.gather(tiles.of_tile, slot // int(tiles.height)), tiles.of_row)
    known, counts = np.unique(group, return_counts=True)
    np.testing.assert_array_equal(tiles.present, known)
    np.testing.assert_array_equal(tiles.counts, counts)
    assert len(tiles.of_tile) <= len(group) / int(tiles.height) + len(known)


def test_a_batch_without_rows_gives_no_rows():
    tiles = tiles_of(tf.zeros([0], tf.int32))
    kernels = tf.gather(drawn(GROUPS, IN, OUT), tiles.present)
    assert grouped_matmul(tf.zeros([0, IN]), kernels, tiles).shape == (0, OUT)


def test_shapes_of_one_row_are_known_in_a_graph():
    layer = GroupedDense(GROUPS, OUT)
    layer.build((None, IN))
    row = [tf.TensorSpec([1, IN]), tf.TensorSpec([1], tf.int32)]
    graph = tf.function(lambda x, g: layer(x, tiles_of(g))).get_concrete_function(*row).graph
    products = [op for op in graph.get_operations() if op.type.startswith("BatchMatMul")]
    assert [op.outputs[0].shape for op in products] == [tf.TensorShape([1, 1, OUT])]


def test_a_layer_s_gradient_is_of_the_groups_with_rows_alone():
    layer = GroupedDense(GROUPS, OUT)
    tiles = tiles_of(tf.constant([5, 1, 5]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(drawn(3, IN), tiles))
    of_kernel, of_bias = tape.gradient(loss, [layer.kernel, layer.bias])
    assert sorted(set(of_kernel.indices.numpy())) == [1, 5]
    touched = [*range(OUT, 2 * OUT), *range(5 * OUT, 6 * OUT)]
    assert sorted(set(of_bias.indices.numpy().ravel())) == touched


def test_a_layer_of_one_group_is_a_dense_layer():
    layer = GroupedDense(1, OUT)
    x = drawn(9, IN)
    y = layer(x, tiles_of(tf.zeros([9], tf.int32)))
    np.testing.assert_allclose(y, x @ layer.kernel[0] + layer.bias, atol=1e-6)
