"""Focal loss (Lin et al., ICCV 2017)."""

import tensorflow as tf

from tfmtl.errors import SpecError
from tfmtl.losses.base import BinaryLoss
from tfmtl.registry import register


@register("loss", "focal")
class Focal(BinaryLoss):
    """Cross-entropy that gives little weight to rows that are predicted well.

    `α (1 − p)^γ (−log p)` of a positive and `(1 − α) p^γ (−log(1 − p))` of a negative (eq. 5);
    without `alpha` neither factor. The powers are taken of log-probabilities, so that a saturated
    logit loses no digit and has a finite gradient for a `gamma` below 1 too. The least expected
    loss is not at the labels' rate: `p` is drawn towards a half.

    Args:
        gamma: Exponent, at least 0; 0 is the cross-entropy.
        alpha: Factor of a positive's loss, between 0 and 1.

    Raises:
        SpecError: A parameter is out of range.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        if not 0 <= gamma < float("inf"):
            raise SpecError(f"focal: gamma={gamma} must be at least 0; Lin et al. take 2.")
        if alpha is not None and not 0 < alpha < 1:
            raise SpecError(
                f"focal: alpha={alpha} must be between 0 and 1, as alpha=0.25; a negative's loss "
                "is multiplied by 1 - alpha."
            )
        self.gamma, self.alpha = gamma, alpha

    def from_logs(self, labels: tf.Tensor, log_p: tf.Tensor, log_rest: tf.Tensor) -> tf.Tensor:
        """See `BinaryLoss.from_logs`."""
        positive, negative = (1.0, 1.0) if self.alpha is None else (self.alpha, 1.0 - self.alpha)
        return (
            -positive * labels * tf.exp(self.gamma * log_rest) * log_p
            - negative * (1 - labels) * tf.exp(self.gamma * log_p) * log_rest
        )
