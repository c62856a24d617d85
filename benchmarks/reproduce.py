"""A published table together with our figures: `python -m benchmarks.reproduce PAPER`.

Each row has the published figure, the mean of ours over seeds, its 95 % interval, and whether ours
reproduces it. The rule for this is in the table's file. If split, features or meaning differ, the
cell is marked as not comparable, with the reason, and is not judged.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence

from benchmarks import papers
from benchmarks.contract import Row, main
from benchmarks.paper import Paper, compare
from tfmtl.errors import SpecError, did_you_mean


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
    yield from compare(paper, options)
    if paper.further is not None:
        yield from paper.further(options)


def reproduce(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return main(__doc__, run, argv, seeds=5, arguments=_arguments)


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


if __name__ == "__main__":
    sys.exit(reproduce())
