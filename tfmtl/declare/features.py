"""Features: what the model may read, and how each is encoded.

Ids: every categorical feature maps to `0` = unknown, `1` = missing, `2…` = known values, so a
table of `n` values has `n + 2` rows and serving has a row for everything it may meet.
"""

import dataclasses
from typing import ClassVar

from tfmtl.errors import SpecError, did_you_mean

SIDES = ("user", "ad", "context")
UNKNOWN, MISSING, FIRST = 0, 1, 2
PADDING = -1
FOLD = "_fold"
"""Raw int64 column besides the declared ones: a hash that puts training rows into folds for
target encodings, −1 on other rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A raw column: its name, its type (`string`, `int64`, `float32`) and most values a row.

    `max_values` is 0 for a scalar column, else the column is a list.
    """

    name: str
    dtype: str
    max_values: int = 0

    def describe(self) -> str:
        """The column's type in words."""
        return f"{self.dtype} list" if self.max_values else self.dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical:
    """A field of ids. Made by `categorical`, which documents the fields."""

    kind: ClassVar[str] = "categorical"
    name: str
    column: str
    side: str
    dtype: str
    encoding: str
    size: int | None
    min_count: int
    dim: int | None
    max_values: int
    pooling: str
    weights: str | None

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        column = Column(name=self.column, dtype=self.dtype, max_values=self.max_values)
        if self.weights is None:
            return (column,)
        return column, Column(name=self.weights, dtype="float32", max_values=self.max_values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numerical:
    """A number. Made by `numerical`, which documents the fields."""

    kind: ClassVar[str] = "numerical"
    name: str
    column: str
    side: str
    encoding: str
    bins: int
    dim: int | None
    indicator: bool

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        return (Column(name=self.column, dtype="float32"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountEncoding:
    """How often a value was seen. Made by `count_encoding`."""

    kind: ClassVar[str] = "count_encoding"
    name: str
    column: str
    side: str
    dtype: str

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        return (Column(name=self.column, dtype=self.dtype),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetEncoding:
    """A value's smoothed mean label. Made by `target_encoding`."""

    kind: ClassVar[str] = "target_encoding"
    name: str
    column: str
    side: str
    dtype: str
    task: str
    smoothing: float
    folds: int

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        return (Column(name=self.column, dtype=self.dtype),)


Feature = Categorical | Numerical | CountEncoding | TargetEncoding
FEATURE_KINDS = {c.kind: c for c in (Categorical, Numerical, CountEncoding, TargetEncoding)}


def categorical(
    name: str,
    *,
    column: str | None = None,
    side: str = "context",
    dtype: str | None = None,
    encoding: str = "vocabulary",
    size: int | None = None,
    min_count: int = 1,
    dim: int | None = None,
    max_values: int = 0,
    pooling: str = "mean",
    weights: str | None = None,
) -> Categorical:
    """Declares a categorical field.

    Args:
        name: Name of the field.
        column: Raw column, by default of the same name.
        side: `user`, `ad` or `context`; a tower is served from its own side's inputs alone.
        dtype: Type of the raw values, `string` or `int64`; `int64` for identity, else `string`.
        encoding: `vocabulary` (values seen in training), `hash` (`size` buckets, nothing
            fitted) or `identity` (integers `0 … size − 1`).
        size: Most values kept by a vocabulary (all, by default), or buckets, or integers.
        min_count: A vocabulary keeps values seen at least so often in training.
        dim: Width of the embedding; the model's width by default. Another width is projected.
        max_values: For a list of values, how many are read; further ones are cut off. 0 for a
            single value.
        pooling: How a list's embeddings become one: `mean`, `sum` or `max`. Weighted mean is
            `Σ wₑe / Σ w`.
        weights: List column with one weight for each value of the list.

    Raises:
        SpecError: The arguments contradict each other.
    """
    field = f"categorical {name!r}"
    _one_of(field, "side", side, SIDES)
    _one_of(field, "encoding", encoding, ("vocabulary", "hash", "identity"))
    _one_of(field, "pooling", pooling, ("mean", "sum", "max"))
    dtype = dtype or ("int64" if encoding == "identity" else "string")
    _one_of(field, "dtype", dtype, ("string", "int64"))
    if encoding != "vocabulary" and (size is None or size < 1):
        raise SpecError(
            f"{field}: encoding={encoding!r} needs size=, the number of ids; got {size}."
        )
    if encoding == "identity" and dtype != "int64":
        raise SpecError(
            f"{field}: encoding='identity' reads integers; use dtype='int64' or 'hash'."
        )
    if encoding != "vocabulary" and min_count != 1:
        raise SpecError(f"{field}: min_count= counts a vocabulary's values; encoding={encoding!r}.")
    if weights is not None and not max_values:
        raise SpecError(f"{field}: weights={weights!r} weigh a list's values; give max_values=.")
    if weights is not None and pooling == "max":
        raise SpecError(f"{field}: pooling='max' has no weights; use 'mean' or 'sum'.")
    _positive(field, "dim", dim)
    return Categorical(
        name=name,
        column=column or name,
        side=side,
        dtype=dtype,
        encoding=encoding,
        size=size,
        min_count=min_count,
        dim=dim,
        max_values=max_values,
        pooling=pooling,
        weights=weights,
    )


def numerical(
    name: str,
    *,
    column: str | None = None,
    side: str = "context",
    encoding: str = "standard",
    bins: int = 32,
    dim: int | None = None,
    indicator: bool = False,
) -> Numerical:
    """Declares a number.

    Args:
        name: Name of the feature.
        column: Raw column, by default of the same name.
        side: As in `categorical`.
        encoding: `standard` (zero mean, unit variance on training rows), `log`
            (`sign(x)·log(1 + |x|)`, then standard), `quantile` (the index of its quantile
            bucket, embedded like a category) or `piecewise` (piecewise-linear encoding over
            quantile bins, Gorishniy et al., NeurIPS 2022, eq. 1).
        bins: Buckets of `quantile` and `piecewise`. Quantiles are those of the values other than
            zero, and `quantile` keeps one bucket for zero (our choice: counts and amounts are
            mostly zero).
        dim: Width of a `quantile` embedding; the model's width by default.
        indicator: Adds an input that is 1 where the value is missing. A missing value (an
            infinite one is too) is the mean for `standard` and `log`, a bucket of its own for
            `quantile`, zeros for `piecewise`.

    Raises:
        SpecError: The arguments contradict each other.
    """
    field = f"numerical {name!r}"
    _one_of(field, "side", side, SIDES)
    _one_of(field, "encoding", encoding, ("standard", "log", "quantile", "piecewise"))
    _positive(field, "dim", dim)
    if bins < 3:
        raise SpecError(f"{field}: bins={bins}; at least 3 make sense.")
    if dim is not None and encoding != "quantile":
        raise SpecError(f"{field}: dim= is the width of encoding='quantile', not of {encoding!r}.")
    return Numerical(
        name=name,
        column=column or name,
        side=side,
        encoding=encoding,
        bins=bins,
        dim=dim,
        indicator=indicator,
    )


def count_encoding(
    column: str, *, name: str | None = None, side: str = "context", dtype: str = "string"
) -> CountEncoding:
    """Declares `log(1 + n)`, standardised, with `n` the value's count in the training rows.

    Args:
        column: Raw column.
        name: Name of the feature, `{column}_count` by default.
        side: As in `categorical`.
        dtype: As in `categorical`.
    """
    field = f"count_encoding {column!r}"
    _one_of(field, "side", side, SIDES)
    _one_of(field, "dtype", dtype, ("string", "int64"))
    return CountEncoding(name=name or f"{column}_count", column=column, side=side, dtype=dtype)


def target_encoding(
    column: str,
    *,
    task: str,
    name: str | None = None,
    side: str = "context",
    dtype: str = "string",
    smoothing: float = 20.0,
    folds: int = 5,
) -> TargetEncoding:
    """Declares the smoothed mean label of a value, `(Σy + s·ȳ) / (n + s)` on observed rows.

    A training row is encoded from the other folds' rows, so its own label never reaches it;
    every other row is encoded from all training rows. A binary task's mean becomes a log-odds
    relative to `ȳ`, a regression's a difference in standard deviations (our choice: both are
    zero for an unseen value).

    Args:
        column: Raw column.
        task: Task whose label is averaged, on the task's own sample space.
        name: Name of the feature, `{column}_{task}` by default.
        side: As in `categorical`.
        dtype: As in `categorical`.
        smoothing: Rows of prior, `s`.
        folds: Folds of the training rows.
    """
    field = f"target_encoding {column!r}"
    _one_of(field, "side", side, SIDES)
    _one_of(field, "dtype", dtype, ("string", "int64"))
    if folds < 2 or smoothing <= 0:
        raise SpecError(f"{field}: needs folds ≥ 2 and smoothing > 0; got {folds}, {smoothing}.")
    return TargetEncoding(
        name=name or f"{column}_{task}",
        column=column,
        side=side,
        dtype=dtype,
        task=task,
        smoothing=smoothing,
        folds=folds,
    )


def _one_of(field: str, argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(
            f"{field}: {argument}={value!r} is none of {list(allowed)}."
            f"{did_you_mean(value, allowed)}"
        )


def _positive(field: str, argument: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise SpecError(f"{field}: {argument}={value} must be at least 1.")
