"""The settings of how a model is judged."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import at_least, check_settings, shown
from tfmtl.errors import SpecError
from tfmtl.plain import freeze


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model is judged on the test split, and which bounds it must meet to be pushed.

    Args:
        slices: Columns to slice by, besides the scene; two joined as `("scene", "segment")`.
        bounds: Least or most values that must hold, by metric name:
            `{"ctr/auc@imp": 0.6, "ctr/calibration@imp": (0.8, 1.25)}`; a number bounds a metric
            from its worse side: AUC from below, losses and errors from above.
        slice_bounds: The same, for every slice with at least `min_slice_rows` rows.
        max_fall: How much each binary task's AUC may fall against the last blessed model,
            overall.
        max_slice_fall: The same, in every slice.
        min_slice_rows: Slices with fewer observed rows of a task do not decide.

    Raises:
        SpecError: A setting has the wrong type or lies out of its range.
    """

    slices: Sequence[str | Sequence[str]] = ()
    bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slice_bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_fall: float = 0.005
    max_slice_fall: float = 0.02
    min_slice_rows: int = 1000

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(
            "evaluation.",
            self,
            {
                "max_fall": at_least(0),
                "max_slice_fall": at_least(0),
                "min_slice_rows": at_least(0),
            },
        )
        check_bounds("evaluation.bounds", self.bounds)
        check_bounds("evaluation.slice_bounds", self.slice_bounds)


def check_bounds(field: str, bounds: Mapping[str, Any]) -> None:
    """Refuses what is neither a number nor a pair of numbers of which one may be open.

    Args:
        field: The dotted name of the setting.
        bounds: Bounds by the name of a metric.

    Raises:
        SpecError: The message names the metric.
    """
    for name, bound in bounds.items():
        pair = bound if isinstance(bound, tuple | list) and len(bound) == 2 else (bound, None)
        numbers = [number for number in pair if number is not None]
        if not numbers or not all(map(_is_number, numbers)):
            raise SpecError(
                f"{field}[{name!r}]={shown(bound)} must be a finite number, or a pair of least and "
                "most value such as (0.8, 1.25), with None for an open side."
            )
        if len(numbers) == 2 and numbers[0] > numbers[1]:
            raise SpecError(f"{field}[{name!r}]: {numbers[0]} lies above {numbers[1]}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
