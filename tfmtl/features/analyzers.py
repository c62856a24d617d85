"""The statistics of training rows that an encoding may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tfmtl.lazy import tf

Lookup = Callable[["tf.Tensor"], "tf.Tensor"]


class Analyzers(Protocol):
    """Statistics of training rows. Each is fitted once and has a name.

    Implementations: TensorFlow Transform's (`components.analyzers`), one that fits on columns in
    memory (`statistics.Fitting`), one that returns what was fitted before (`statistics.Fitted`, and
    `components.transform_graph` from files), and one that notes what is asked (`collect.Plan`).
    """

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """Returns ids `0…` of the most frequent values, −1 for any other.

        Args:
            name: Name of the vocabulary.
            values: What it is fitted on, `[n]`.
            size: Most values kept; `None` for all.
            min_count: Values seen less often are left out.
            further: Values of other columns that share the vocabulary, `[m]`. Those of them that
                `values` gave no id follow, by the same `size` and `min_count`.
        """

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and standard deviation of `values` `[n]`, float64; `(0, 1)` for none."""

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """Returns `bins + 1` edges, including the least and the greatest value."""

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """Returns the sum of non-negative `values` `[n]` per text key, 0 for an unknown key."""

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """Returns how many of `keys` `[n]` each text key is, and moments of the logarithms.

        Returns:
            The look-up of a key's count, 0 for an unknown key, as of `sums`; and mean and standard
            deviation over the rows of `log(1 + count)` of the row's key, float64. One pass over the
            rows gives all three.
        """
