"""One-dimensional convolution along a hidden vector."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.operations.base import Hidden
from tfmtl.registry import register


def windows(x: tf.Tensor, size: int) -> tf.Tensor:
    """Returns `[…, width, size]`: of each place in `[…, width]` the `size` numbers around it.

    Beyond the ends are zeros, as with Keras' `padding="same"`.
    """
    width, before = x.shape[-1], (size - 1) // 2
    padded = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[before, size - 1 - before]])
    return tf.stack([padded[..., i : i + width] for i in range(size)], axis=-1)


def widened(kernel: tf.Tensor, size: int) -> tf.Tensor:
    """A kernel `[copies, own size, channels]` with zeros around it, `[copies, size, channels]`.

    It does on windows of `size` what it did on its own.
    """
    own = kernel.shape[1]
    before = (size - 1) // 2 - (own - 1) // 2
    return tf.pad(kernel, [[0, 0], [before, size - own - before], [0, 0]])


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
    def together(
        cls, layers: Sequence["Convolution"], inputs: tf.Tensor, training: bool = False
    ) -> list[tf.Tensor]:
        """Several built layers' outputs of one input, whose windows are made once."""
        x = inputs[tf.newaxis] if layers[0].num is None else inputs
        size = max(layer.size for layer in layers)
        seen = windows(x, size)
        outputs = [layer.transform(seen) for layer in layers]
        return [out[0] for out in outputs] if layers[0].num is None else outputs

    def each(self, x, training):
        return self.transform(windows(x, self.size))

    def transform(self, seen: tf.Tensor) -> tf.Tensor:
        """The output `[copies, batch, width]` for windows `[copies or 1, batch, width, size]`.

        The windows may be wider than the layer's own `size`.
        """
        _, _, width, size = seen.shape
        flat = tf.reshape(seen, [seen.shape[0], -1, size])
        kernel = widened(tf.convert_to_tensor(self.kernel), size)
        hidden = tf.nn.relu(tf.matmul(flat, kernel) + self.bias[:, tf.newaxis])
        out = tf.matmul(hidden, self.point_kernel) + self.point_bias[:, tf.newaxis]
        return tf.reshape(out, [self.copies, -1, width])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "size": self.size, "channels": self.channels}
