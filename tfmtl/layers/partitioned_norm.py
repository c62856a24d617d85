"""Partitioned normalisation (Sheng et al., CIKM 2021, section 3.2)."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.layers.grouped import Tiles, block_rows

# Embeddings start with a variance of 1e-4; Keras' epsilon, 1e-3, would dominate it.
EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="tfmtl")
class PartitionedNorm(Arguments, keras.layers.Layer):
    """Batch normalisation with the moments, the scale and the shift of each row's own scene.

    Maps `[batch, width]` and the `Tiles` of the rows' scenes to the same shape. In training the
    moments are those of the scene's rows in the batch (eq. 4), at inference its moving ones
    (eq. 5); scale and shift are `γ·(1 + Γ_scene)` and `β + Β_scene`, where the scene's parts
    start at zero, which is neutral. The paper's batches are of one scene; in one of many scenes
    a scene needs several rows, since a single one is normalised to its shift.

    Moving moments weigh a batch by the scene's rows in it, and count the variance between
    batches (our choice: a scene with one or two rows per batch would otherwise have a variance near
    zero). They change for the scenes that have rows in the batch; all others keep theirs bit for
    bit. A scene that was never trained has the moments of all scenes together where `shared`, else
    mean 0 and variance 1.

    Args:
        num_scenes: How many scenes there are.
        shared: Whether there are a scale and a shift of all scenes, and their moments together.
        momentum: Share of the former moments' weight that a further batch of the scene leaves.

    Example:
        >>> from tfmtl.layers.grouped import tiles_of
        >>> norm = PartitionedNorm(3)
        >>> x = tf.constant([[1.0], [3.0], [70.0], [90.0]])
        >>> norm(x, tiles_of(tf.constant([0, 0, 2, 2])), training=True).numpy().round(2).tolist()
        [[-1.0], [1.0], [-1.0], [1.0]]
    """

    def __init__(
        self, num_scenes: int, *, shared: bool = True, momentum: float = 0.99, **kwargs: Any
    ) -> None:
        # Moments are float32 under a mixed-precision policy too, as in Keras' normalisation.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_scenes, self.shared, self.momentum = num_scenes, shared, momentum

    def build(self, input_shape: Any) -> None:
        width = self.width = tuple(input_shape)[-1]
        if self.shared:
            self.gamma = self._vector("gamma", width, "ones")
            self.beta = self._vector("beta", width, "zeros")
            self.all_moments = self._moments("all", 1, width)
        self.scene_gamma = self._vector("scene_gamma", self.num_scenes * width, "zeros")
        self.scene_beta = self._vector("scene_beta", self.num_scenes * width, "zeros")
        self.moments = self._moments("moving", self.num_scenes, width)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, tiles: Tiles, training: bool = False) -> tf.Tensor:
        # As in Keras: where it is frozen it works as at inference, and its moments stay.
        if training and self.trainable:
            mean, variance = self._of_batch(inputs, tiles)
        else:
            mean, variance = self._remembered(tiles)
        scale = 1.0 + block_rows(self.scene_gamma, tiles.present, self.width)
        shift = block_rows(self.scene_beta, tiles.present, self.width)
        if self.shared:
            scale, shift = self.gamma * scale, self.beta + shift
        scale *= tf.math.rsqrt(variance + EPSILON)
        mean, scale, shift = (tf.gather(v, tiles.of_row) for v in (mean, scale, shift))
        return (inputs - mean) * scale + shift

    def _of_batch(self, inputs: tf.Tensor, tiles: Tiles) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.cast(tiles.counts, inputs.dtype)[:, tf.newaxis]
        mean = _sums(inputs, tiles) / rows
        variance = _sums(tf.square(inputs - tf.gather(mean, tiles.of_row)), tiles) / rows
        self._remember(self.moments, tiles.present, mean, variance, rows)
        if self.shared:
            total = tf.reduce_sum(rows, keepdims=True)
            all_mean, all_variance = tf.nn.moments(inputs, axes=[0], keepdims=True)
            self._remember(self.all_moments, tf.constant([0]), all_mean, all_variance, total)
        return mean, variance

    def _remembered(self, tiles: Tiles) -> tuple[tf.Tensor, tf.Tensor]:
        rows, mean, variance = (tf.gather(v, tiles.present) for v in self.moments)
        if not self.shared:
            return mean, variance
        trained = rows[:, tf.newaxis] > 0
        _, of_all_mean, of_all_variance = self.all_moments
        return tf.where(trained, mean, of_all_mean), tf.where(trained, variance, of_all_variance)

    def _remember(
        self,
        moments: list[tf.Variable],
        scenes: tf.Tensor,
        mean: tf.Tensor,
        variance: tf.Tensor,
        rows: tf.Tensor,
    ) -> None:
        """Joins a batch's moments to the former ones, as two samples (Chan et al., 1979)."""
        former = tf.gather(moments[0], scenes)[:, tf.newaxis] * self.momentum
        total = former + rows
        share = rows / total
        before, spread = tf.gather(moments[1], scenes), tf.gather(moments[2], scenes)
        step = mean - before
        spread += share * (variance - spread + (1.0 - share) * tf.square(step))
        new = (tf.squeeze(total, axis=1), before + share * step, spread)
        for moment, value in zip(moments, new, strict=True):
            moment.scatter_update(tf.IndexedSlices(value, scenes))

    def _vector(self, name: str, width: int, initializer: str) -> tf.Variable:
        return self.add_weight(name=name, shape=(width,), initializer=initializer)

    def _moments(self, name: str, count: int, width: int) -> list[tf.Variable]:
        """Variables for the number of rows, the mean and the variance."""
        return [
            self.add_weight(
                name=f"{name}_{what}", shape=shape, initializer=initializer, trainable=False
            )
            for what, shape, initializer in (
                ("rows", (count,), "zeros"),
                ("mean", (count, width), "zeros"),
                ("variance", (count, width), "ones"),
            )
        ]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)


def _sums(values: tf.Tensor, tiles: Tiles) -> tf.Tensor:
    """Sums of the rows of each scene that is present, `[present, width]`."""
    return tf.math.unsorted_segment_sum(values, tiles.of_row, tf.size(tiles.present))
