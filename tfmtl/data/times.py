"""Parses ISO dates and times that are given as text."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.declare.split import time_of
from tfmtl.errors import SpecError

EPOCH = datetime.datetime(1970, 1, 1)
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)"
_TIME = r"[T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?"
_ISO = rf"^\d{{4}}-\d{{2}}(-\d{{2}}({_TIME}{_ZONE}?)?)?$"


@dataclasses.dataclass
class NoTime:
    """A value that is not a time.

    Attributes:
        row: Its index.
        reason: What is wrong with it, as text that follows the value.
    """

    row: int
    reason: str


def micros_of(times: Sequence[Any]) -> NDArray[Any]:
    """Microseconds since 1970, int64 `[n]`, in UTC if the times have zones."""
    utc = datetime.timezone.utc
    plain = [t.astimezone(utc).replace(tzinfo=None) if t.tzinfo else t for t in times]
    return np.array([(t - EPOCH) // datetime.timedelta(microseconds=1) for t in plain])


def parse(text: pa.Array, *, aware: bool) -> tuple[NDArray[Any], NoTime | None]:
    """Times as microseconds since 1970, int64 `[rows]`, and the first value that is not a time.

    Accepted are `2024-01`, `2024-01-02` and `2024-01-02 03:04`, with or without seconds and a
    fraction (cut at six digits), with a `T` or a space.

    Args:
        text: ISO dates and times, without nulls.
        aware: Whether they have time zones. Times with and without a zone cannot be compared.
    """
    text = pc.utf8_trim_whitespace(text)
    bad = _first(pc.invert(pc.match_substring_regex(text, _ISO)), "is no ISO date")
    if bad is not None:
        return np.zeros(len(text), np.int64), bad
    zoned = pc.match_substring_regex(text, _TIME + _ZONE + "$")
    if aware:
        bad = _first(pc.invert(zoned), "has no time zone, and the bounds have one")
    else:
        bad = _first(zoned, "has a time zone, and the bounds have none")
    if bad is not None:
        return np.zeros(len(text), np.int64), bad
    text = pc.replace_substring_regex(text, r"^(\d{4}-\d{2})$", r"\1-01")
    text = pc.replace_substring_regex(text, r"[.,](\d{1,6})\d*", r".\1")
    try:
        times = text.cast(pa.timestamp("us", "UTC" if aware else None))
    except pa.ArrowInvalid:
        for row, value in enumerate(text.to_pylist()):
            try:
                time_of(value)
            except SpecError:
                return np.zeros(len(text), np.int64), NoTime(row, "is no date of the calendar")
        raise
    return times.cast(pa.int64()).to_numpy(), None


def _first(bad: pa.Array, reason: str) -> NoTime | None:
    rows = bad.to_numpy(zero_copy_only=False)
    return NoTime(int(np.argmax(rows)), reason) if rows.any() else None
