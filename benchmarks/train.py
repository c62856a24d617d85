"""Training speed: examples per second of a step, beside torch-rechub, FuxiCTR and DeepCTR.

A step is the forward pass, the gradients and the update of Shared-Bottom, MMoE, PLE or AITM with 2
tasks, on 2,048 rows of 16 categorical and 63 numerical features. The ids follow Zipf's law. Hidden
layers have batch normalisation and a dropout of 0.2. The sizes:

    a   embeddings of 128, layers of 512 and 256, 200,000 ids
    b   embeddings of 16, layers of 64 and 32, 200,000 ids
    c   as b, with 5,000,000 ids
    d   as b, with the 18 features and vocabularies of Ali-CCP

Each package runs in a process and an environment of its own, which the command makes with pip and
keeps. The processes take turns: while one runs its steps, the others wait. A result is the median
over turns of the ratio of our examples per second to those of the best peer in the same turn.

Further results: the share of the machine's matrix products that our MMoE reaches at size a, and
what normalisation and dropout add to our step. Run it on a quiet machine: the threads of PyTorch
wait for each other actively, so that other load slows them far more than it slows TensorFlow.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contract import Result, main
from benchmarks.steps.environment import PACKAGES, Worker, python_of
from benchmarks.steps.worker import EXPERTS, ROWS, Case

ALI_CCP = (
    *(238_635, 467_298, 6_929, 263_942, 106_399, 5_888, 104_830, 51_878, 37_148),
    *(98, 14, 3, 8, 4, 4, 3, 5, 4),
)
SIZES: dict[str, dict[str, Any]] = {
    "a": {"sizes": (200_000 // 16,) * 16, "dim": 128, "units": (512, 256), "tower_units": (128,)},
    "b": {"sizes": (200_000 // 16,) * 16, "dim": 16, "units": (64, 32), "tower_units": (32,)},
    "c": {"sizes": (5_000_000 // 16,) * 16, "dim": 16, "units": (64, 32), "tower_units": (32,)},
    "d": {"sizes": ALI_CCP, "dim": 16, "units": (64, 32), "tower_units": (32,)},
}
ARCHITECTURES = ("shared_bottom", "mmoe", "ple", "aitm")
LACKS = {"aitm": ("fuxi", "deep")}
"""Peers without an architecture."""

TARGETS = {"a": 1.5, "b": 3.0, "c": 20.0, "d": 20.0}
PEAK, LAYERS = 0.70, 1.5
COMMITTED = Path(__file__).parent / "train.json"
"""Ratios of the last full run; a quick run must reach `REACHED` of them."""

REACHED = 0.6
TURNS, QUICK_TURNS = 9, 5
SECONDS = 0.7
"""What a turn of one package takes, about."""


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the ratio to the best peer for each size and architecture, then our own shares."""
    folder = Path(options.keep).expanduser()
    cases = _wanted(options)
    for size, architecture in cases:
        name = f"train/{size}/{architecture}"
        kept = folder / f"{name.replace('/', '-')}.json"
        if kept.exists() and not options.quick:
            yield Result(**json.loads(kept.read_text(encoding="utf-8")))
            continue
        case = Case(architecture, **SIZES[size])
        absent = LACKS.get(architecture, ())
        modules = [m for m in options.peers if m not in absent]
        seconds, versions, missing = _in_turns(case, modules, folder, options)
        result = _beside_peers(name, size, seconds, versions, missing, options.quick)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(_fields(result)), encoding="utf-8")
        yield result
    if "b" in options.sizes:
        yield _added("train/b/layers", options)
    if "a" in options.sizes and not options.quick:
        yield _peak("train/a/peak", options)


def _wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    if options.quick:
        return [("b", "mmoe"), ("d", "mmoe")]
    return [(size, each) for size in options.sizes for each in options.architectures]


def _in_turns(
    case: Case, modules: Sequence[str], folder: Path, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, str], list[str]]:
    """Median seconds of a step per turn and module, versions, and the peers that do not run."""
    turns = _turns(options)
    with ExitStack() as stack:
        workers, missing = {}, []
        versions: dict[str, str] = {}
        for module in ("ours", *modules):
            python = python_of(module, folder / "environments")
            try:
                if python is None:
                    raise RuntimeError("no environment")
                worker = stack.enter_context(Worker(module, python, dataclasses.asdict(case)))
            except RuntimeError:
                if module == "ours":
                    raise
                missing.append(module)
                continue
            workers[module] = worker
            versions.update(worker.versions)
        steps = {
            module: max(2, min(60, int(SECONDS / min(worker.seconds(3)))))
            for module, worker in workers.items()
        }
        seconds: dict[str, list[float]] = {module: [] for module in workers}
        for _ in range(turns):
            for module, worker in workers.items():
                seconds[module].append(statistics.median(worker.seconds(steps[module])))
    return seconds, versions, missing


def _beside_peers(
    name: str,
    size: str,
    seconds: dict[str, list[float]],
    versions: dict[str, str],
    missing: Sequence[str],
    quick: bool,
) -> Result:
    speeds = {m: ROWS / statistics.median(taken) for m, taken in seconds.items()}
    peers = [module for module in seconds if module != "ours"]
    note = ", ".join(f"{module} {speed:,.0f}" for module, speed in speeds.items()) + " examples/s"
    if missing:
        note += f"; not run: {', '.join(missing)}"
    details = {"examples_per_second": speeds, "versions": versions, "turns": seconds}
    if not peers:
        return Result(name, float("nan"), "× the best peer", note=note, details=details)
    best = max(peers, key=lambda module: speeds[module])
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[best], strict=True)]
    low, high = min(ratios), max(ratios)
    target = REACHED * json.loads(COMMITTED.read_text())[name] if quick else TARGETS[size]
    return Result(
        name,
        statistics.median(ratios),
        "× the best peer",
        at_least=target,
        spread=statistics.stdev(ratios) if len(ratios) > 1 else None,
        runs=len(ratios),
        note=f"{note}; {best}: {low:.2f} … {high:.2f}",
        details=details,
    )


def _added(name: str, options: argparse.Namespace) -> Result:
    """Our step with normalisation and dropout, in steps without them."""
    case = Case("mmoe", **SIZES["b"])
    plain = dataclasses.replace(case, dropout=0.0, batch_norm=False)
    turns = _turns(options)
    with (
        Worker("ours", sys.executable, dataclasses.asdict(case)) as ours,
        Worker("ours", sys.executable, dataclasses.asdict(plain)) as without,
    ):
        ratios = [
            statistics.median(ours.seconds(30)) / statistics.median(without.seconds(30))
            for _ in range(turns)
        ]
    return Result(
        name,
        statistics.median(ratios),
        "steps without normalisation and dropout",
        at_most=LAYERS,
        spread=statistics.stdev(ratios),
        runs=turns,
    )


def _peak(name: str, options: argparse.Namespace) -> Result:
    """The share of the machine's matrix products that our MMoE reaches."""
    case = Case("mmoe", **SIZES["a"])
    with (
        Worker("ours", sys.executable, dataclasses.asdict(case)) as ours,
        Worker("products", sys.executable, dataclasses.asdict(case)) as products,
    ):
        shares = [
            statistics.median(products.seconds(3)) / statistics.median(ours.seconds(3))
            for _ in range(_turns(options))
        ]
    return Result(
        name,
        statistics.median(shares),
        "of the matrix products alone",
        at_least=PEAK,
        spread=statistics.stdev(shares),
        runs=len(shares),
        note=f"{EXPERTS} experts; the products of a step alone, as large and as many, take 1",
    )


def _turns(options: argparse.Namespace) -> int:
    return options.turns or (QUICK_TURNS if options.quick else TURNS)


def _fields(result: Result) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        default=str(cache / "tfmtl" / "train"),
        help="where environments and finished results are; what is there is not done again",
    )
    parser.add_argument("--turns", type=int, metavar="N", help="turns of every package")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES)
    )
    parser.add_argument("--peers", nargs="*", choices=PACKAGES, default=list(PACKAGES))


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
