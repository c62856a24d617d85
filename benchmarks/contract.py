"""The common part of all benchmarks: flags, table, JSON lines and exit status.

A benchmark is a module. Its docstring describes the comparison. Its generator `run(options)`
yields results as soon as they are known. Its last line passes both to `main`:

    sys.exit(main(__doc__, run))

The exit status is 0; it is 1 if `--check` is given and a target is missed, and 2 if nothing could
be measured.
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
        """The name of the measurement."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; `None` if there is no target."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, floats possibly NaN."""

    def cells(self) -> dict[str, str]:
        """The row of the table: text by column."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One measured figure and its target.

    Args:
        name: Name of the measurement, such as `census_income/mmoe/income50k/auc@person`.
        value: The figure, or the mean over runs; NaN if it could not be measured.
        unit: Its unit; empty for a share or an AUC.
        at_least: Lower bound of the target.
        at_most: Upper bound of the target.
        spread: Standard deviation over runs.
        runs: Number of runs in the mean.
        note: A remark for the reader, such as what limits the figure.
        details: Further fields of the JSON line.

    Raises:
        ValueError: The bounds contradict each other, or a key of `details` is the name of a field.
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
            raise ValueError(f"{self.name}: at_least={low} is above at_most={high}; swap them.")
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
        """Plain data: the fields, and the values computed from them."""
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
        name: Name of the measurement.
        values: One figure per run; a single run has no spread.
        unit: Their unit.
        **fields: Further arguments of `Result`.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError(f"{name}: no runs; one value per seed is needed.")
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
        description: The module's docstring, which describes the comparison.
        run: Yields rows as soon as they are known. Its options have `quick`, `seeds` and the
            arguments that `arguments` adds. Its own prints go to stderr.
        argv: The command line; `sys.argv` if not given.
        seeds: Number of seeds of a full run; a quick run uses 1. `--seeds` overrides both.
        arguments: Adds the benchmark's own arguments to the parser.

    Returns:
        The exit status.
    """
    options = parsed(description, argv, seeds=seeds, arguments=arguments)
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
        # If a run fails after an hour, the earlier results are still printed.
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


def parsed(
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    seeds: int = 1,
    arguments: Arguments | None = None,
) -> argparse.Namespace:
    """The options of a benchmark's command line; see `main`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {_module()}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "--check", action="store_true", help="return an error if a target is missed"
    )
    parser.add_argument("--quick", action="store_true", help="run the small size that CI runs")
    parser.add_argument(
        "--seeds", type=_positive, metavar="N", help="number of runs to average over"
    )
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else seeds)
    return options


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
    # Keras' progress bars between the JSON lines would make the output invalid for programs.
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
    """The name of the running command: the module's full name if `python -m` started it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem
