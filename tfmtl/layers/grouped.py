"""One dense layer per group of rows, as one matrix product for all groups."""

from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments

TILE_ROWS = 64
"""Rows of a tile, at most (our choice): lower tiles copy more kernels, higher have more gaps."""


class Tiles(NamedTuple):
    """Where a batch's rows lie in tiles of one height, each of rows of one group.

    Made once a batch by `tiles_of`, for all layers.

    Attributes:
        present: Groups that have a row in the batch, int32 `[present]`.
        counts: Rows of each of those, int32 `[present]`.
        of_row: Which of `present` a row is of, int32 `[batch]`.
        of_tile: Which of `present` a tile is of, int32 `[tiles]`.
        slot: A row's place among all tiles' rows, int32 `[batch]`.
        height: Rows of a tile; places that no row takes are zero.
    """

    present: tf.Tensor
    counts: tf.Tensor
    of_row: tf.Tensor
    of_tile: tf.Tensor
    slot: tf.Tensor
    height: tf.Tensor


def tiles_of(group: tf.Tensor, *, height: int = TILE_ROWS) -> Tiles:
    """Sorts rows into tiles of one group each, however unequal the groups are.

    There are at most `batch / height` tiles and one more for each group that has rows, so that
    the products' cost grows with the rows and not with rows times groups.

    Args:
        group: Each row's group, int32 `[batch]`.
        height: Rows of a tile; fewer where the batch has fewer.

    Example:
        >>> tiles = tiles_of(tf.constant([7, 2, 7, 7]), height=2)
        >>> tiles.present.numpy().tolist(), tiles.counts.numpy().tolist()
        ([2, 7], [1, 3])
        >>> tiles.of_tile.numpy().tolist(), tiles.slot.numpy().tolist()
        ([0, 1, 1], [2, 0, 3, 4])
    """
    if group.shape[0] == 1:
        # One tile of one row: every shape is then known to TensorFlow.
        one = tf.zeros([1], tf.int32)
        return Tiles(group, one + 1, one, one, one, tf.constant(1))
    rows = tf.size(group)
    order = tf.argsort(group, stable=True)
    present, position, counts = tf.unique_with_counts(tf.gather(group, order))
    high = tf.maximum(tf.minimum(height, rows), 1)
    tiles = -(-counts // high)
    starts, first = tf.cumsum(counts, exclusive=True), tf.cumsum(tiles, exclusive=True)
    rank = tf.range(rows) - tf.gather(starts, position)
    back = tf.math.invert_permutation(order)
    return Tiles(
        present=present,
        counts=counts,
        of_row=tf.gather(position, back),
        of_tile=tf.repeat(tf.range(tf.size(present)), tiles),
        # A group's tiles lie one after the other, so its rows do as well.
        slot=tf.gather(tf.gather(first, position) * high + rank, back),
        height=high,
    )


def grouped_matmul(x: tf.Tensor, kernels: tf.Tensor, tiles: Tiles) -> tf.Tensor:
    """Multiplies each row by its group's kernel: `[batch, ..., in]` to `[batch, ..., out]`.

    Args:
        x: The rows; all shapes but the batch's are known.
        kernels: Of the groups that are present, `[present, in, out]`: with `tf.gather(kernels,
            tiles.present)` of a variable, its gradient is only of those groups.
        tiles: Where the rows lie.

    Example:
        >>> tiles = tiles_of(tf.constant([1, 0, 1]))
        >>> kernels = tf.gather(tf.constant([[[1.0]], [[10.0]]]), tiles.present)
        >>> grouped_matmul(tf.constant([[1.0], [2.0], [3.0]]), kernels, tiles).numpy().tolist()
        [[10.0], [2.0], [30.0]]
    """
    inner = list(x.shape[1:])
    units = kernels.shape[-1]
    if tiles.slot.shape[0] == 1:
        y = tf.matmul(tf.reshape(x, [1, -1, inner[-1]]), kernels)
        return tf.reshape(y, [1, *inner[:-1], units])
    count = tf.size(tiles.of_tile)
    places = tf.stack([count * tiles.height, *inner])
    laid = tf.scatter_nd(tiles.slot[:, tf.newaxis], x, places)
    laid = tf.reshape(laid, tf.stack([count, -1, inner[-1]]))
    y = tf.matmul(laid, tf.gather(kernels, tiles.of_tile))
    return tf.gather(tf.reshape(y, [-1, *inner[:-1], units]), tiles.slot)


def block_rows(flat: tf.Variable, blocks: tf.Tensor, width: int) -> tf.Tensor:
    """Some blocks `[blocks, width]` of a flat variable `[all blocks · width]`.

    Biases are vectors, since weight decay takes a higher rank for a kernel; the gradient is
    only of the blocks that were read.
    """
    return tf.gather(flat, blocks[:, tf.newaxis] * width + tf.range(width))


@keras.saving.register_keras_serializable(package="tfmtl")
class GroupedDense(Arguments, keras.layers.Layer):
    """One dense layer per group, without an activation; a row goes through the layer of its group.

    Maps `[batch, ..., in]` and the `Tiles` of the rows to `[batch, ..., units]`. Each group's
    starts as a `keras.layers.Dense` would: Glorot's uniform distribution by its own fans, bias
    zero. Gradients are `tf.IndexedSlices` of the groups that have rows in the batch.

    Args:
        groups: How many groups there are.
        units: Width of each layer.
        use_bias: Whether each adds a bias.
        zero: Whether the kernels start at zero: a group that was never trained then gives zero.

    Example:
        >>> tiles = tiles_of(tf.constant([4, 0, 4]))
        >>> GroupedDense(5, 2)(tf.ones([3, 6]), tiles).shape
        TensorShape([3, 2])
    """

    def __init__(
        self, groups: int, units: int, *, use_bias: bool = True, zero: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.groups, self.units, self.use_bias, self.zero = groups, units, use_bias, zero

    def build(self, input_shape: Any) -> None:
        width = tuple(input_shape)[-1]
        # The fans of one layer: Keras would treat the stack as a convolution's kernel.
        limit = 0.0 if self.zero else (6.0 / (width + self.units)) ** 0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.groups, width, self.units),
            initializer=keras.initializers.RandomUniform(-limit, limit),
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.groups * self.units,), initializer="zeros"
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, tiles: Tiles) -> tf.Tensor:
        y = grouped_matmul(inputs, tf.gather(self.kernel, tiles.present), tiles)
        if self.use_bias:
            biases = tf.gather(block_rows(self.bias, tiles.present, self.units), tiles.of_row)
            middle = [1] * (inputs.shape.rank - 2)
            y += tf.reshape(biases, [-1, *middle, self.units])
        return y

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*tuple(input_shape)[:-1], self.units)
