"""Vocabularies of several columns, fitted once under the name of the feature that owns it."""

import tensorflow as tf

from tfmtl.features.analyzers import Analyzers, Lookup


class SharedAnalyzers:
    """The `Analyzers` of one vocabulary's columns: the owner's values first, then the others'.

    The owner's values have the ids that they would have without the other columns. Values that only
    the others have follow: histories repeat an event in every later row of its user, so one
    common count would let active users decide which values of the owner are rare.

    Args:
        analyzers: What fits.
        further: The values of the other columns that are not missing, `[n]`.
    """

    def __init__(self, analyzers: Analyzers, further: tf.Tensor) -> None:
        self.analyzers, self.further = analyzers, further
        self._lookups: dict[str, Lookup] = {}

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`; fitted once, for all columns."""
        if name not in self._lookups:
            self._lookups[name] = self.analyzers.vocabulary(
                name, values, size, min_count, self.further
            )
        return self._lookups[name]

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        return self.analyzers.moments(name, values)

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        return self.analyzers.quantiles(name, values, bins)

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        return self.analyzers.sums(name, keys, values)

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        return self.analyzers.log_counts(name, keys)
