"""Which rows are train, validation and test, and which training rows are left out: the rules."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import at_least, check_setting, check_settings, filled, one_of
from tfmtl.declare.split_rules import RULES, check_rule
from tfmtl.declare.times import time_of
from tfmtl.errors import SpecError
from tfmtl.plain import freeze

__all__ = [
    "SPLITS",
    "WHOLE",
    "Sampling",
    "Split",
    "by_column",
    "by_hash",
    "by_row_number",
    "by_time",
    "time_of",
    "whole",
]

SPLITS = ("train", "validation", "test")
WHOLE = ("all",)
"""The one split of `whole`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How rows become train, validation and test.

    Made by `by_hash`, `by_time`, `by_column`, `by_row_number` or `whole`, which document the
    fields.
    """

    rule: str
    column: str | None = None
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    salt: str = ""
    bounds: tuple[Any, Any] | None = None
    values: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None
    modulo: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(
            "split.",
            self,
            {"rule": one_of(RULES), "column": filled(), "modulo": at_least(1)},
        )
        check_rule(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits; the first is the one that is trained on."""
        return WHOLE if self.rule == "whole" else SPLITS

    def __str__(self) -> str:
        if self.rule == "whole":
            return "whole()"
        return f"by_{self.rule}({self.column!r})" if self.column else f"by_{self.rule}()"


def by_hash(column: str, *, shares: Sequence[float] = (0.8, 0.1, 0.1), salt: str = "") -> Split:
    """Splits by a hash of `column` (request or user), so that its rows stay together.

    Args:
        column: Column whose value decides.
        shares: Shares of train, validation and test; they sum to 1.
        salt: Another salt gives another split.
    """
    return Split(rule="hash", column=column, shares=shares, salt=salt)  # type: ignore[arg-type]


def by_time(column: str, *, validation_from: Any, test_from: Any) -> Split:
    """Splits by time: train before `validation_from`, test from `test_from` on.

    Args:
        column: Column with numbers or ISO dates and times, which are compared as times: a `T` or
            a space, with seconds or without, is all the same.
        validation_from: First value of validation: a number, an ISO date or time, or a `date`.
            With a time zone where the column has them, and without where it has none.
        test_from: First value of test, of the same kind.

    Raises:
        SpecError: A bound is no time, they are of two kinds, or the second is not later.
    """
    return Split(rule="time", column=column, bounds=(validation_from, test_from))


def by_column(
    column: str,
    *,
    train: Sequence[str] = ("train",),
    validation: Sequence[str] = ("validation", "valid", "val"),
    test: Sequence[str] = ("test",),
) -> Split:
    """Splits by an existing column's values; rows with any other value are an error."""
    values = (train, validation, test)
    return Split(rule="column", column=column, values=values)  # type: ignore[arg-type]


def by_row_number(*, shares: Sequence[float] = (0.6, 0.2, 0.2), modulo: int = 10) -> Split:
    """Splits by row number `r % modulo`, for data without requests or users.

    Args:
        shares: Shares of train, validation and test, multiples of `1 / modulo`; `r % 10 < 6`
            is train for `(0.6, 0.2, 0.2)`.
        modulo: Length of the repeating pattern.
    """
    return Split(rule="row_number", shares=shares, modulo=modulo)  # type: ignore[arg-type]


def whole() -> Split:
    """Keeps all rows together, as the split `all`, for data that come day by day.

    A day is tested on as a whole, when it is new, and trained on afterwards: behaviour varies
    over its 24 hours, so that a part of a day is no sample of it (Tan et al., MTMS, §IV).
    """
    return Split(rule="whole")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which share of the training rows is kept, by a column's value.

    A hash of a row's number decides whether it is kept, so that a lower rate keeps a subset of what
    a higher one keeps. Validation and test rows are all kept.

    Args:
        column: Column that decides, such as `row_type`.
        rates: Share kept, in `[0, 1]`, by the value as text; other values are all kept.
        correct: What the training losses do about it. `none`: a row does not count for those left
            out, and predictions are of the kept rows' scale. `offset`: the column is the label of
            a task; that task's logit is shifted in its loss, and other tasks on all rows have
            weights, so that predictions are of the scale of all rows. `weight`: weights for all
            of them. See `tfmtl.declare.down_sampling`.

    Raises:
        SpecError: There are no rates, one is no share, or a value is no text.
    """

    column: str
    rates: Mapping[str, float]
    correct: str = "none"

    def __post_init__(self) -> None:
        freeze(self)
        check_setting("sampling.correct", self.correct, str, one_of(("none", "offset", "weight")))
        if isinstance(self.rates, Mapping) and not self.rates:
            raise SpecError(f"sampling.rates= of column {self.column!r} is empty; name a value.")
        # A value that is no text has a sentence of its own, below.
        check_setting("sampling.column", self.column, str, filled())
        check_setting("sampling.rates", self.rates, Mapping[Any, Any])
        for value, rate in self.rates.items():
            if not isinstance(value, str):
                raise SpecError(
                    f"sampling.rates: the value {value!r} of column {self.column!r} is no text; "
                    f"rates={{{str(value)!r}: {rate}}} would be right, for numbers too."
                )
            if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1:
                raise SpecError(
                    f"sampling.rates: {self.column}={value!r} is kept at {rate!r}; a share from 0 "
                    "to 1 would be right."
                )
