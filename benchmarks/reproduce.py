"""A published table together with our figures: `python -m benchmarks.reproduce PAPER`.

Each row has the published figure, the mean of ours over seeds, its 95 % interval, and whether ours
reproduces it. The rule for this is in the table's file. If split, features or meaning differ, the
cell is marked as not comparable, with the reason, and is not judged.

`--data FOLDER` has the raw files of the papers' data sets, one folder per data set. `--sets` and
`--models` leave a part of the table. `--keep FOLDER` keeps the figures of every arm and seed, by
the content of the data, the code and the settings, and continues an interrupted run. `--report
FOLDER` writes the table as HTML and as Markdown. `--dry-run` says what would run, and for how long.
"""

import argparse
import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence

from benchmarks import papers
from benchmarks.contract import Row, main, parsed
from benchmarks.dry_run import dry_run
from benchmarks.keeping import content_hash
from benchmarks.paper import Paper, chosen, compare
from benchmarks.report import write_report
from tfmtl.errors import DataError, SpecError, did_you_mean


def known_papers() -> tuple[str, ...]:
    """Names of the published tables, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(papers.__path__)))


def load(name: str) -> Paper:
    """The table of the folder `benchmarks/papers/NAME/` (or of one file, `NAME.py`).

    Raises:
        SpecError: There is no such file; the message lists the known names.
    """
    known = known_papers()
    if name not in known:
        raise SpecError(
            f"no paper {name!r}; known are {', '.join(known)}.{did_you_mean(name, known)}"
        )
    return importlib.import_module(f"{papers.__name__}.{name}").PAPER


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the paper's cells with our figures, then the additional rows."""
    paper = load(options.paper)
    print(paper.title)
    rows: list[Row] = []
    try:
        for row in _rows(paper, options):
            rows.append(row)
            yield row
    finally:
        # After an error, too: hours of earlier rows are in it.
        if options.report and rows:
            for path in write_report(
                options.report, options.paper, paper, rows, _settings(options)
            ):
                print(f"report: {path}")


def _rows(paper: Paper, options: argparse.Namespace) -> Iterator[Row]:
    left = dataclasses.replace(paper, cells=chosen(paper.cells, options))
    yield from compare(left, options)
    if paper.further is not None:
        yield from paper.further(options)


def _settings(options: argparse.Namespace) -> dict[str, object]:
    names = ("data", "seeds", "quick", "grid", "requests", "sets", "models")
    settings = {name: getattr(options, name) for name in names if getattr(options, name)}
    if options.data:
        settings["content"] = content_hash(options.data)
    return settings


def reproduce(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parsed(__doc__, argv, seeds=5, arguments=_arguments)
    if options.dry_run:
        return _dry_run(options)
    return main(__doc__, run, argv, seeds=5, arguments=_arguments)


def _dry_run(options: argparse.Namespace) -> int:
    try:
        for line in dry_run(options.paper, load(options.paper), options):
            print(line)
    except (DataError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(known_papers())
    parser.add_argument("paper", metavar="PAPER", help=f"one of {known}")
    parser.add_argument("--data", metavar="PATH", help="the paper's data, if it needs any")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="number of logged requests, if they are simulated"
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        help="folder that keeps the figures of each seed, to continue an interrupted run",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME",
        help="part of the grid to search, if the paper searches one: full, reduced or "
        "printed (no search)",
    )
    for name, what in (("sets", "data sets"), ("models", "models")):
        parser.add_argument(
            f"--{name}",
            type=lambda text: tuple(text.split(",")),
            metavar="NAME,…",
            help=f"only these {what} of the table; all by default",
        )
    parser.add_argument(
        "--report", metavar="FOLDER", help="folder for the table as PAPER.html and PAPER.md"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would run, how long, how much disk"
    )


if __name__ == "__main__":
    sys.exit(reproduce())
