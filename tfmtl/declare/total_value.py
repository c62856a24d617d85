"""Total value: what an ad is worth to the auction, in the early and in the final stage alike.

`TV = bid · eAction + f(CQS)` (Wang et al., AdKDD 2023, §1 and eq. 1). Both stages share this one
function; only where the predictions come from differs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.declare.checks import check_setting, check_settings, filled, one_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.plain import freeze

ACTIONS: Mapping[str, tuple[bool, bool]] = {
    "click": (True, False),
    "click_conversion": (True, True),
    "view_conversion": (False, True),
    "impression": (False, False),
}
"""Whether the action an advertiser pays for needs a click, and whether a conversion."""

QUALITY_MAPS = ("linear", "clip", "piecewise")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TotalValue:
    """How bid, predictions and quality become the value an auction ranks by.

    The expected action is `pCTR` where a click is paid for, `pCTR · rate` where a conversion
    after a click is, `rate` for a conversion after an impression, and 1 for an impression.
    The rate comes from another model: conversions are not the early stage's business.

    Args:
        actions: Which of `ACTIONS` each objective pays for, by the objective column's value.
        bid: Column with the bid, in value an action.
        objective: Column with the objective.
        rate: Column with the conversion rate, of clicks or of impressions as the action needs.
        ctr: Task that predicts the click-through rate.
        cqs: Task that predicts the consolidated quality score; `None` where quality does not
            count.
        quality: `f`, monotone: `{"name": "linear", "scale": κ}`, `{"name": "clip", "low": …,
            "high": …, "scale": κ}` (the score is held in `[low, high]` first), or
            `{"name": "piecewise", "points": ((x, y), …)}`, straight lines through the points and
            constant beyond them. The paper leaves `f` open; linear with κ = 1 is our choice.

    Raises:
        SpecError: An action or a mapping is unknown, or the mapping falls somewhere.

    Example:
        >>> value = TotalValue(actions={"cpc": "click", "cpm": "impression"})
        >>> value(pctr=[0.1, 0.1], rate=[0, 0], cqs=[-0.05, 0.0], bid=[2, 2],
        ...       objective=["cpc", "cpm"])
        array([0.15, 2.  ])
    """

    actions: Mapping[str, str]
    bid: str = "bid"
    objective: str = "objective"
    rate: str = "early_cvr"
    ctr: str = "ctr"
    cqs: str | None = "cqs"
    quality: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "linear", "scale": 1.0}
    )

    def __post_init__(self) -> None:
        freeze(self)
        columns = ("bid", "objective", "rate", "ctr", "cqs")
        check_settings("value.", self, dict.fromkeys(columns, filled()))
        if not self.actions:
            raise SpecError("value.actions names what each objective pays for; got none.")
        for objective, action in self.actions.items():
            check_setting(f"value.actions[{objective!r}]", action, str, one_of(tuple(ACTIONS)))
        _check_quality(self.quality)

    def check_problem(self, problem: ProblemSpec) -> None:
        """Refuses a problem that does not predict what the value is made of.

        Raises:
            SpecError: A task is not there, or of another kind.
        """
        known = [task.name for task in problem.served]
        needed = [(self.ctr, "binary"), *([(self.cqs, "regression")] if self.cqs else [])]
        for name, kind in needed:
            if name not in known or problem.task(name).kind != kind:
                raise SpecError(
                    f"total value: {name!r} is no served {kind} task; served tasks are {known}."
                    f"{did_you_mean(name, known)}"
                )

    def __call__(
        self,
        *,
        pctr: ArrayLike,
        rate: ArrayLike,
        cqs: ArrayLike,
        bid: ArrayLike,
        objective: ArrayLike,
    ) -> NDArray[np.float64]:
        """The total value of ads, of the shape that the arguments broadcast to.

        Args:
            pctr: Probability of a click.
            rate: Conversion rate; read only where the objective needs it, and may be NaN else.
            cqs: Consolidated quality score, in its own unit (not standardised).
            bid: In value an action.
            objective: Text, keys of `actions`.

        Raises:
            DataError: An objective is unknown.
        """
        clicks, converts = self.needs(np.asarray(objective))
        pctr, rate, cqs, bid = (np.asarray(x, np.float64) for x in (pctr, rate, cqs, bid))
        value: NDArray[np.float64] = self.combine(pctr, rate, cqs, bid, clicks, converts, xp=np)
        return value

    def of_rows(
        self, predictions: Mapping[str, ArrayLike], columns: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64]:
        """The total value of a table's rows.

        Args:
            predictions: `[n]` by task.
            columns: `[n]` by name: bid, objective, and the rate where an objective needs it.
        """
        return self(
            pctr=predictions[self.ctr],
            rate=columns.get(self.rate, np.nan),
            cqs=predictions[self.cqs] if self.cqs else 0.0,
            bid=columns[self.bid],
            objective=columns[self.objective],
        )

    def needs(self, objective: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each objective needs a click, and whether a conversion.

        Raises:
            DataError: An objective is unknown.
        """
        known = list(self.actions)
        unknown = ~np.isin(objective, known)
        if unknown.any():
            first = str(objective[unknown].ravel()[0])
            raise DataError(
                f"objective {first!r} is none of {known} (of {int(unknown.sum()):,} rows); "
                f"TotalValue(actions=…) says what each pays for.{did_you_mean(first, known)}"
            )
        clicks, converts = (
            np.isin(objective, [name for name in known if ACTIONS[self.actions[name]][part]])
            for part in (0, 1)
        )
        return clicks, converts

    def combine(
        self, pctr: Any, rate: Any, cqs: Any, bid: Any, clicks: Any, converts: Any, *, xp: Any
    ) -> Any:
        """`bid · eAction + f(cqs)`, with the functions of `xp`: NumPy, or TensorFlow in a graph.

        Args:
            pctr: Probability of a click.
            rate: Conversion rate.
            cqs: Consolidated quality score.
            bid: In value an action.
            clicks: Whether the action needs a click, boolean.
            converts: Whether it needs a conversion, boolean.
            xp: A module with `where`, `minimum`, `maximum`, `ones_like` and `zeros_like`.
        """
        return bid * expected_action(pctr, rate, clicks, converts, xp=xp) + self.ad_quality(
            cqs, xp=xp
        )

    def ad_quality(self, cqs: Any, *, xp: Any = np) -> Any:
        """`f(CQS)` (eq. 1). Zero where the problem has no quality task."""
        if self.cqs is None:
            return xp.zeros_like(cqs)
        quality = self.quality
        if quality["name"] == "linear":
            return quality.get("scale", 1.0) * cqs
        if quality["name"] == "clip":
            held = xp.minimum(xp.maximum(cqs, quality["low"]), quality["high"])
            return quality.get("scale", 1.0) * held
        points = quality["points"]
        total = points[0][1] * xp.ones_like(cqs)
        for (x, y), (x2, y2) in zip(points[:-1], points[1:], strict=True):
            total = total + (y2 - y) / (x2 - x) * xp.minimum(xp.maximum(cqs - x, 0.0), x2 - x)
        return total


def expected_action(pctr: Any, rate: Any, clicks: Any, converts: Any, *, xp: Any = np) -> Any:
    """The probability of the action that is paid for; arguments as in `TotalValue.combine`.

    What an action does not need is not read: its NaN stays out.
    """
    one = xp.ones_like(pctr)
    return xp.where(clicks, pctr, one) * xp.where(converts, rate, one)


def _check_quality(quality: Mapping[str, Any]) -> None:
    name = quality.get("name")
    if name not in QUALITY_MAPS:
        raise SpecError(
            f"value.quality={dict(quality)!r}; name= is one of {list(QUALITY_MAPS)}."
            f"{did_you_mean(str(name), QUALITY_MAPS)}"
        )
    needed = {"linear": (), "clip": ("low", "high"), "piecewise": ("points",)}[name]
    allowed = {"name", *needed, *(() if name == "piecewise" else ("scale",))}
    if set(needed) - set(quality) or set(quality) - allowed:
        raise SpecError(
            f"value.quality {name!r} takes {sorted(allowed - {'name'})} and needs "
            f"{list(needed)}; got {sorted(set(quality) - {'name'})}."
        )
    kinds: Mapping[str, Any] = {"points": Sequence[tuple[float, float]]}
    for argument in quality.keys() - {"name"}:
        check_setting(f"value.quality.{argument}", quality[argument], kinds.get(argument, float))
    if not 0 <= quality.get("scale", 1.0) < float("inf"):
        raise SpecError(
            f"value.quality.scale={quality['scale']}; f rises, so a number from 0 on would be "
            "right. Negative events have negative scalars in the score itself."
        )
    if name == "clip" and not quality["low"] < quality["high"]:
        raise SpecError(
            f"value.quality: low={quality['low']} does not lie below high={quality['high']}."
        )
    if name == "piecewise":
        points = quality["points"]
        rises = all(
            x2 > x and y2 >= y for (x, y), (x2, y2) in zip(points[:-1], points[1:], strict=True)
        )
        if len(points) < 2 or not rises:
            raise SpecError(
                f"value.quality.points={points}; at least two with rising x and y that does not "
                "fall would be right."
            )
