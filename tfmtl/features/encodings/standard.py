"""Numbers with zero mean and unit variance on training rows, as they are or of logarithms."""

from __future__ import annotations

from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import NumericalEncoding, standardised
from tfmtl.lazy import tf
from tfmtl.registry import register


@register("encoding", "standard")
class Standard(NumericalEncoding):
    """`(x − mean) / deviation` of the training rows; a missing value is the mean."""

    def transform(self, values: tf.Tensor) -> tf.Tensor:
        """What is standardised."""
        return values

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        mean, std = analyzers.moments(name, self.transform(tf.cast(present, tf.float64)))
        values = self.transform(tf.cast(values, tf.float64))
        return standardised(values, mean, std)[:, tf.newaxis]


@register("encoding", "log")
class Log(Standard):
    """`sign(x) · log(1 + |x|)`, then as `Standard`."""

    def transform(self, values: tf.Tensor) -> tf.Tensor:
        """The signed logarithm."""
        return tf.sign(values) * tf.math.log1p(tf.abs(values))
