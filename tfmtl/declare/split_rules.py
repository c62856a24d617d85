"""What each rule of a split needs, and which values of its fields contradict each other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import shown
from tfmtl.declare.times import time_of
from tfmtl.errors import SpecError


def check_rule(split: Any) -> None:
    """Refuses a split whose rule lacks what it reads, or whose shares, times or values are wrong.

    Args:
        split: A `Split`, whose fields are of the right types.

    Raises:
        SpecError: The message names the rule or the field.
    """
    for field in NEEDED[split.rule]:
        if getattr(split, field) is None:
            raise SpecError(f"split.{field} is missing; split.rule={split.rule!r} needs it.")
    CHECKS[split.rule](split)


def _check_shares(split: Any) -> None:
    shares = split.shares
    if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise SpecError(
            f"split.shares={shares}: by_{split.rule} needs the shares of train, validation and "
            "test, all above 0 and summing to 1."
        )


def _check_row_number(split: Any) -> None:
    _check_shares(split)
    for share in split.shares:
        if abs(share * split.modulo - round(share * split.modulo)) > 1e-9:
            raise SpecError(
                f"split.shares={split.shares}: by_row_number: share {share} is no multiple of "
                f"1/{split.modulo}."
            )


def _check_times(split: Any) -> None:
    if not isinstance(split.bounds, Sequence) or len(split.bounds) != 2:
        raise SpecError(
            f"split.bounds={shown(split.bounds)} must be two times, the first of validation and "
            "the first of test."
        )
    validation_from, test_from = split.bounds
    bounds = [time_of(bound) for bound in split.bounds]
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


def _check_values(split: Any) -> None:
    values = split.values
    flat = [value for part in values for value in part]
    if len(set(flat)) != len(flat):
        raise SpecError(f"split.values: by_column: a value stands in two splits: {values}.")
    if not all(values):
        raise SpecError(f"split.values={values}: each of the three splits needs a value.")


NEEDED: Mapping[str, tuple[str, ...]] = {
    "hash": ("column",),
    "time": ("column", "bounds"),
    "column": ("column", "values"),
    "row_number": ("modulo",),
    "whole": (),
}
RULES = tuple(NEEDED)
CHECKS: Mapping[str, Callable[[Any], None]] = {
    "hash": _check_shares,
    "time": _check_times,
    "column": _check_values,
    "row_number": _check_row_number,
    "whole": lambda split: None,
}
