"""One-dimensional convolution along a hidden vector."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.operations.base import Hidden
from tfmtl.registry import register


def widened(kernel: tf.Tensor, size: int) -> tf.Tensor:
    """A kernel `[copies, own size, channels]` with zeros around it, `[copies, size, channels]`.

    It sees what it saw before; kernels of several sizes become one by it.
    """
    own = kernel.shape[1]
    before = (size - 1) // 2 - (own - 1) // 2
    return tf.pad(kernel, [[0, 0], [before, size - own - before], [0, 0]])


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, point_kernel: tf.Tensor
) -> tf.Tensor:
    """A convolution along each vector, ReLU, and one of size 1 without a bias.

    Args:
        x: `[copies or 1, batch, width]`.
        kernel: `[copies, size, channels]`.
        bias: `[copies, channels]`.
        point_kernel: `[copies, channels, outputs]`.

    Returns:
        `[copies, batch, width, outputs]`.
    """
    width, (_, channels, outputs) = x.shape[-1], point_kernel.shape
    found = []
    # A copy at a time: TensorFlow's convolution takes a third of the time of one batched product
    # over all windows, which is nearly all reading and writing.
    for copy in range(kernel.shape[0]):
        rows = x[copy if x.shape[0] > 1 else 0, ..., tf.newaxis]
        hidden = tf.nn.conv1d(rows, kernel[copy][:, tf.newaxis], stride=1, padding="SAME")
        hidden = tf.nn.relu(tf.nn.bias_add(hidden, bias[copy]))
        found.append(tf.matmul(tf.reshape(hidden, [-1, channels]), point_kernel[copy]))
    return tf.reshape(tf.stack(found), [kernel.shape[0], -1, width, outputs])


@register("hidden", "convolution")
@keras.saving.register_keras_serializable(package="tfmtl")
class Convolution(Hidden):
    """A convolution along the vector to `channels`, ReLU, and one of size 1 back to a number.

    Maps `[batch, width]` to the same shape, or `[num, batch, width]`; see `Hidden`. Both
    convolutions have biases, and there are zeros beyond the ends. That the numbers of a vector
    are its places, and the number of channels, are our choice: the paper prints neither.

    Args:
        size: Numbers that each place sees, its own in the middle.
        channels: Filters of the first convolution.
        num: Copies side by side; see `Copies`.

    Raises:
        SpecError: `size`, `channels` or `num` is below 1.

    Example:
        >>> Convolution(size=5, num=3)(tf.ones([3, 2, 8])).shape
        TensorShape([3, 2, 8])
    """

    def __init__(
        self, *, size: int = 3, channels: int = 8, num: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num=num, **kwargs)
        for argument, value in (("size", size), ("channels", channels)):
            if value < 1:
                raise SpecError(f"{self.name}: {argument}={value} must be at least 1.")
        self.size, self.channels = size, channels

    def build(self, input_shape: Any) -> None:
        self.width_of(input_shape)
        size, channels = self.size, self.channels
        self.kernel = self.add_kernel("kernel", (size, channels), (size, size * channels))
        self.bias = self.add_vector("bias", channels)
        self.point_kernel = self.add_kernel("point_kernel", (channels, 1), (channels, 1))
        self.point_bias = self.add_vector("bias_point", 1)
        super().build(input_shape)

    @classmethod
    def mixture(
        cls,
        layers: Sequence["Convolution"],
        inputs: tf.Tensor,
        weights: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """The weighted sum of several built layers' outputs, as one convolution of all filters."""
        x = inputs[tf.newaxis] if layers[0].num is None else inputs
        by_copy = tf.reshape(weights, [layers[0].copies, len(layers), 1])
        size = max(layer.size for layer in layers)
        points = [
            # The last convolution is linear: a layer's weight is as well its kernel's.
            layer.point_kernel * by_copy[:, i : i + 1]
            for i, layer in enumerate(layers)
        ]
        out = convolve(
            x,
            tf.concat([widened(tf.convert_to_tensor(v.kernel), size) for v in layers], axis=-1),
            tf.concat([layer.bias for layer in layers], axis=-1),
            tf.concat(points, axis=1),
        )
        biases = tf.stack([layer.point_bias for layer in layers], axis=1)
        mixed = tf.squeeze(out, axis=-1) + tf.reduce_sum(biases * by_copy, axis=1, keepdims=True)
        return mixed[0] if layers[0].num is None else mixed

    def each(self, x, training):
        out = convolve(
            x, tf.convert_to_tensor(self.kernel), self.bias, tf.convert_to_tensor(self.point_kernel)
        )
        return tf.squeeze(out, axis=-1) + self.point_bias[:, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "size": self.size, "channels": self.channels}
