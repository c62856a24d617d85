"""The bounds of a split by time: what is a number, a date or a time, and what is none."""

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from tfmtl.errors import SpecError

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
