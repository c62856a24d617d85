"""Integers that are ids already."""

from __future__ import annotations

from tfmtl.errors import SpecError
from tfmtl.features.analyzers import Analyzers
from tfmtl.features.encodings.base import CategoricalEncoding
from tfmtl.lazy import tf
from tfmtl.registry import register


@register("encoding", "identity")
class Identity(CategoricalEncoding):
    """Integers `0 … size − 1`; any other is unknown.

    Args:
        size: Number of integers.

    Raises:
        SpecError: `size` is not given, or below 1.
    """

    dtypes = ("int64",)

    def __init__(self, *, size: int | None = None) -> None:
        if size is None or size < 1:
            raise SpecError(f"encoding 'identity' needs size=, the number of ids; got {size}.")
        self.size = size

    @property
    def ids(self) -> int:
        """The number of integers."""
        return self.size

    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """See `Encoding.encode`."""
        inside = (values >= 0) & (values < self.size)
        return tf.where(inside, values, tf.constant(-1, tf.int64))
