"""What an encoding is: its arguments and their checks, its width, and how values become numbers.

All of it stands in one class in one file:

    @tfmtl.register("encoding", "sign")
    class Sign(NumericalEncoding):
        def encode(self, name, values, present, analyzers):
            return tf.sign(values)[:, tf.newaxis]

    numerical("profit", encoding="sign")

Arguments are keyword-only arguments of the constructor, which states their defaults and checks
their values: `numerical("hour", encoding={"name": "cyclic", "period": 24})`. Missing values are no
business of an encoding: `tfmtl.features.encode` puts their id, or zeros, in place of what comes out
for them. Tests find a registered encoding by themselves and need one row of `SMALL` in
`tests/features/test_encodings.py`.

The library's own files import TensorFlow lazily, because declaring a feature makes its encoding.
One of your own may import it as any file does.
"""

from __future__ import annotations

import abc
from typing import ClassVar

from tfmtl.features.analyzers import Analyzers
from tfmtl.lazy import tf


class Encoding(abc.ABC):
    """How the values of one raw column become ids or numbers; subclass one of the two below.

    Attributes:
        feature_kind: Kind of feature that it encodes, `categorical` or `numerical`.
        has_ids: Whether values become ids, which are looked up in a table, or numbers.
        refitted: Whether ids mean other values after another fit. Tables that are carried from
            slot to slot (MTMS) cannot have such ids.
    """

    feature_kind: ClassVar[str]
    has_ids: ClassVar[bool]
    refitted: ClassVar[bool] = False

    @property
    def ids(self) -> int | None:
        """How many known ids there are; `None` where training rows decide, or there are none."""
        return None

    @property
    def width(self) -> int:
        """How many numbers the model reads; 0 for ids."""
        return 0 if self.has_ids else 1

    @abc.abstractmethod
    def encode(
        self, name: str, values: tf.Tensor, present: tf.Tensor, analyzers: Analyzers
    ) -> tf.Tensor:
        """Returns ids or numbers; what stands where a value is missing does not matter.

        Args:
            name: The feature's name, for the analyzers.
            values: Raw values of one type, `[batch]`, or `[batch, max_values]` for a list.
            present: Those of them that are not missing, `[n]`, to fit on.
            analyzers: Where statistics of the training rows come from.

        Returns:
            With `has_ids`: int64 of the shape of `values`, from 0 to below `ids`, −1 for an
            unknown value. Else float32 `[batch, width]`.
        """


class CategoricalEncoding(Encoding):
    """Text or integers to ids.

    Attributes:
        dtypes: Types of raw values that it reads, `string` or `int64`; the first by default.
    """

    feature_kind = "categorical"
    has_ids = True
    dtypes: ClassVar[tuple[str, ...]] = ("string", "int64")


class NumericalEncoding(Encoding):
    """A float32 to numbers, or to an id where `has_ids`. Missing values are NaN."""

    feature_kind = "numerical"
    has_ids = False


def as_text(values: tf.Tensor) -> tf.Tensor:
    """Text as it is, integers as text."""
    return values if values.dtype == tf.string else tf.strings.as_string(values)


def deviation(mean: tf.Tensor, std: tf.Tensor) -> tf.Tensor:
    """What standardised values are divided by: the standard deviation, or 1 where it is rounding.

    The deviation of equal values comes out as rounding, about 1e-16 of their mean in float64.
    Division by it would turn the first other value that is served into millions.
    """
    return tf.where(std > 1e-9 * tf.abs(mean), std, tf.ones_like(std))


def standardised(values: tf.Tensor, mean: tf.Tensor, std: tf.Tensor) -> tf.Tensor:
    """`(values − mean) / deviation` as float32, computed in float64.

    Hours of epoch seconds differ in their sixth digit, which float32 arithmetic would lose.
    """
    return tf.cast((tf.cast(values, tf.float64) - mean) / deviation(mean, std), tf.float32)
