"""Losses of regressions that outliers pull on no harder than `delta`."""

import abc

import tensorflow as tf

from tfmtl.errors import SpecError
from tfmtl.losses.base import RegressionLoss
from tfmtl.registry import register


class _Robust(RegressionLoss):
    """A loss of the residual's size `|r|`: near `r²/2` for small ones, `δ|r|` for large ones.

    With a large `delta` it is half of `squared`, so the task's weight means half as much.

    Args:
        delta: Residual at which outliers begin, above 0, in standard deviations of the labels.

    Raises:
        SpecError: `delta` is not above 0.
    """

    def __init__(self, *, delta: float = 1.0) -> None:
        if not 0 < delta < float("inf"):
            raise SpecError(f"robust losses: delta={delta} must be above 0.")
        self.delta = delta

    @abc.abstractmethod
    def from_size(self, size: tf.Tensor) -> tf.Tensor:
        """Losses `[batch]` from the residuals' sizes `[batch]`."""

    def from_predictions(self, labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """See `RegressionLoss.from_predictions`."""
        return self.from_size(tf.abs(labels - predictions))


@register("loss", "huber")
class Huber(_Robust):
    """`r²/2` up to `|r| = δ` and linear beyond (Huber, 1964); parameters as in `_Robust`."""

    def from_size(self, size: tf.Tensor) -> tf.Tensor:
        """See `_Robust.from_size`."""
        inner = tf.minimum(size, tf.cast(self.delta, size.dtype))
        return inner * (size - 0.5 * inner)


@register("loss", "pseudo_huber")
class PseudoHuber(_Robust):
    """`δ² (√(1 + (r/δ)²) − 1)`: as `Huber`, but smooth (Hartley and Zisserman, 2003)."""

    def from_size(self, size: tf.Tensor) -> tf.Tensor:
        """See `_Robust.from_size`."""
        # A difference of near numbers would lose all digits of a small residual, and the square
        # of a large one would overflow.
        unit = tf.stop_gradient(tf.maximum(size, self.delta))
        root = unit * tf.sqrt(tf.square(self.delta / unit) + tf.square(size / unit))
        return self.delta * size * (size / (self.delta + root))


@register("loss", "log_cosh")
class LogCosh(_Robust):
    """`δ² log cosh(r/δ)`: half the square near zero and `δ|r|` less a constant beyond."""

    def from_size(self, size: tf.Tensor) -> tf.Tensor:
        """See `_Robust.from_size`."""
        size = size / self.delta
        # Near 0 as log(1 + sinh²)/2, because the other form loses all digits there; cosh and sinh
        # overflow beyond.
        near = size < 1.0
        inner = 0.5 * tf.math.log1p(tf.square(tf.sinh(tf.minimum(size, 1.0))))
        outer = size + tf.math.log1p(tf.exp(-2.0 * size)) - 0.6931471805599453
        return self.delta**2 * tf.where(near, inner, outer)
