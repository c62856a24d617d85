"""Raw columns, the sides that features belong to, and the ids that mean no value."""

import dataclasses
from collections.abc import Mapping

from tfmtl.declare.checks import Limit, above, at_least, filled, one_of

SIDES = ("user", "ad", "context")
UNKNOWN, MISSING, FIRST = 0, 1, 2
PADDING = -1
FOLD = "_fold"
"""Raw int64 column besides the declared ones: a hash that puts training rows into folds for
target encodings, −1 on other rows."""

POOLINGS = ("mean", "sum", "max")
DTYPES = ("string", "int64")
LIMITS: Mapping[str, Limit] = {
    "name": filled(),
    "column": filled(),
    "side": one_of(SIDES),
    "dim": at_least(1),
    "max_values": at_least(0),
    "pooling": one_of(POOLINGS),
    "weights": filled(),
    "task": filled(),
    "smoothing": above(0),
    "folds": at_least(2),
    "of": filled(),
}
"""Ranges of the fields of all features."""
STATISTIC_LIMITS = {**LIMITS, "dtype": one_of(DTYPES)}
"""And of those that count or average by a value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A raw column: its name, its type (`string`, `int64`, `float32`) and the most values per row.

    `max_values` is 0 for a scalar column, else the column is a list. A list of a sequence is
    `whole`: all its values are read, because which of them are kept depends on other columns.
    """

    name: str
    dtype: str
    max_values: int = 0
    whole: bool = False

    def describe(self) -> str:
        """The column's type in words."""
        if self.whole:
            return f"{self.dtype} list of a sequence"
        return f"{self.dtype} list" if self.max_values else self.dtype
