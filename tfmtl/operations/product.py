"""Product layers (Qu et al., ICDM 2016), mapped back to fields."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.errors import SpecError
from tfmtl.operations.base import Interaction, each_field, fields_and_dim, glorot
from tfmtl.registry import register


@register("interaction", "product_inner")
@keras.saving.register_keras_serializable(package="tfmtl")
class InnerProduct(Interaction):
    """Each field beside its inner products with all fields, both through a linear map.

    Maps `E [batch, fields, dim]` to the same shape:

        out = E · W_z + (E · Eᵀ / √dim) · W_p        W_z [dim, dim], W_p [fields, dim]

    The original feeds one flat vector of the products to a dense layer. That they are mapped back
    to fields, so that a pooling can follow, is our choice, as is the division, which keeps the
    products' size from growing with `dim`.

    Example:
        >>> InnerProduct()(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def build(self, input_shape: Any) -> None:
        fields, dim = fields_and_dim(self, input_shape)
        self.kernel = self.add_weight(name="kernel", shape=(dim, dim), initializer=glorot(dim, dim))
        self.product_kernel = self.add_weight(
            name="product_kernel", shape=(fields, dim), initializer=glorot(fields, dim)
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        products = tf.matmul(inputs, inputs, transpose_b=True) * inputs.shape[-1] ** -0.5
        return each_field(inputs, self.kernel) + each_field(products, self.product_kernel)


@register("interaction", "product_outer")
@keras.saving.register_keras_serializable(package="tfmtl")
class OuterProduct(Interaction):
    """Each field beside its outer product with the sum of all fields, both through a linear map.

    Maps `[batch, fields, dim]` to the same shape. With `s = Σ_f e_f`, the original's sum pooling:

        out_f = e_f · W_z + ((e_f · U) ⊙ (s · V)) · W_o

    `U, V [dim, rank]` and `W_o [rank, dim]` are a map of the `dim²` products of low rank: in full
    it would have `dim³` weights (our choice, as is the mapping back to fields).

    Args:
        rank: Rank of the map; `dim` if not given.

    Raises:
        SpecError: `rank` is below 1.

    Example:
        >>> OuterProduct()(tf.ones([2, 3, 8])).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, *, rank: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rank is not None and rank < 1:
            raise SpecError(f"{self.name}: rank={rank} must be at least 1.")
        self.rank = rank

    def build(self, input_shape: Any) -> None:
        _, dim = fields_and_dim(self, input_shape)
        rank = self.rank or dim
        self.kernel, self.field_kernel, self.sum_kernel, self.product_kernel = (
            self.add_weight(name=name, shape=shape, initializer=glorot(*shape))
            for name, shape in (
                ("kernel", (dim, dim)),
                ("field_kernel", (dim, rank)),
                ("sum_kernel", (dim, rank)),
                ("product_kernel", (rank, dim)),
            )
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        total = tf.matmul(tf.reduce_sum(inputs, axis=1), self.sum_kernel)
        products = each_field(inputs, self.field_kernel) * total[:, tf.newaxis]
        return each_field(inputs, self.kernel) + each_field(products, self.product_kernel)
