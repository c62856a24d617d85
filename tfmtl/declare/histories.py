"""How histories are made from the log itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.checks import at_least, check_settings, filled
from tfmtl.errors import SpecError
from tfmtl.plain import freeze


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
    """Each row's last events of its user, strictly before it, as list columns.

    Rows of one user stand in the order of their times; users may be mixed. Lists have the oldest
    event first, so that a sequence of them has `order="oldest_first"`.

    Args:
        user: Column that identifies the user.
        time: Column of int64 with the rows' times.
        columns: The column of the log that each list column is made of, by the list's name:
            `{"clicked_ads": "ad_id", "clicked_times": "event_time"}`.
        event_if: Column of 0 and 1 that says which rows are events, such as `click`; by default
            every row is one.
        length: Most events of a list.
        gap: How long before the row an event is known, in units of the times: an event is in a
            history if `time + gap < row's time`.

    Raises:
        SpecError: A setting is of the wrong type or out of range.

    Example:
        >>> Histories(user="user", time="at", columns={"seen": "ad"}, length=3).length
        3
    """

    user: str
    time: str
    columns: Mapping[str, str]
    event_if: str | None = None
    length: int = 50
    gap: int = 0

    def __post_init__(self) -> None:
        freeze(self)
        names = dict.fromkeys(("user", "time", "event_if"), filled())
        limits = {**names, "length": at_least(1), "gap": at_least(0)}
        check_settings("histories.", self, limits)
        if not self.columns:
            raise SpecError("histories.columns={} makes no column.")
        for name, source in self.columns.items():
            if name in (self.user, self.time, self.event_if) or name in self.columns.values():
                raise SpecError(
                    f"histories.columns: {name!r} is a column of the log that is read too; give "
                    f"the list of {source!r} another name."
                )

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `Histories(**plain)` makes an equal object."""
        return dataclasses.asdict(self)
