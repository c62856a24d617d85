"""A published table with ours beside it: `python -m benchmarks.reproduce PAPER`.

Shown are the published figure, the mean of ours over seeds, its 95 % interval, and whether ours
reproduces it by the rule that the table's file states. Where split, features or meaning differ,
the cell is shown as not comparable, with the reason, and not judged.
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
    """Yields the paper's cells with ours beside them, and what else there is to see."""
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
    parser.add_argument("--data", metavar="PATH", help="the paper's data, where it needs any")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="logged requests, where the paper's are simulated"
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        help="where each seed's figures are kept, so that a run that was stopped goes on",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME",
        help="how much of its grid is searched, where the paper searches one: full, reduced or "
        "printed (not at all)",
    )


if __name__ == "__main__":
    sys.exit(reproduce())
