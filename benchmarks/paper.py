"""A published table as data, and the comparison of our figures with it."""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scipy import stats

from benchmarks.contract import Row, number
from benchmarks.keeping import kept

__all__ = [
    "RULES",
    "Comparison",
    "Further",
    "Measured",
    "Paper",
    "Planned",
    "Published",
    "chosen",
    "compare",
    "kept",
]

RULES = ("near", "at_least", "sign")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One cell of a published table, and how our figure is measured.

    Args:
        name: The cell, such as `mmoe/income50k`.
        value: The printed value; two numbers if a range is printed.
        source: The publication, if a table combines several.
        run: The run that measures our figure, passed to `Paper.measure`. Cells with the same run
            are measured together. `None` if ours is not measured.
        metric: The figure of the run to use, with its space: `…/auc@person`.
        unit: Its unit.
        rule: When ours reproduces the value. `near`: the mean is within `tolerance` of the value.
            `at_least`: the mean is not lower by more than `tolerance`. `sign`, for differences:
            the whole interval is on the value's side of zero.
        tolerance: For `near` and `at_least`, in the metric's units.
        not_comparable: Why ours cannot be compared (another split, another meaning). Such cells
            are shown but not judged.
        printed: The text shown instead of the value, if the paper draws or describes it and prints
            no number. The value then gives only the sign.
        gate: Whether `--check` fails if ours does not agree. Every seed must then have the sign,
            with a figure at least `least` from zero.
        least: See `gate`.
        remark: Our explanation, shown if ours does not agree.

    Raises:
        ValueError: The rule is unknown, or nothing is measured and no reason is given.
    """

    name: str
    value: float | tuple[float, float]
    metric: str
    source: str = ""
    run: Mapping[str, Any] | None = None
    unit: str = ""
    rule: str = "near"
    tolerance: float = 0.0
    not_comparable: str = ""
    printed: str = ""
    gate: bool = True
    least: float = 0.0
    remark: str = ""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"{self.name}: rule={self.rule!r}; rules are {list(RULES)}.")
        if self.run is None and not self.not_comparable:
            raise ValueError(f"{self.name}: not measured (run=None); not_comparable= says why.")
        low, high = self.range
        if self.rule == "sign" and low * high <= 0:
            raise ValueError(f"{self.name}: rule='sign', but {self.value} has no sign.")

    @property
    def data_set(self) -> str:
        """Name of the data set; empty if nothing is measured."""
        return str((self.run or {}).get("data", ""))

    @property
    def model(self) -> str:
        """Name of the model, or of both if the figure is a difference; empty if none is run."""
        run = self.run or {}
        names = [run.get("model") or run.get("arm") or run.get("backbone"), run.get("less")]
        return " less ".join(str(name) for name in names if name)

    @property
    def sample_space(self) -> str:
        """The rows that the metric is computed on: `imp` of `ctr/auc@imp`."""
        return self.metric.rpartition("@")[2] if "@" in self.metric else ""

    @property
    def range(self) -> tuple[float, float]:
        """The printed range; twice the value if no range is printed."""
        return self.value if isinstance(self.value, tuple) else (self.value, self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Our figures for a cell.

    Args:
        values: One figure per seed.
        interval: 95 % interval of the mean, if the measurement has a better one (for example
            paired) than that from the spread between seeds.
    """

    values: Sequence[float]
    interval: tuple[float, float] | None = None

    def mean(self) -> float:
        """The mean over seeds; NaN if there are none."""
        return statistics.fmean(self.values) if self.values else math.nan

    def confidence(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean, by Student's t; `None` for a single seed."""
        if self.interval is not None or len(self.values) < 2:
            return self.interval
        error = self.spread() / math.sqrt(len(self.values))
        reach = float(stats.t.ppf(0.975, len(self.values) - 1)) * error
        return self.mean() - reach, self.mean() + reach

    def spread(self) -> float:
        """The standard deviation over seeds; NaN for less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def to_json(self) -> dict[str, Any]:
        """The fields common to all rows with our figures."""
        return {
            "ours": self.mean(),
            "interval": self.confidence(),
            "value": self.mean(),
            "spread": self.spread(),
            "runs": len(self.values),
        }

    def cells(self) -> dict[str, str]:
        """The columns common to all rows with our figures."""
        interval = self.confidence()
        return {
            "ours": number(self.mean()),
            "interval": "" if interval is None else f"[{', '.join(map(number, interval))}]",
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Further:
    """A figure of ours that the paper does not have; one row of `contract.main`.

    Args:
        name: Name of the measurement.
        ours: The figure, one value per seed.
        note: A remark, such as what it is compared with.
    """

    name: str
    ours: Measured
    note: str = ""
    holds: None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the fields of every benchmark."""
        return {"name": self.name, **self.ours.to_json(), "holds": None, "note": self.note}

    def cells(self) -> dict[str, str]:
        """The row of the table."""
        return {"name": self.name, "published": "", **self.ours.cells(), "note": self.note}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A training, or a search, that a command would run.

    Args:
        data_set: Name of the data set.
        arm: What is trained.
        seed: The seed.
        kept: Whether its figures are kept, so that it is not run again.
        rows: Training rows.
        epochs: Greatest number of epochs.
        probe: Returns the seconds of one epoch, by training a few steps here. Equal for the seeds.
    """

    data_set: str
    arm: str
    seed: int
    kept: bool
    rows: float
    epochs: int
    probe: Callable[[], float] | None = None


Measure = Callable[[Mapping[str, Any], argparse.Namespace], Mapping[str, Measured]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """A published table.

    Args:
        title: Its title.
        cells: Its cells.
        measure: Maps a run and the options (`seeds`, `quick`, `data`, `requests`, `keep`,
            `grid`) to figures by metric.
        further: Yields additional rows, which the paper does not have.
        plan: Lists what the options would run, and how long an epoch takes.
        errata: Misprints and contradictions of the paper that a reader of its table should know.

    Raises:
        ValueError: Two cells have the same name.
    """

    title: str
    cells: Sequence[Published]
    measure: Measure
    further: Callable[[argparse.Namespace], Iterable[Row]] | None = None
    plan: Callable[[argparse.Namespace], Iterable[Planned]] | None = None
    errata: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"cells are named {twice} more than once; say what sets them apart.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published cell with our figure; one row of `contract.main`."""

    cell: Published
    ours: Measured

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.cell.name

    @property
    def reproduces(self) -> bool | None:
        """Whether ours agrees; `None` if this cannot be judged."""
        cell, mean = self.cell, self.ours.mean()
        if cell.not_comparable or math.isnan(mean):
            # If a figure is missing, the cell does not reproduce.
            return None if cell.not_comparable else False
        low, high = cell.range
        if cell.rule == "at_least":
            return mean >= low - cell.tolerance
        if cell.rule == "near":
            return low - cell.tolerance <= mean <= high + cell.tolerance
        interval = self.ours.confidence()
        if interval is None:
            return None
        return interval[0] > 0 if low > 0 else interval[1] < 0

    @property
    def holds(self) -> bool | None:
        """Like `reproduces`, but only for cells that `--check` tests."""
        if not self.cell.gate or self.reproduces is None or self.cell.rule != "sign":
            return self.reproduces if self.cell.gate else None
        return self.reproduces and self._with_sign() == len(self.ours.values)

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the fields of every benchmark and the paper's own."""
        cell = self.cell
        return {
            "name": cell.name,
            "metric": cell.metric,
            "published": cell.printed or cell.value,
            **self.ours.to_json(),
            "reproduces": self.reproduces,
            "comparable": not cell.not_comparable,
            "rule": cell.rule,
            "tolerance": cell.tolerance,
            "source": cell.source,
            "data_set": cell.data_set,
            "model": cell.model,
            "space": cell.sample_space,
            "unit": cell.unit,
            "target": cell.printed or cell.value,
            "seeds_with_the_sign": self._signs(),
            "holds": self.holds,
            "note": self._note(),
        }

    def cells(self) -> dict[str, str]:
        """The row of the table."""
        low, high = self.cell.range
        return {
            "name": self.name,
            "metric": self.cell.metric,
            "published": self.cell.printed
            or (number(low) if low == high else f"{number(low)} … {number(high)}"),
            **self.ours.cells(),
            "unit": self.cell.unit,
            "reproduces": self._verdict(),
            "seeds": self._signs(),
            "source": self.cell.source,
            "note": self._note(),
        }

    def _verdict(self) -> str:
        if self.cell.not_comparable:
            return "not comparable"
        return {True: "yes", False: "NO", None: "undecided"}[self.reproduces]

    def _note(self) -> str:
        if self.reproduces is None and not self.cell.not_comparable:
            return "a sign needs an interval, and so two seeds or more"
        if self.cell.not_comparable or self.reproduces:
            return self.cell.not_comparable
        interval = self.ours.confidence()
        if self.cell.rule == "sign" and interval and interval[0] <= 0 <= interval[1]:
            return "smaller than it varies between seeds"
        return self.cell.remark or "disagrees, and we cannot say why"

    def _signs(self) -> str:
        """The number of seeds with the printed sign, out of all seeds."""
        values = self.ours.values
        if self.cell.rule != "sign" or not values:
            return ""
        return f"{self._with_sign()}/{len(values)}"

    def _with_sign(self) -> int:
        side = math.copysign(1.0, self.cell.range[0])
        return sum(value * side > self.cell.least for value in self.ours.values)


def compare(paper: Paper, options: argparse.Namespace) -> Iterator[Comparison]:
    """Yields the paper's cells in order, each as soon as its run is done.

    Raises:
        KeyError: A run gives no figure of a cell's metric; the message lists those it gives.
    """
    done: dict[str, Mapping[str, Measured]] = {}
    for cell in paper.cells:
        ours = Measured(values=())
        if cell.run is not None:
            key = repr(sorted(cell.run.items()))
            if key not in done:
                done[key] = paper.measure(cell.run, options)
            if cell.metric not in done[key]:
                raise KeyError(
                    f"{cell.name}: the run {dict(cell.run)} gives no {cell.metric!r}; it gives "
                    f"{sorted(done[key])}."
                )
            ours = done[key][cell.metric]
        yield Comparison(cell=cell, ours=ours)


def chosen(cells: Iterable[Published], options: argparse.Namespace) -> list[Published]:
    """The cells that `--sets` and `--models` leave: all by default.

    A difference is left if both of its models are.
    """
    sets, models = (set(getattr(options, name, None) or ()) for name in ("sets", "models"))
    left = []
    for cell in cells:
        run = cell.run or {}
        if sets and (cell.data_set or "") not in sets:
            continue
        names = {run[key] for key in ("model", "arm", "less") if key in run}
        if models and not names <= models:
            continue
        left.append(cell)
    return left
