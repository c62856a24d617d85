"""What every benchmark shares: its flags, its table, its JSON lines and its exit status.

A benchmark is a module with a docstring that says what is compared with what, a generator
`run(options)` that yields results as they are known, and a last line that hands both to `main`:

    sys.exit(main(__doc__, run))

The exit status is 0, 1 where `--check` is given and a target is missed, and 2 where nothing
could be measured.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from tfmtl.errors import DataError, SpecError

Arguments = Callable[[argparse.ArgumentParser], None]


class Row(Protocol):
    """A line of output."""

    @property
    def name(self) -> str:
        """What was measured."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; `None` where there is none."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, floats possibly NaN."""

    def cells(self) -> dict[str, str]:
        """The row of the table: text by column."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure, and what it should be.

    Args:
        name: What was measured, such as `census_income/mmoe/income50k/auc@person`.
        value: The figure, or the mean over runs; NaN where it could not be measured.
        unit: Its unit; empty for a share or an AUC.
        at_least: Lower target.
        at_most: Upper target. With both, the value lies between.
        spread: Standard deviation over runs.
        runs: How many runs the value is a mean of.
        note: What a reader should know, such as what bounds the figure.
        details: Further fields of the JSON line.

    Raises:
        ValueError: The targets contradict each other, or `details` would hide a field.
    """

    name: str
    value: float
    unit: str = ""
    _: dataclasses.KW_ONLY
    at_least: float | None = None
    at_most: float | None = None
    spread: float | None = None
    runs: int = 1
    note: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.at_least, self.at_most
        if low is not None and high is not None and low > high:
            raise ValueError(f"{self.name}: at_least={low} lies above at_most={high}; swap them.")
        hidden = set(self.details) & set(self._fields())
        if hidden:
            raise ValueError(f"{self.name}: details would hide {sorted(hidden)}; rename them.")

    @property
    def target(self) -> float | list[float] | None:
        """The bound, or both."""
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        return bounds[0] if len(bounds) == 1 else bounds or None

    @property
    def holds(self) -> bool | None:
        """Whether the value meets its targets; NaN meets none. `None` without targets."""
        if self.target is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return bool(above and (self.at_most is None or self.value <= self.at_most))

    def to_json(self) -> dict[str, Any]:
        """Plain data: the fields, and what follows from them."""
        return {**self._fields(), **self.details}

    def cells(self) -> dict[str, str]:
        """The row of the table."""
        return {
            "name": self.name,
            "value": with_spread(self.value, self.spread),
            "unit": self.unit,
            "target": _target_text(self.at_least, self.at_most),
            "holds": yes_no(self.holds),
            "note": self.note,
        }

    def _fields(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": self.target,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "holds": self.holds,
            "spread": self.spread,
            "runs": self.runs,
            "note": self.note,
        }


def over_runs(name: str, values: Sequence[float], unit: str = "", **fields: Any) -> Result:
    """The mean of runs that differ in their seed, and their standard deviation.

    Args:
        name: What was measured.
        values: One figure a run; one run has no spread.
        unit: Their unit.
        **fields: As `Result` takes them.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError(f"{name}: no runs; one value a seed is needed.")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Result(name, statistics.fmean(values), unit, spread=spread, runs=len(values), **fields)


def main(
    description: str | None,
    run: Callable[[argparse.Namespace], Iterable[Row]],
    argv: Sequence[str] | None = None,
    *,
    seeds: int = 1,
    arguments: Arguments | None = None,
) -> int:
    """Runs a benchmark's command line.

    Args:
        description: The module's docstring: what is compared with what.
        run: Yields rows as they are known. Its options have `quick`, `seeds` and what
            `arguments` adds. Whatever it prints goes to stderr.
        argv: The command line; `sys.argv` if not given.
        seeds: How many seeds a full run uses; a quick one uses 1, unless `--seeds` says.
        arguments: Adds the benchmark's own arguments to the parser.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {_module()}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    parser.add_argument("--quick", action="store_true", help="the size that CI runs")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="runs to average over")
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else seeds)
    out = sys.stdout
    rows: list[Row] = []
    try:
        for row in _printing_to_stderr(run, options):
            rows.append(row)
            if options.json:
                print(json_line(row), file=out, flush=True)
            else:
                print(f"  {row.name}: {_shortly(row)}", file=sys.stderr, flush=True)
    except (DataError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        # Also where a run fails after an hour: what was measured before is not lost.
        if not options.json:
            print_table(rows, out)
    if not rows:
        print("error: nothing was measured.", file=sys.stderr)
        return 2
    missed = [row.name for row in rows if row.holds is False]
    if options.check and missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def json_line(row: Row) -> str:
    """A row as one line of strict JSON; NaN and infinities are null."""
    return json.dumps(_finite(row.to_json()), allow_nan=False)


def print_table(rows: Sequence[Row], out: TextIO) -> None:
    """Prints rows as an aligned table, without the columns that no row fills."""
    cells = [row.cells() for row in rows]
    names = list(dict.fromkeys(name for row in cells for name in row))
    filled = [name for name in names if any(row.get(name) for row in cells)]
    lines = [filled, *([row.get(name, "") for name in filled] for row in cells)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(filled))]
    for line in lines if rows else ():
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text.rstrip(), file=out, flush=True)


def with_spread(value: float, spread: float | None) -> str:
    """`0.9453 ± 0.0008`, or the value alone."""
    return number(value) if spread is None else f"{number(value)} ± {number(spread)}"


def number(value: float) -> str:
    """Four digits, or all of a large number's; `-` for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def yes_no(holds: bool | None) -> str:
    """`yes`, `NO` or nothing."""
    return {True: "yes", False: "NO", None: ""}[holds]


def _printing_to_stderr(
    run: Callable[[argparse.Namespace], Iterable[Row]], options: argparse.Namespace
) -> Iterator[Row]:
    # Keras' progress bars between the JSON lines would make them unreadable for programs.
    with contextlib.redirect_stdout(sys.stderr):
        rows = iter(run(options))
    while True:
        with contextlib.redirect_stdout(sys.stderr):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _shortly(row: Row) -> str:
    cells = [cell for name, cell in row.cells().items() if name not in ("name", "note") and cell]
    return ", ".join(cells)


def _target_text(at_least: float | None, at_most: float | None) -> str:
    if at_least is not None and at_most is not None:
        return f"{number(at_least)} … {number(at_most)}"
    if at_least is not None:
        return f"≥ {number(at_least)}"
    return "" if at_most is None else f"≤ {number(at_most)}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if hasattr(value, "item"):  # A scalar of NumPy.
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; at least 1 makes sense")
    return value


def _module() -> str:
    """How the running command is called: the module's full name where `python -m` started it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem
