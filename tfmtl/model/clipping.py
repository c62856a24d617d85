"""Clipping of all gradients of an update by one norm, with tables that are never made dense."""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.base import Gradient
from tfmtl.model.optimizers import unique_rows


def clipped(gradients: Sequence[Gradient], norm: float) -> tuple[list[Gradient], tf.Tensor]:
    """Scales gradients so that their norm together is at most `norm`; their direction stays.

    The norm is that of the dense gradients: the slices of one table row are summed before they are
    squared. Two equal slices `g` of one row count `‖2g‖²`; their separate norms would count half of
    it. One norm over tables and dense variables needs this function, because an optimizer's
    `global_clipnorm` sees only its own variables.

    Args:
        gradients: Of any variables; `None` where a variable is not reached.
        norm: The highest norm, above 0.

    Returns:
        The gradients in the same order, each table row once, and the norm before, a scalar.
    """
    distinct = [unique_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in distinct if g is not None]
    squares = [tf.reduce_sum(tf.square(tf.cast(v, tf.float32))) for v in values]
    before = tf.sqrt(tf.add_n(squares)) if squares else tf.constant(0.0)
    scale = norm / tf.maximum(before, norm)
    return [_scaled(g, scale) for g in distinct], before


def check_clipping(norm: float | None, *optimizers: keras.optimizers.Optimizer) -> None:
    """Refuses two kinds of clipping at once.

    Raises:
        ValueError: `norm` is given, and an optimizer clips by itself as well.
    """
    for optimizer in optimizers:
        for own in ("clipnorm", "clipvalue", "global_clipnorm"):
            if norm is not None and getattr(optimizer, own, None) is not None:
                raise ValueError(
                    f"clip_norm={norm} clips the gradients of all variables together, and "
                    f"{optimizer.name} has {own}={getattr(optimizer, own)}. Leave out one of them."
                )


def _scaled(gradient: Gradient, scale: tf.Tensor) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(scale, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(scale, gradient.dtype)
