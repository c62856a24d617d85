"""Binary cross-entropy, the loss of a binary task by default."""

import tensorflow as tf

from tfmtl.losses.base import BinaryLoss
from tfmtl.registry import register


@register("loss", "cross_entropy")
class CrossEntropy(BinaryLoss):
    """Cross-entropy in nats, `−y log p − (1 − y) log(1 − p)`.

    Example:
        >>> CrossEntropy()(tf.constant([1.0, 0.0]), tf.constant([0.0, 0.0])).numpy()
        array([0.6931, 0.6931], dtype=float32)
    """

    def from_logs(self, labels: tf.Tensor, log_p: tf.Tensor, log_rest: tf.Tensor) -> tf.Tensor:
        """See `BinaryLoss.from_logs`."""
        return -labels * log_p - (1 - labels) * log_rest

    def from_logits(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See `BinaryLoss.from_logits`; TensorFlow's own is one operation."""
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
