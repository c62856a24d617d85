"""What a command would run, how long it would take on this machine, and how much it would need."""

import argparse
import math
import os
import tempfile
from collections.abc import Iterable

from benchmarks.contract import number
from benchmarks.keeping import content_hash
from benchmarks.paper import Paper, Planned
from tfmtl.errors import SpecError
from tfmtl.text import aligned

HOUR = 3600.0


def dry_run(name: str, paper: Paper, options: argparse.Namespace) -> list[str]:
    """The lines of a dry run; nothing is trained but a few steps per arm, to time them.

    Args:
        name: Name of the paper.
        paper: The paper.
        options: The command's options.

    Raises:
        SpecError: The paper's file lists no plan.
    """
    if paper.plan is None:
        raise SpecError(
            f"--dry-run: {name} lists no plan of its runs; --quick runs its smallest size."
        )
    planned = list(paper.plan(options))
    lines, total, unknown = _table(planned)
    kept = sum(step.kept for step in planned)
    text = aligned(lines, left=3)
    text.append("")
    text.append(
        f"{len(planned)} trainings and searches, of which {kept} are kept; about "
        f"{_time(total)} for the others, by six steps of each arm on this machine as it is now."
    )
    if unknown:
        text.append(f"Not in this time, because only a run shows it: {', '.join(unknown)}.")
    text += _disk(options)
    return text


def _table(planned: Iterable[Planned]) -> tuple[list[list[str]], float, list[str]]:
    lines = [["data set", "arm", "seeds left", "training rows", "epochs, at most", "per seed"]]
    total, unknown = 0.0, []
    steps: dict[tuple[str, str], list[Planned]] = {}
    for step in planned:
        steps.setdefault((step.data_set, step.arm), []).append(step)
    for (data_set, arm), seeds in steps.items():
        left = [step for step in seeds if not step.kept]
        first = seeds[0]
        seconds = math.nan
        if left and first.probe is not None:
            seconds = first.probe() * first.epochs
        if left and math.isnan(seconds):
            unknown.append(f"{data_set} {arm}")
        elif left:
            total += seconds * len(left)
        time = "" if not left else "?" if math.isnan(seconds) else _time(seconds)
        cells = [f"{len(left)} of {len(seeds)}", f"{first.rows:,.0f}", str(first.epochs), time]
        lines.append([data_set, arm, *cells])
    return lines, total, unknown


def _disk(options: argparse.Namespace) -> list[str]:
    size = 0
    if options.data and os.path.isdir(options.data):
        for folder, _, names in os.walk(options.data):
            size += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    free = os.statvfs(tempfile.gettempdir())
    room = free.f_bavail * free.f_frsize
    text = [f"Raw files: {number(size / 1e6)} MB."] if size else []
    if size:
        text.append(
            f"The readers' temporary files take less than that in {tempfile.gettempdir()}, where "
            f"{number(room / 1e6)} MB are free; memory holds all rows, about three times the files."
        )
        text.append(f"The content's hash, by which figures are kept: {content_hash(options.data)}.")
    text.append("Kept figures take some kilobytes per training.")
    return text


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
