"""Label smoothing (Szegedy et al., CVPR 2016)."""

import tensorflow as tf

from tfmtl.errors import SpecError
from tfmtl.losses.base import BinaryLoss
from tfmtl.registry import register


@register("loss", "label_smoothing")
class LabelSmoothing(BinaryLoss):
    """Cross-entropy of labels that are mixed with a constant: `(1 − ε) y + ε q`.

    Section 7 of the paper with two classes, where `q` is a half. At the least expected loss the
    probability is mixed likewise, `(1 − ε) p + ε q`: with a `q` of a half a click-through rate of
    2 % is predicted as 6.8 %. With the task's own rate as `prior` the mean stays calibrated (our
    choice to offer it), and only the tails are drawn towards it.

    Args:
        smoothing: ε, from 0 (cross-entropy) to below 1.
        prior: q, between 0 and 1.

    Raises:
        SpecError: A parameter is out of range.
    """

    def __init__(self, *, smoothing: float = 0.1, prior: float = 0.5) -> None:
        if not 0 <= smoothing < 1:
            raise SpecError(
                f"label_smoothing: smoothing={smoothing} must be from 0 to below 1; Szegedy et "
                "al. take 0.1."
            )
        if not 0 <= prior <= 1:
            raise SpecError(
                f"label_smoothing: prior={prior} must be from 0 to 1, such as the task's rate of "
                "positives."
            )
        self.smoothing, self.prior = smoothing, prior

    def from_logs(self, labels: tf.Tensor, log_p: tf.Tensor, log_rest: tf.Tensor) -> tf.Tensor:
        """See `BinaryLoss.from_logs`."""
        smooth = (1 - self.smoothing) * labels + self.smoothing * self.prior
        return -smooth * log_p - (1 - smooth) * log_rest
