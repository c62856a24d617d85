"""Base classes of operations: the layers among which a search, or a user, chooses."""

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.errors import SpecError


def fields_and_dim(layer: keras.layers.Layer, shape: Any) -> tuple[int, int]:
    """The number of fields and their width, of an input `[batch, fields, dim]`.

    Raises:
        SpecError: The input has another rank, or one of the two is unknown.
    """
    shape = tuple(shape)
    if len(shape) != 3 or None in shape[1:]:
        raise SpecError(
            f"{layer.name}: reads fields [batch, fields, dim], the last two known; got {shape}."
        )
    return shape[1], shape[2]


def each_field(fields: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, fields, out]`: every field `[batch, fields, in]` times one `[in, out]`.

    One matrix product for all rows. TensorFlow's own would be one per row, with as many gradients
    of the kernel to add, and take three times as long.
    """
    _, count, width = fields.shape
    flat = tf.matmul(tf.reshape(fields, [-1, width]), kernel)
    return tf.reshape(flat, [-1, count, kernel.shape[-1]])


def glorot(width_in: int, width_out: int) -> keras.initializers.Initializer:
    """Glorot's uniform distribution with the fans of one layer, where a variable holds several.

    Keras would treat several kernels in one variable as a convolution's kernel.
    """
    limit = (6.0 / (width_in + width_out)) ** 0.5
    return keras.initializers.RandomUniform(-limit, limit)


class Operation(Arguments, keras.layers.Layer):
    """A layer that a model's layers are chosen from."""

    @classmethod
    def together(
        cls, layers: Sequence[Any], inputs: tf.Tensor, training: bool = False
    ) -> list[tf.Tensor]:
        """Several layers' outputs of one input.

        By default each layer is called. A class overrides this to compute once what its layers
        have in common.

        Args:
            layers: Built layers of this class; those with `num` have the same.
            inputs: What each would be called with.
            training: As in `call`.
        """
        return [layer(inputs, training=training) for layer in layers]

    @classmethod
    def mixture(
        cls, layers: Sequence[Any], inputs: tf.Tensor, weights: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """The weighted sum of several layers' outputs of one input.

        Args:
            layers: As in `together`.
            inputs: As in `together`.
            weights: `[len(layers)]`; of layers with `num`, one row per copy, `[num, len(layers)]`.
            training: As in `call`.
        """
        outputs = cls.together(layers, inputs, training)
        # Not `weights[..., i, None, None]`: where `weights` was stacked in a graph, TensorFlow's
        # optimizer replaces the slice by the part that was stacked, and drops the new axes.
        by_layer = [w[..., tf.newaxis, tf.newaxis] for w in tf.unstack(weights, axis=-1)]
        return tf.add_n([w * out for w, out in zip(by_layer, outputs, strict=True)])


class Interaction(Operation):
    """An operation on fields that keeps their shape: `[batch, fields, dim]` to the same."""

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)


class Copies(Operation):
    """`num` operations of one shape, each with its own weights, as one product per layer.

    The first axis of every variable counts the copies, also of biases: `variable[e]` belongs to
    copy `e`, a kernel `[in, out]`, a bias `[width]`. Without `num` there is one copy, the variables
    have a first axis of 1, and inputs and outputs have no axis of copies. A copy is taken out by
    `one.assign(several[e : e + 1])`, variable by variable. Weight decay knows biases by their
    names, see `tfmtl.layers.decay`.

    Args:
        num: Copies side by side; one, without an axis of copies, if not given.

    Raises:
        SpecError: `num` is below 1.
    """

    def __init__(self, *, num: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num is not None and num < 1:
            raise SpecError(f"{self.name}: at least 1 copy; got num={num}.")
        self.num = num

    @property
    def copies(self) -> int:
        """How many copies there are; 1 where `num` is not given."""
        return 1 if self.num is None else self.num

    def add_kernel(self, name: str, shape: Sequence[int], fans: Sequence[int]) -> tf.Variable:
        """A kernel `[copies, *shape]`, each as a layer with these fans in and out starts."""
        return self.add_weight(name=name, shape=(self.copies, *shape), initializer=glorot(*fans))

    def add_vector(
        self,
        name: str,
        width: int,
        *,
        initializer: str = "zeros",
        trainable: bool = True,
        autocast: bool = True,
    ) -> tf.Variable:
        """One vector per copy, `[copies, width]`.

        Args:
            name: The variable's name.
            width: Its width.
            initializer: Of its values.
            trainable: Whether it is trained.
            autocast: Whether a mixed-precision policy lowers the precision in which it is read.
        """
        return self.add_weight(
            name=name,
            shape=(self.copies, width),
            initializer=initializer,
            trainable=trainable,
            experimental_autocast=autocast,
        )


class Hidden(Copies, abc.ABC):
    """An operation on hidden vectors that keeps their shape.

    Maps `[batch, width]` to the same; with `num`, `[num, batch, width]` to the same, or
    `[1, batch, width]`, which every copy reads, to `[num, batch, width]`.
    """

    def width_of(self, shape: Any) -> int:
        """The width of an input of this shape.

        Raises:
            SpecError: The input's shape is not what the operation reads.
        """
        shape = tuple(shape)
        if self.num is None:
            if len(shape) == 2 and shape[1] is not None:
                return int(shape[1])
            raise SpecError(f"{self.name}: reads [batch, width], the last known; got {shape}.")
        if len(shape) == 3 and shape[0] in (1, self.num) and shape[2] is not None:
            return int(shape[2])
        raise SpecError(
            f"{self.name}: reads [{self.num}, batch, width], or 1 in place of {self.num} where "
            f"all copies read the same; got {shape}."
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self.num is None:
            return self.each(inputs[tf.newaxis], training)[0]
        return self.each(inputs, training)

    @abc.abstractmethod
    def each(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns `[copies, batch, width]` for `x`, `[copies or 1, batch, width]`."""

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        return shape if self.num is None else (self.num, *shape[1:])
