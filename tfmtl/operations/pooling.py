"""Poolings: a row's fields to one vector."""

import abc
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.operations.base import Copies, fields_and_dim
from tfmtl.registry import register


class Pooling(Copies, abc.ABC):
    """Maps the fields `[batch, fields, dim]` to `[batch, width]`.

    With `num`, every copy reads the same fields and the output is `[num, batch, width]`; where a
    pooling has no weights all copies would be equal, and it is `[1, batch, width]` instead, which
    broadcasts.

    Args:
        width: Width of the output; `dim` if not given. Where it is another, a dense layer with a
            bias follows a pooling that keeps `dim`.
        num: Copies side by side; see `Copies`.

    Raises:
        SpecError: `width` or `num` is below 1.
    """

    keeps_dim = True
    """Whether `each` keeps the fields' width, so that another width needs a dense layer."""

    def __init__(self, *, width: int | None = None, num: int | None = None, **kwargs: Any) -> None:
        super().__init__(num=num, **kwargs)
        if width is not None and width < 1:
            raise SpecError(f"{self.name}: width={width} must be at least 1.")
        self.width = width

    def build(self, input_shape: Any) -> None:
        _, dim = fields_and_dim(self, input_shape)
        width = self.width or dim
        self.resized = self.keeps_dim and width != dim
        if self.resized:
            self.width_kernel = self.add_kernel("width_kernel", (dim, width), (dim, width))
            self.width_bias = self.add_vector("bias_width", width)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        pooled = self.each(inputs)
        if self.resized:
            pooled = tf.matmul(pooled, self.width_kernel) + self.width_bias[:, tf.newaxis]
        return pooled[0] if self.num is None else pooled

    @abc.abstractmethod
    def each(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns `[copies, batch, dim]`, or `[1, batch, dim]` where all copies are equal.

        One that does not `keeps_dim` returns `width` in place of `dim`.
        """

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, _, dim = tuple(input_shape)
        shape = (batch, self.width or dim)
        if self.num is None:
            return shape
        return (self.num if self.weights else 1, *shape)


@register("pooling", "sum")
@keras.saving.register_keras_serializable(package="tfmtl")
class SumPooling(Pooling):
    """The sum of the fields.

    Maps `[batch, fields, dim]` to `[batch, width]`; see `Pooling` for `width` and `num`.

    Example:
        >>> SumPooling()(tf.ones([1, 3, 2])).numpy().tolist()
        [[3.0, 3.0]]
    """

    def each(self, fields: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(fields, axis=1)[tf.newaxis]


@register("pooling", "average")
@keras.saving.register_keras_serializable(package="tfmtl")
class AveragePooling(Pooling):
    """The mean of the fields.

    Maps `[batch, fields, dim]` to `[batch, width]`; see `Pooling` for `width` and `num`.

    Example:
        >>> AveragePooling()(tf.ones([1, 3, 2])).numpy().tolist()
        [[1.0, 1.0]]
    """

    def each(self, fields: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(fields, axis=1)[tf.newaxis]


@register("pooling", "attentive")
@keras.saving.register_keras_serializable(package="tfmtl")
class AttentivePooling(Pooling):
    """A mean of the fields weighted by attention (Lin et al., ICLR 2017).

    Maps `[batch, fields, dim]` to `[batch, width]`: `Σ_f a_f e_f` with
    `a = softmax_f(tanh(E · W₁) · w₂)`, `W₁ [dim, dim]` and `w₂ [dim]`. See `Pooling` for `width`
    and `num`.

    Example:
        >>> AttentivePooling(num=4)(tf.ones([2, 3, 8])).shape
        TensorShape([4, 2, 8])
    """

    def build(self, input_shape: Any) -> None:
        _, dim = fields_and_dim(self, input_shape)
        self.kernel = self.add_kernel("kernel", (dim, dim), (dim, dim))
        self.score_kernel = self.add_kernel("score_kernel", (dim, 1), (dim, 1))
        super().build(input_shape)

    def each(self, fields: tf.Tensor) -> tf.Tensor:
        _, count, dim = fields.shape
        # All copies read the same fields: one product of all their kernels.
        kernels = tf.reshape(tf.transpose(self.kernel, [0, 2, 1]), [-1, dim])
        hidden = tf.matmul(kernels, tf.reshape(fields, [-1, dim]), transpose_b=True)
        hidden = tf.reshape(tf.tanh(hidden), [self.copies, dim, -1])
        scores = tf.matmul(self.score_kernel, hidden, transpose_a=True)
        weights = tf.nn.softmax(tf.reshape(scores, [self.copies, -1, count]))
        # Per row [copies, fields] · [fields, dim], so that fields are not repeated per copy.
        pooled = tf.matmul(tf.transpose(weights, [1, 0, 2]), fields)
        return tf.transpose(pooled, [1, 0, 2])


@register("pooling", "linear")
@keras.saving.register_keras_serializable(package="tfmtl")
class LinearPooling(Pooling):
    """A dense layer without an activation on the fields side by side.

    Maps `[batch, fields, dim]` to `[batch, width]`; see `Pooling` for `num`.

    Args:
        width: Width of the output; `dim` if not given.
        num: Copies side by side; see `Copies`.

    Example:
        >>> LinearPooling(width=5)(tf.ones([2, 3, 8])).shape
        TensorShape([2, 5])
    """

    keeps_dim = False

    def build(self, input_shape: Any) -> None:
        fields, dim = fields_and_dim(self, input_shape)
        flat, width = fields * dim, self.width or dim
        self.kernel = self.add_kernel("kernel", (flat, width), (flat, width))
        self.bias = self.add_vector("bias", width)
        super().build(input_shape)

    def each(self, fields: tf.Tensor) -> tf.Tensor:
        _, count, dim = fields.shape
        # One product of all copies' kernels.
        kernels = tf.reshape(tf.transpose(self.kernel, [1, 0, 2]), [count * dim, -1])
        pooled = tf.matmul(tf.reshape(fields, [-1, count * dim]), kernels)
        by_copy = tf.reshape(pooled, [-1, self.copies, self.kernel.shape[-1]])
        return tf.transpose(by_copy, [1, 0, 2]) + self.bias[:, tf.newaxis]
