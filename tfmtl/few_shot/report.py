"""What was found on groups that a model never saw: its metrics by how many rows it adapted to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics.bootstrap import Interval
from tfmtl.plain import finite
from tfmtl.text import aligned

TOLD = ("auc", "group_auc", "log_loss", "calibration", "rmse", "bias")
"""Metrics that text and picture show; `to_frame` has all."""

NAMED = 8
"""Groups that the text names of those left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shots:
    """One metric of one model that adapted to `k` rows of each group.

    Args:
        model: The model's name.
        k: Rows of each group that it adapted to.
        metric: Full name, as `ctr/auc@imp`.
        value: On the query rows of all groups.
        change: How far that is above the same model's without adaptation, on the same rows.
        difference: How far it is above the first model's at the same `k`; `None` of the first.
    """

    model: str
    k: int
    metric: str
    value: Interval
    change: Interval
    difference: Interval | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdStart:
    """What `cold_start` found. Intervals are over groups: rows of one are not independent.

    Args:
        models: Names, the first the one that others are compared with.
        ks: Rows adapted to, ascending from 0.
        shots: By model, metric and `k`, in this order.
        groups: Groups that were adapted to.
        rows: Query rows, of all draws together.
        left_out: Rows of each group that has too few, by key.
        needed: Rows that a group must have.
        draws: Splits of each group.
        settings: By model, how it adapted: `rate`, `steps`, `params`.
        level: Of the intervals.
    """

    models: tuple[str, ...]
    ks: tuple[int, ...]
    shots: tuple[Shots, ...]
    groups: int
    rows: int
    left_out: Mapping[str, int]
    needed: int
    draws: int
    settings: Mapping[str, Mapping[str, Any]]
    level: float = 0.95

    @property
    def metrics(self) -> tuple[str, ...]:
        """Full names of the metrics, task by task."""
        return tuple(dict.fromkeys(shots.metric for shots in self.shots))

    def curve(self, metric: str, model: str | None = None) -> tuple[Shots, ...]:
        """A metric by `k`.

        Args:
            metric: Full name, as `ctr/auc@imp`.
            model: A model's name; may be left out where there is one.

        Raises:
            SpecError: There is no such metric or model, or several models and none is named.
        """
        if model is None and len(self.models) > 1:
            raise SpecError(f"model=None, but the report is of {list(self.models)}; name one.")
        model = self.models[0] if model is None else model
        for what, name, known in (
            ("metric", metric, self.metrics),
            ("model", model, self.models),
        ):
            if name not in known:
                raise SpecError(
                    f"{what}={name!r} is none of {list(known)}.{did_you_mean(name, known)}"
                )
        return tuple(s for s in self.shots if (s.model, s.metric) == (model, metric))

    def to_frame(self):
        """A pandas frame, a row for each model, metric and `k`, intervals as three columns."""
        import pandas as pd

        nothing = Interval(math.nan, math.nan, math.nan)
        rows = []
        for shots in self.shots:
            row: dict[str, Any] = {"model": shots.model, "metric": shots.metric, "k": shots.k}
            for name in ("value", "change", "difference"):
                interval = getattr(shots, name) or nothing
                row[name] = interval.value
                row[f"{name}_low"], row[f"{name}_high"] = interval.low, interval.high
            rows.append(row)
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal report; undefined values are null."""
        return finite(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ColdStart":
        """The report that `to_json` wrote, also after JSON."""
        shots = tuple(
            Shots(**{**one, **{name: _interval(one[name]) for name in _INTERVALS}})
            for one in plain["shots"]
        )
        listed = {name: tuple(plain[name]) for name in ("models", "ks")}
        return cls(**{**plain, **listed, "shots": shots})

    def __str__(self) -> str:
        lines = []
        several = len(self.models) > 1
        for metric in told(self.metrics):
            heading = [metric, "k", f"value [{self.level:.0%}]", "against k=0"]
            rows = [[*heading, f"against {self.models[0]}"] if several else heading]
            for model in self.models:
                for shots in self.curve(metric, model):
                    row = [model, str(shots.k), format(shots.value, ".4f")]
                    row.append(format(shots.change, "+.4f") if shots.k else "")
                    if several:
                        other = shots.difference
                        row.append("" if other is None else format(other, "+.4f"))
                    rows.append(row)
            lines += [*aligned(rows), ""]
        for model, how in self.settings.items():
            steps = "step" if how["steps"] == 1 else "steps"
            lines.append(
                f"{model}: {how['steps']} {steps} at rate {how['rate']:g} on {how['params']}"
            )
        lines.append(
            f"{self.groups} groups, {self.rows:,} query rows in {self.draws} draws; intervals over "
            "groups"
        )
        if self.left_out:
            lines.append(self._left_out_text())
        return "\n".join(line.rstrip() for line in lines)

    def _left_out_text(self) -> str:
        largest = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        names = ", ".join(f"{name} ({rows})" for name, rows in largest[:NAMED])
        noun = "group" if len(largest) == 1 else "groups"
        more = f" and {len(largest) - NAMED} more" if len(largest) > NAMED else ""
        return (
            f"left out: {len(largest)} {noun} with fewer than {self.needed} rows, "
            f"{sum(self.left_out.values()):,} rows together: {names}{more}"
        )


def told(metrics: Sequence[str]) -> list[str]:
    """Those of some metrics that text and picture show."""
    return [name for name in metrics if name.split("/")[-1].split("@")[0] in TOLD]


_INTERVALS = ("value", "change", "difference")


def _interval(plain: Mapping[str, Any] | None) -> Interval | None:
    if plain is None:
        return None
    return Interval(**{name: math.nan if v is None else v for name, v in plain.items()})
