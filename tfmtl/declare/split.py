"""Which rows are train, validation and test, and which training rows are left out: the rules."""

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.errors import SpecError
from tfmtl.plain import freeze

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
    _check_shares("by_hash", shares)
    return Split(rule="hash", column=column, shares=tuple(shares), salt=salt)  # type: ignore[arg-type]


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
    bounds = [time_of(bound) for bound in (validation_from, test_from)]
    try:
        ordered = bounds[0] < bounds[1]  # type: ignore[operator]
    except TypeError:
        raise SpecError(
            f"by_time: validation_from={validation_from!r} and test_from={test_from!r} cannot be "
            "compared; two numbers, two times without a zone or two with one would be right."
        ) from None
    if not ordered:
        raise SpecError(
            f"by_time: validation_from={validation_from!r} must lie before test_from={test_from!r}."
        )
    return Split(rule="time", column=column, bounds=(validation_from, test_from))


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_ISO = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{2})(?:-(?P<day>\d{2})"
    r"(?:[T ](?P<hour>\d{2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,6})\d{0,3})?)?"
    r"(?:(?P<utc>Z)|(?P<sign>[+-])(?P<zone>\d{2}):?(?P<zone_minute>\d{2})?)?)?)?"
)


def time_of(bound: Any) -> float | datetime.datetime:
    """A bound of `by_time` as a number or a time, with a zone where it says one.

    Raises:
        SpecError: It is neither.
    """
    if isinstance(bound, datetime.date) and not isinstance(bound, datetime.datetime):
        return datetime.datetime(bound.year, bound.month, bound.day)
    if isinstance(bound, datetime.datetime):
        return bound
    text = bound.strip() if isinstance(bound, str) else ""
    is_number = hasattr(bound, "__float__") and not isinstance(bound, bool)
    if (is_number and math.isfinite(bound)) or _NUMBER.fullmatch(text):
        return float(bound)
    iso = _ISO.fullmatch(text)
    try:
        if iso is not None:
            return _iso(iso.groupdict())
    except ValueError:
        pass
    raise SpecError(
        f"by_time: {bound!r} is no time. A number, an ISO date or time of the calendar such as "
        "'2024-01-31' or '2024-01-31 12:00:00', or a datetime.date would be right."
    )


def _iso(part: Mapping[str, str | None]) -> datetime.datetime:
    """The time that the named groups of `_ISO` spell."""

    def number(name: str, default: int = 0) -> int:
        return int(part[name] or default)

    zone = None
    if part["utc"]:
        zone = datetime.timezone.utc
    elif part["sign"]:
        offset = datetime.timedelta(hours=number("zone"), minutes=number("zone_minute"))
        zone = datetime.timezone(offset if part["sign"] == "+" else -offset)
    return datetime.datetime(
        number("year"),
        number("month"),
        number("day", 1),
        number("hour"),
        number("minute"),
        number("second"),
        int((part["fraction"] or "").ljust(6, "0")),
        tzinfo=zone,
    )


def by_column(
    column: str,
    *,
    train: Sequence[str] = ("train",),
    validation: Sequence[str] = ("validation", "valid", "val"),
    test: Sequence[str] = ("test",),
) -> Split:
    """Splits by an existing column's values; rows with any other value are an error."""
    values = (tuple(train), tuple(validation), tuple(test))
    flat = [v for part in values for v in part]
    if len(set(flat)) != len(flat):
        raise SpecError(f"by_column: a value stands in two splits: {values}.")
    return Split(rule="column", column=column, values=values)


def by_row_number(*, shares: Sequence[float] = (0.6, 0.2, 0.2), modulo: int = 10) -> Split:
    """Splits by row number `r % modulo`, for data without requests or users.

    Args:
        shares: Shares of train, validation and test, multiples of `1 / modulo`; `r % 10 < 6`
            is train for `(0.6, 0.2, 0.2)`.
        modulo: Length of the repeating pattern.
    """
    _check_shares("by_row_number", shares)
    for share in shares:
        if abs(share * modulo - round(share * modulo)) > 1e-9:
            raise SpecError(f"by_row_number: share {share} is no multiple of 1/{modulo}.")
    return Split(rule="row_number", shares=tuple(shares), modulo=modulo)  # type: ignore[arg-type]


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
    a higher one keeps. Validation and test rows are all kept, and losses are not re-weighted (our
    choice: a row does not count for those left out).

    Args:
        column: Column that decides, such as `row_type`.
        rates: Share kept, in `[0, 1]`, by the value as text; other values are all kept.

    Raises:
        SpecError: There are no rates, one is no share, or a value is no text.
    """

    column: str
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        freeze(self)
        if not self.rates:
            raise SpecError(f"sampling: rates= of column {self.column!r} is empty; name a value.")
        for value, rate in self.rates.items():
            if not isinstance(value, str):
                raise SpecError(
                    f"sampling: the value {value!r} of column {self.column!r} is no text; "
                    f"rates={{{str(value)!r}: {rate}}} would be right, for numbers too."
                )
            if not 0 <= rate <= 1:
                raise SpecError(
                    f"sampling: {self.column}={value!r} is kept at {rate}; a share from 0 to 1 "
                    "would be right."
                )


def _check_shares(rule: str, shares: Sequence[float]) -> None:
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise SpecError(
            f"{rule}: shares are train, validation and test, all above 0 and summing to 1; got "
            f"{tuple(shares)}."
        )
