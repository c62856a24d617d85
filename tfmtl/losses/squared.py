"""The squared difference, the loss of a regression by default."""

import tensorflow as tf

from tfmtl.losses.base import RegressionLoss
from tfmtl.registry import register


@register("loss", "squared")
class Squared(RegressionLoss):
    """`(label − prediction)²`."""

    def from_predictions(self, labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """See `RegressionLoss.from_predictions`."""
        return tf.math.squared_difference(labels, predictions)
