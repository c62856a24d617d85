"""Cross networks (Wang et al., ADKDD 2017 and WWW 2021)."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.operations.base import Interaction, fields_and_dim, glorot
from tfmtl.registry import register

VERSIONS = ("v1", "v2")
MOST_RANK = 64


@register("interaction", "cross")
@keras.saving.register_keras_serializable(package="tfmtl")
class CrossNetwork(Interaction):
    """Layers that each raise the order of the fields' interactions by one.

    Maps `[batch, fields, dim]` to the same shape. With `x_0` the fields side by side:

        x_{l+1} = x_0 ⊙ ((x_l · V_l) · U_l + b_l) + x_l      v2, V_l [in, rank], U_l [rank, in]
        x_{l+1} = x_0 · ⟨x_l, w_l⟩ + b_l + x_l               v1

    Args:
        layers: How many.
        version: `v2`, DCN-V2 in its low-rank form, or `v1`, the deep and cross network's.
        rank: Rank of the maps of `v2`; if not given `min(64, in / 4)`, at least 1, with
            `in = fields · dim` (our choice: a full map of 79 fields of 128 is 10⁸ weights).

    Raises:
        SpecError: `layers` or `rank` is below 1, the version is unknown, or `v1` is given a rank.

    Example:
        >>> CrossNetwork(layers=2)(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def __init__(
        self, *, layers: int = 2, version: str = "v2", rank: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if version not in VERSIONS:
            raise SpecError(
                f"{self.name}: version={version!r} is none of {list(VERSIONS)}."
                f"{did_you_mean(version, VERSIONS)}"
            )
        for argument, value in (("layers", layers), ("rank", rank)):
            if value is not None and value < 1:
                raise SpecError(f"{self.name}: {argument}={value} must be at least 1.")
        if version == "v1" and rank is not None:
            raise SpecError(f"{self.name}: v1 multiplies by a vector; leave rank={rank} out.")
        self.layers, self.version, self.rank = layers, version, rank

    def build(self, input_shape: Any) -> None:
        fields, dim = fields_and_dim(self, input_shape)
        width = fields * dim
        rank = 1 if self.version == "v1" else self.rank or max(1, min(MOST_RANK, width // 4))
        self.down, self.up, self.biases = [], [], []
        for i in range(self.layers):
            self.down.append(self._kernel(f"down_kernel_{i}", width, rank))
            if self.version == "v2":
                self.up.append(self._kernel(f"up_kernel_{i}", rank, width))
            self.biases.append(
                self.add_weight(name=f"bias_{i}", shape=(width,), initializer="zeros")
            )
        super().build(input_shape)

    def _kernel(self, name: str, width_in: int, width_out: int) -> tf.Variable:
        shape = (width_in, width_out)
        return self.add_weight(name=name, shape=shape, initializer=glorot(*shape))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        _, fields, dim = inputs.shape
        first = x = tf.reshape(inputs, [-1, fields * dim])
        for i, (down, bias) in enumerate(zip(self.down, self.biases, strict=True)):
            h = tf.matmul(x, down)
            if self.version == "v2":
                x += first * tf.nn.bias_add(tf.matmul(h, self.up[i]), bias)
            else:
                x = tf.nn.bias_add(first * h + x, bias)
        return tf.reshape(x, [-1, fields, dim])
