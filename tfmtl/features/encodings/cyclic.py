"""A point on a circle, for hours, weekdays and months."""

from __future__ import annotations

import math

from tfmtl.errors import SpecError
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import NumericalEncoding
from tfmtl.lazy import tf
from tfmtl.registry import register


@register("encoding", "cyclic")
class Cyclic(NumericalEncoding):
    """`(sin, cos)` of `2π x / period`: hour 23 is as near to hour 0 as hour 1 is.

    Nothing is fitted. A missing value is the circle's centre, `(0, 0)`, which no value is.

    Args:
        period: What comes back to the same point: 24 for hours, 7 for weekdays.

    Raises:
        SpecError: `period` is not given, or not above 0.
    """

    def __init__(self, *, period: float | None = None) -> None:
        if period is None or not 0 < period < float("inf"):
            raise SpecError(
                f"encoding 'cyclic' needs period= above 0, as 24 for hours or 7 for weekdays; got "
                f"{period}."
            )
        self.period = period

    @property
    def width(self) -> int:
        """Two: sine and cosine."""
        return 2

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        # The remainder first: a large float32 times 2π has no digits left for the angle.
        angle = tf.math.floormod(values, self.period) * (2 * math.pi / self.period)
        return tf.stack([tf.sin(angle), tf.cos(angle)], axis=1)
