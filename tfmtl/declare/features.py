"""Features: what the model may read, and how each is encoded.

Ids: every categorical feature maps to `0` = unknown, `1` = missing, `2…` = known values, so a
table of `n` values has `n + 2` rows, and every served value has a row.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from tfmtl.declare.checks import check_settings
from tfmtl.declare.columns import (
    DTYPES,
    FIRST,
    FOLD,
    LIMITS,
    MISSING,
    PADDING,
    POOLINGS,
    SIDES,
    STATISTIC_LIMITS,
    UNKNOWN,
    Column,
)
from tfmtl.declare.encoding import (
    Encoding,
    check_categorical,
    check_dim,
    encoder_of,
    encoding_config,
)
from tfmtl.declare.sequences import SequenceFeature, refuse_beside_of
from tfmtl.plain import freeze

__all__ = [
    "DTYPES",
    "FEATURE_KINDS",
    "FIRST",
    "FOLD",
    "MISSING",
    "PADDING",
    "POOLINGS",
    "SIDES",
    "UNKNOWN",
    "Categorical",
    "Column",
    "CountEncoding",
    "Feature",
    "Numerical",
    "TargetEncoding",
    "categorical",
    "count_encoding",
    "numerical",
    "target_encoding",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical:
    """A field of ids. Made by `categorical`, which documents the fields.

    `encoding` is the configuration of a part of kind "encoding", `{"name": "hash", "size": 64}`.
    """

    kind: ClassVar[str] = "categorical"
    name: str
    column: str
    side: str
    dtype: str
    encoding: Mapping[str, Any]
    dim: int | None
    max_values: int
    pooling: str
    weights: str | None
    of: str | None = None

    def __post_init__(self) -> None:
        field = f"categorical {self.name!r}"
        object.__setattr__(self, "encoding", encoding_config(field, self.encoding, {}))
        freeze(self)
        check_settings(f"{field}: ", self, LIMITS)
        check_categorical(self)

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoding, of `tfmtl.features.encodings.CategoricalEncoding`."""
        return encoder_of(f"categorical {self.name!r}", self.kind, self.encoding)

    @property
    def table(self) -> str:
        """The name of the vocabulary and of the table: its own, or those of `of`."""
        return self.name if self.of is None else self.of

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        column = Column(name=self.column, dtype=self.dtype, max_values=self.max_values)
        if self.weights is None:
            return (column,)
        return column, Column(name=self.weights, dtype="float32", max_values=self.max_values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numerical:
    """A number. Made by `numerical`, which documents the fields.

    `encoding` is the configuration of a part of kind "encoding", `{"name": "quantile", "bins": 8}`.
    """

    kind: ClassVar[str] = "numerical"
    name: str
    column: str
    side: str
    encoding: Mapping[str, Any]
    dim: int | None
    indicator: bool

    def __post_init__(self) -> None:
        field = f"numerical {self.name!r}"
        object.__setattr__(self, "encoding", encoding_config(field, self.encoding, {}))
        freeze(self)
        check_settings(f"{field}: ", self, LIMITS)
        check_dim(field, self.dim, self.encoding, self.encoder)

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoding, of `tfmtl.features.encodings.NumericalEncoding`."""
        return encoder_of(f"numerical {self.name!r}", self.kind, self.encoding)

    @property
    def table(self) -> str:
        """The name of the table, where the encoding has ids."""
        return self.name

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

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(f"count_encoding {self.column!r}: ", self, STATISTIC_LIMITS)

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

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(f"target_encoding {self.column!r}: ", self, STATISTIC_LIMITS)

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the feature reads."""
        return (Column(name=self.column, dtype=self.dtype),)


Feature = Categorical | Numerical | CountEncoding | TargetEncoding | SequenceFeature
FEATURE_KINDS = {
    c.kind: c for c in (Categorical, Numerical, CountEncoding, TargetEncoding, SequenceFeature)
}


def categorical(
    name: str,
    *,
    column: str | None = None,
    side: str = "context",
    dtype: str | None = None,
    encoding: Encoding | None = None,
    size: int | None = None,
    min_count: int | None = None,
    dim: int | None = None,
    max_values: int = 0,
    pooling: str = "mean",
    weights: str | None = None,
    of: str | None = None,
) -> Categorical:
    """Declares a categorical field.

    Args:
        name: Name of the field.
        column: Raw column, by default of the same name.
        side: `user`, `ad` or `context`; a tower is served from its own side's inputs alone.
        dtype: Type of the raw values, `string` or `int64`; `int64` for identity, else `string`.
        encoding: A registered encoding by name: `vocabulary` (values seen in training; the
            default), `hash`
            (`size` buckets, nothing fitted) or `identity` (integers `0 … size − 1`); with its
            arguments, `{"name": "hash", "size": 2**20}`; or a class of your own. See
            `tfmtl.features.encodings`.
        size: Short for the encoding's argument `size`: most values kept by a vocabulary, or
            buckets, or integers.
        min_count: Short for the argument `min_count` of a vocabulary, which keeps values seen at
            least so often in training.
        dim: Width of the embedding; the model's width by default. Another width is projected.
        max_values: For a list of values, how many are read; further ones are cut off. 0 for a
            single value.
        pooling: How a list's embeddings become one: `mean`, `sum` or `max`. Weighted mean is
            `Σ wₑe / Σ w`.
        weights: List column with one weight for each value of the list.
        of: Another `categorical` whose values these are, such as the ad shown last. Type,
            encoding, ids, width and table are that feature's. Its own values keep their ids, and
            values that only this column has follow them.

    Raises:
        SpecError: The arguments contradict each other, or the encoding is unknown.
    """
    field = f"categorical {name!r}"
    if of is not None:
        given = {"dtype": dtype, "encoding": encoding, "size": size, "min_count": min_count}
        refuse_beside_of(field, of, {**given, "dim": dim})
    encoding = "vocabulary" if encoding is None else encoding
    config = encoding_config(field, encoding, {"size": size, "min_count": min_count})
    encoder = encoder_of(field, Categorical.kind, config)
    return Categorical(
        name=name,
        column=name if column is None else column,
        side=side,
        dtype=encoder.dtypes[0] if dtype is None else dtype,
        encoding=config,
        dim=dim,
        max_values=max_values,
        pooling=pooling,
        weights=weights,
        of=of,
    )


def numerical(
    name: str,
    *,
    column: str | None = None,
    side: str = "context",
    encoding: Encoding = "standard",
    bins: int | None = None,
    dim: int | None = None,
    indicator: bool = False,
) -> Numerical:
    """Declares a number.

    Args:
        name: Name of the feature.
        column: Raw column, by default of the same name.
        side: As in `categorical`.
        encoding: A registered encoding by name: `standard` (zero mean, unit variance on training
            rows), `log` (`sign(x)·log(1 + |x|)`, then standard), `quantile` (the index of its
            quantile bucket, embedded like a category) or `piecewise` (piecewise-linear encoding
            over quantile bins, Gorishniy et al., NeurIPS 2022, eq. 1); with its arguments,
            `{"name": "cyclic", "period": 24}` for hours; or a class of your own. See
            `tfmtl.features.encodings`.
        bins: Short for the argument `bins` of `quantile` and `piecewise`.
        dim: Width of the embedding of an encoding with ids; the model's width by default.
        indicator: Adds an input that is 1 where the value is missing. A missing value (an
            infinite one is too) is the mean for `standard` and `log`, an id of its own for
            `quantile`, zeros for `piecewise` and `cyclic`.

    Raises:
        SpecError: The arguments contradict each other, or the encoding is unknown.
    """
    return Numerical(
        name=name,
        column=name if column is None else column,
        side=side,
        encoding=encoding_config(f"numerical {name!r}", encoding, {"bins": bins}),
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
    name = f"{column}_count" if name is None else name
    return CountEncoding(name=name, column=column, side=side, dtype=dtype)


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
    any other row is encoded from all training rows. A binary task's mean becomes a log-odds
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
    return TargetEncoding(
        name=f"{column}_{task}" if name is None else name,
        column=column,
        side=side,
        dtype=dtype,
        task=task,
        smoothing=smoothing,
        folds=folds,
    )
