"""Ids by a hash: nothing is fitted."""

from __future__ import annotations

from tfmtl.errors import SpecError
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import CategoricalEncoding, as_text
from tfmtl.lazy import tf
from tfmtl.registry import register


@register("encoding", "hash")
class Hash(CategoricalEncoding):
    """The bucket of a value's 64-bit fingerprint; two values may share one.

    Args:
        size: Number of buckets.

    Raises:
        SpecError: `size` is not given, or below 1.
    """

    def __init__(self, *, size: int | None = None) -> None:
        if size is None or size < 1:
            raise SpecError(f"encoding 'hash' needs size=, the number of ids; got {size}.")
        self.size = size

    @property
    def ids(self) -> int:
        """The number of buckets."""
        return self.size

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        return tf.strings.to_hash_bucket_fast(as_text(values), self.size)
