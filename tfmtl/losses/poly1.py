"""PolyLoss with its first coefficient changed (Leng et al., ICLR 2022)."""

import tensorflow as tf

from tfmtl.errors import SpecError
from tfmtl.losses.base import BinaryLoss
from tfmtl.registry import register


@register("loss", "poly1")
class Poly1(BinaryLoss):
    """Poly-1: `−log Pₜ + ε (1 − Pₜ)`, with `Pₜ` the probability of the label that came.

    Cross-entropy is `Σⱼ (1 − Pₜ)ʲ / j`; Poly-1 changes the coefficient of `j = 1` by `epsilon`. A
    positive `epsilon` pulls harder on rows that are predicted badly and well alike, a negative one
    less. The least expected loss is not at the labels' rate, as with `focal`.

    Args:
        epsilon: ε, at least −1. The paper tunes it per data set: 2 for images, −1 for detection.

    Raises:
        SpecError: `epsilon` is below −1, where a good prediction would cost more than a worse one.
    """

    def __init__(self, *, epsilon: float = 2.0) -> None:
        if not -1 <= epsilon < float("inf"):
            raise SpecError(
                f"poly1: epsilon={epsilon} must be at least -1, or a good prediction would cost "
                "more than a worse one; Leng et al. take 2 for images."
            )
        self.epsilon = epsilon

    def from_logs(self, labels: tf.Tensor, log_p: tf.Tensor, log_rest: tf.Tensor) -> tf.Tensor:
        """See `BinaryLoss.from_logs`."""
        positive = self.epsilon * tf.exp(log_rest) - log_p
        negative = self.epsilon * tf.exp(log_p) - log_rest
        return labels * positive + (1 - labels) * negative
