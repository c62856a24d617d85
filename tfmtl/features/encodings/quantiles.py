"""Encodings of a number by quantiles of the training rows: as an id, or as piecewise lines.

Quantiles are those of the values other than zero (our choice): most counts and amounts are mostly
zero, and would have one quantile for all the rest.
"""

from __future__ import annotations

from typing import ClassVar

from tfmtl.errors import SpecError
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import NumericalEncoding
from tfmtl.lazy import tf
from tfmtl.registry import register


class _Bins(NumericalEncoding):
    """An encoding by bins.

    Args:
        bins: Number of bins, at least 3.

    Raises:
        SpecError: There are fewer.
    """

    def __init__(self, *, bins: int = 32) -> None:
        if bins < 3:
            raise SpecError(f"bins={bins}; at least 3 make sense.")
        self.bins = bins


@register("encoding", "quantile")
class Quantile(_Bins):
    """The index of a value's quantile bucket, embedded like a category; bucket 0 is for zero."""

    has_ids: ClassVar[bool] = True
    refitted = True

    @property
    def ids(self) -> int:
        """The number of buckets."""
        return self.bins

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        edges = analyzers.quantiles(name, _nonzero(present), self.bins - 1)
        bucket = 1 + tf.searchsorted(edges[1:-1], values, side="right", out_type=tf.int64)
        return tf.where(values == 0, tf.zeros_like(bucket), bucket)


@register("encoding", "piecewise")
class Piecewise(_Bins):
    """Piecewise-linear encoding over quantile bins (Gorishniy et al., NeurIPS 2022, eq. 1).

    One number per bin: 0 below it, 1 above it, and rising from 0 to 1 in it. Bounded at both ends
    (our choice): the paper extrapolates, and one outlier then dominates. A missing value is zeros.
    """

    @property
    def width(self) -> int:
        """The number of bins."""
        return self.bins

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        edges = analyzers.quantiles(name, _nonzero(present), self.bins)
        low, width = edges[:-1], edges[1:] - edges[:-1]
        values = values[:, tf.newaxis]
        inside = tf.math.divide_no_nan(values - low, width)
        inside = tf.where(width > 0, inside, tf.cast(values >= low, tf.float32))
        return tf.clip_by_value(inside, 0.0, 1.0)


def _nonzero(present: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(present, present != 0)
