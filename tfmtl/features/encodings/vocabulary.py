"""Ids of the values that training rows have."""

from __future__ import annotations

from tfmtl.errors import SpecError
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import CategoricalEncoding
from tfmtl.lazy import tf
from tfmtl.registry import register


@register("encoding", "vocabulary")
class Vocabulary(CategoricalEncoding):
    """Values seen in training, the most frequent first.

    Args:
        size: Most values kept; all, by default.
        min_count: Values seen less often in training are unknown.

    Raises:
        SpecError: An argument is out of range.
    """

    refitted = True

    def __init__(self, *, size: int | None = None, min_count: int = 1) -> None:
        if size is not None and size < 1:
            raise SpecError(f"vocabulary: size={size} must be at least 1, or None for all values.")
        if min_count < 1:
            raise SpecError(f"vocabulary: min_count={min_count} must be at least 1.")
        self.size, self.min_count = size, min_count

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        return analyzers.vocabulary(name, present, self.size, self.min_count)(values)
