"""One-dimensional convolution along a hidden vector."""

import functools
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
    width = kernel.shape[1]
    before = (size - 1) // 2 - (width - 1) // 2
    return tf.pad(kernel, [[0, 0], [before, size - width - before], [0, 0]])


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, point_kernel: tf.Tensor
) -> tf.Tensor:
    """A convolution along each vector, ReLU, and one of size 1 without a bias.

    With a place's window `w`, the bias's 1 at its end, and a channel's kernel `k_c` and point
    kernel `p_c`, the output is `Σ_c p_c · on_c · ⟨k_c, w⟩ = ⟨w, a⟩`, where `on_c` says whether the
    ReLU lets the channel through and `a = Σ_c on_c · p_c · k_c`. So `a` is the gradient by the
    window, those by `k_c` and `p_c` are `p_c · m_c` and `⟨k_c, m_c⟩` with `m_c = Σ on_c · g · w`
    over the places, and of the channels no more than `on` is ever needed: they are the largest
    tensors of a search by far, and what is done with them is all reading and writing.

    It is traced once per shape, not in every block and model: TensorFlow keeps every trace of a
    custom gradient until the process ends, with the graph that it is in, which would else be that
    of a whole training step.

    Args:
        x: `[batch, width]`.
        kernel: `[size, channels]`.
        bias: `[channels]`.
        point_kernel: `[channels]`.

    Returns:
        `[batch, width]`.
    """
    size, channels = kernel.shape
    result: tf.Tensor = _traced(x.dtype, x.shape[-1], size, channels)(x, kernel, bias, point_kernel)
    return result


@functools.cache
def _traced(dtype: tf.DType, width: int, size: int, channels: int) -> Any:
    shapes = ([None, width], [size, channels], [channels], [channels])
    signature = [tf.TensorSpec(shape, dtype) for shape in shapes]
    return tf.function(_with_gradient, input_signature=signature, autograph=False)


def convolved(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, point_kernel: tf.Tensor
) -> tf.Tensor:
    """`convolve` in the caller's graph and with TensorFlow's gradient, for other than training."""
    windows, _, _, slopes = _passed(x, kernel, bias, point_kernel)
    return tf.reshape(tf.reduce_sum(windows * slopes, axis=0), [-1, x.shape[-1]])


def _passed(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, point_kernel: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Windows and kernels with the bias, which channels pass, and the slopes `a`; see above."""
    width, size = x.shape[-1], kernel.shape[0]
    before = (size - 1) // 2
    padded = tf.pad(x, [[0, 0], [before, size - 1 - before]])
    shifted = [padded[:, i : i + width] for i in range(size)]
    windows = tf.reshape(tf.stack([*shifted, tf.ones_like(x)]), [size + 1, -1])
    kernels = tf.concat([kernel, bias[tf.newaxis]], axis=0)
    on = tf.cast(tf.matmul(windows, kernels, transpose_a=True) > 0.0, x.dtype)
    return windows, kernels, on, tf.matmul(kernels * point_kernel, on, transpose_b=True)


@tf.custom_gradient
def _with_gradient(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, point_kernel: tf.Tensor
) -> tuple[tf.Tensor, Any]:
    width, size = x.shape[-1], kernel.shape[0]
    before = (size - 1) // 2
    windows, kernels, on, slopes = _passed(x, kernel, bias, point_kernel)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        flat = tf.reshape(upstream, [1, -1])
        sums = tf.matmul(windows * flat, on)
        by_window = tf.reshape(slopes[:size] * flat, [size, -1, width])
        # Each number of the padded vector is read at as many positions as the kernel is wide.
        spread = [tf.pad(by_window[i], [[0, 0], [i, size - 1 - i]]) for i in range(size)]
        by_kernels = sums * point_kernel
        return (
            tf.add_n(spread)[:, before : before + width],
            by_kernels[:size],
            by_kernels[size],
            tf.reduce_sum(sums * kernels, axis=0),
        )

    return tf.reshape(tf.reduce_sum(windows * slopes, axis=0), [-1, width]), gradient


def convolve_copies(
    x: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    point_kernel: tf.Tensor,
    training: bool = True,
) -> tf.Tensor:
    """`convolve` of every copy, one after the other.

    Args:
        x: `[copies or 1, batch, width]`.
        kernel: `[copies, size, channels]`.
        bias: `[copies, channels]`.
        point_kernel: `[copies, channels]`.
        training: Whether gradients are the rule: without, nothing is traced apart.

    Returns:
        `[copies, batch, width]`.
    """
    rows = tf.unstack(x) * (kernel.shape[0] // x.shape[0])
    # One after the other: a copy's channels then stay in the cache until they are read.
    parts = zip(rows, *map(tf.unstack, (kernel, bias, point_kernel)), strict=True)
    one = convolve if training else convolved
    return tf.stack([one(*part) for part in parts])


@register("hidden", "convolution")
@keras.saving.register_keras_serializable(package="tfmtl")
class Convolution(Hidden):
    """A convolution along the vector to `channels`, ReLU, and one of size 1 back to a number.

    Maps `[batch, width]` to the same shape, or `[num, batch, width]`; see `Hidden`. Both
    convolutions have biases, and there are zeros beyond the ends. That the convolution runs
    along the numbers of the vector, and the number of channels, are our choice: the paper says
    neither.

    Args:
        size: Numbers that each position reads, itself in the middle.
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
            # The last convolution is linear, so a layer's weight can multiply its kernel.
            layer.point_kernel * by_copy[:, i : i + 1]
            for i, layer in enumerate(layers)
        ]
        mixed = convolve_copies(
            x,
            tf.concat([widened(tf.convert_to_tensor(v.kernel), size) for v in layers], axis=-1),
            tf.concat([layer.bias for layer in layers], axis=-1),
            tf.squeeze(tf.concat(points, axis=1), axis=-1),
        )
        biases = tf.stack([layer.point_bias for layer in layers], axis=1)
        mixed += tf.reduce_sum(biases * by_copy, axis=1, keepdims=True)
        return mixed[0] if layers[0].num is None else mixed

    def each(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        kernel, points = map(tf.convert_to_tensor, (self.kernel, self.point_kernel))
        bias = tf.convert_to_tensor(self.bias)
        out = convolve_copies(x, kernel, bias, points[..., 0], training)
        return out + self.point_bias[:, tf.newaxis]
