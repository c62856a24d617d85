"""AutoMTL: Tables 3, 4 and 5 and Figures 3 to 5, searched networks against designed ones.

With `--data FOLDER`, the paper's own data sets run on their raw files in `FOLDER/NAME`
(`user_behavior`, `ijcai`, `aliexpress_nl` and so on), and levels and the signs of each task are
judged; the census runs from `FOLDER/census_income`. On simulated logs with two and with four tasks
only signs can agree: that of AutoMTL's mean AUC minus another arm's, paired over seeds, compared
with the paper's mean over its tasks and over its data sets with as many tasks. `arms` declares data
sets, arms and sizes. `--grid reduced` searches a part of the paper's space, at a tenth of the cost.

All choices are made on validation rows, and all results are of test rows. For the paper's figures,
its statements about them are judged: tasks choose different experts with the auxiliary loss (3);
DARTS and DARTS− end with more skip connections (4); the loss is higher with one expert per task,
and with all experts, than with some (5). The pictures of the first seed are written to `--keep`,
or to a folder that the last row names.

Besides AUC, the results have MTL-Loss, AUC in expectation over the true probabilities if they are
known, the cost of searches and trainings, and paired t-tests. A star marks p < .005, as in the
paper.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy import stats
from tqdm import tqdm

from benchmarks.contract import Result, Row
from benchmarks.funnels import models_of, sets_of, some_rows
from benchmarks.keeping import is_kept, kept
from benchmarks.paper import Further, Measured, Paper, Planned, Published, chosen, compare
from benchmarks.papers.automtl.cells import OURS, RANDOM, cells
from tfmtl.errors import SpecError

# Kept figures are used again only while these sources are unchanged.
CODE = (
    "tfmtl",
    "benchmarks/papers/automtl/arms.py",
    "benchmarks/funnels.py",
    "benchmarks/datasets.py",
    "pipeline/configs",
)

SIMULATED = "simulated_ads"

STAR = 0.005
"""The paper marks p-values below this one with a star."""

LABELS: Mapping[str, str] = {
    "mtl_loss": "mean of the tasks' cross-entropies",
    "search_cpu": "seconds of all threads",
    "train_cpu": "seconds of all threads",
    "epochs": "number of epochs, chosen by validation",
    "parameters": "without the embeddings of the fields",
    "skips": "skip connections at the end, of all blocks of the search",
    "stopped": "share of operations whose weights were stopped",
    "distance": "between the expert weights of two tasks",
    "distinct": "number of experts that at least one task uses",
}


def measure(run: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Measured]:
    """The figures of the run's arm, or its differences from another, by metric over the seeds."""
    by_seed = [_pick(levels, run, "") for levels in _over_seeds(run["data"], options)]
    if "less" in run:
        others = [_pick(levels, run, "less_") for levels in _over_seeds(run["data"], options)]
        shared = [name for name in by_seed[0] if name in others[0]]
        return {
            name: Measured(values=[a[name] - b[name] for a, b in zip(by_seed, others, strict=True)])
            for name in shared
        }
    return {name: Measured(values=[one[name] for one in by_seed]) for name in by_seed[0]}


def further(options: argparse.Namespace) -> Iterator[Row]:
    """The other cells, and all figures, tests and pictures of the data sets that were run."""
    from benchmarks.datasets import row_count
    from benchmarks.papers.automtl.arms import DATA_SETS

    sizes = _sizes(options.quick, options.requests, options.grid, options)
    shown = {cell.name for cell in PAPER.cells}
    for name in sets_of(options, DATA_SETS):
        data = DATA_SETS[name]
        if data.rows.reads and _path(name, options) is None:
            note = f"not run: --data FOLDER, with its rows in FOLDER/{data.rows.name}"
            yield Further(name=name, ours=Measured(values=()), note=note)
            continue
        judged = [cell for cell in cells_of(name, sizes) if cell.name not in shown]
        judged = chosen(judged, options)
        yield from compare(Paper(title="", cells=judged, measure=measure), options)
        by_seed = _over_seeds(name, options)
        yield from row_count(data.rows, _path(name, options))
        yield from tests(name, [task.name for task in data.tasks], data.rows.space, by_seed)
        yield from _figures(name, by_seed)
        yield _pictures(name, by_seed[0], options)


def cells_of(name: str, sizes: Any) -> list[Published]:
    """All cells of a data set.

    Args:
        name: A name in `arms.DATA_SETS`.
        sizes: An `arms.Sizes`, which lists the arms to run.
    """
    from benchmarks.papers.automtl.arms import DATA_SETS, default_count, sized

    data = DATA_SETS[name]
    sizes = sized(data, sizes)
    tasks = [task.name for task in data.tasks]
    default = default_count(data, sizes)
    return list(cells(name, tasks, data.rows.space, sizes.arms, sizes.counts, default))


def tests(
    name: str, tasks: Sequence[str], space: str, by_seed: Sequence[Mapping[str, Any]]
) -> Iterator[Row]:
    """Paired t-tests of AutoMTL against other arms, over seeds; none for a single seed.

    Each task is tested against the best baseline, as for the paper's stars. The mean AUC is tested
    against every arm.

    Args:
        name: Name of the data set.
        tasks: Names of its tasks.
        space: Name of its rows.
        by_seed: For each seed, the figures by arm under `"arms"`.
    """
    from benchmarks.papers.automtl.arms import BASELINES

    if len(by_seed) < 2 or OURS not in by_seed[0]["arms"]:
        return
    arms = [arm for arm in by_seed[0]["arms"] if arm != OURS]
    baselines = [arm for arm in arms if arm in BASELINES]
    for task in tasks if baselines else ():
        metric = f"{task}/auc@{space}"
        best = max(baselines, key=lambda arm: statistics.fmean(_values(by_seed, arm, metric)))
        yield _test(f"{name}/{OURS} against the best baseline, {best}", metric, by_seed, best)
    for arm in arms:
        yield _test(f"{name}/{OURS} against {arm}", "mean_auc", by_seed, arm)


def _test(what: str, metric: str, by_seed: Sequence[Mapping[str, Any]], arm: str) -> Result:
    ours, others = _values(by_seed, OURS, metric), _values(by_seed, arm, metric)
    gaps = [a - b for a, b in zip(ours, others, strict=True)]
    p = float(stats.ttest_rel(ours, others).pvalue)
    star = "*, " if p < STAR and statistics.fmean(gaps) > 0 else ""
    return Result(
        f"{what}/{metric}/p",
        p,
        runs=len(gaps),
        note=f"{star}paired over seeds, two-sided; {OURS} {statistics.fmean(gaps):+.4f}, higher in "
        f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}",
    )


def _values(by_seed: Sequence[Mapping[str, Any]], arm: str, metric: str) -> list[float]:
    return [levels["arms"][arm][metric] for levels in by_seed]


def _figures(name: str, by_seed: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """All figures of all arms, with their deviations, and the curves of Figures 4 and 5."""
    for arm, figures in by_seed[0]["arms"].items():
        for metric in figures:
            yield _over(f"{name}/{arm}/{metric}", _values(by_seed, arm, metric), metric)
    for count in by_seed[0]["counts"]:
        losses = [levels["counts"][count]["mtl_loss"] for levels in by_seed]
        yield _over(f"{name}/{OURS}, {count} experts per task/mtl_loss", losses, "mtl_loss")
    if not by_seed[0]["counts"]:
        return
    least = [min(each["counts"], key=lambda n: each["counts"][n]["mtl_loss"]) for each in by_seed]
    note = "experts per task with the lowest MTL-Loss on test rows, by seed; only for information"
    yield Further(
        name=f"{name}/least loss", ours=Measured(values=[float(n) for n in least]), note=note
    )
    for arm, history in by_seed[0]["histories"].items():
        for epoch, row in enumerate(history):
            values = [
                float(each["histories"][arm][epoch]["n_skip"])
                for each in by_seed
                if epoch < len(each["histories"][arm])
            ]
            note = f"of {row['n_blocks']} blocks"
            label = f"{name}/{arm}/skips after epoch {epoch + 1}"
            yield Further(name=label, ours=Measured(values=values), note=note)


def _over(name: str, values: Sequence[float], metric: str) -> Further:
    spread = f"± {statistics.stdev(values):.4g}" if len(values) > 1 else ""
    note = ", ".join(filter(None, (spread, LABELS.get(metric, ""))))
    return Further(name=name, ours=Measured(values=values), note=note)


def _pictures(name: str, first: Mapping[str, Any], options: argparse.Namespace) -> Row:
    """Draws the networks that the first seed's searches chose, and their histories."""
    from tfmtl.automtl.architecture import Architecture
    from tfmtl.automtl.curves import draw_selection, draw_skips
    from tfmtl.automtl.pictures import draw_architecture

    histories = first["histories"]
    compared = (OURS, "darts", "darts_minus")
    skips = {arm: histories[arm] for arm in compared if arm in histories}
    drawn: dict[str, Any] = {"skips": draw_skips(skips)}
    for arm in (arm for arm in (OURS, "without_aux") if arm in histories):
        drawn[f"selection-{arm}"] = draw_selection(histories[arm])
        architecture = Architecture.from_json(first["architectures"][arm])
        drawn[f"architecture-{arm}"] = draw_architecture(architecture, title=f"{name}, {arm}")
    folder = os.path.join(options.keep or tempfile.mkdtemp(prefix="automtl-"), f"automtl-{name}")
    os.makedirs(folder, exist_ok=True)
    for label, figure in drawn.items():
        figure.savefig(os.path.join(folder, f"{label}.png"), dpi=150)
    note = f"{', '.join(sorted(drawn))} of the first seed, in {folder}"
    return Further(name=f"{name}/pictures", ours=Measured(values=[len(drawn)]), note=note)


def _pick(levels: Mapping[str, Any], run: Mapping[str, Any], side: str) -> Mapping[str, float]:
    count = run.get(f"{side}count")
    if count is not None:
        return levels["counts"][count]
    return levels["arms"][run["less" if side else "arm"]]


def _over_seeds(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    settings = (
        options.quick,
        options.requests,
        options.grid,
        _path(name, options),
        options.keep,
        tuple(getattr(options, "models", None) or ()),
    )
    return [_seed(name, seed, *settings) for seed in range(options.seeds)]


def _path(name: str, options: argparse.Namespace) -> str | None:
    from benchmarks.papers.automtl.arms import DATA_SETS

    return DATA_SETS[name].rows.path_in(options.data)


def plan(options: argparse.Namespace) -> Iterator[Planned]:
    """The trainings and searches that the options ask for; see `Planned`."""
    from benchmarks.papers.automtl import arms

    asked = _sizes(options.quick, options.requests, options.grid, options)
    for name in sets_of(options, arms.DATA_SETS):
        data, path = arms.DATA_SETS[name], _path(name, options)
        if data.rows.reads and path is None:
            continue
        sizes = arms.sized(data, asked)
        rows, total = some_rows(data.rows, sizes, path)
        for arm in sizes.arms:
            searches = arm in arms.SEARCHES
            probe = functools.cache(
                functools.partial(arms.epoch_seconds, data, arm, sizes, rows, total)
            )
            for seed in range(options.seeds):
                what = f"search-{arm}" if searches else arm
                yield Planned(
                    data_set=name,
                    arm=what,
                    seed=seed,
                    kept=is_kept(
                        options.keep,
                        "automtl",
                        CODE,
                        f"{name}-{_size_text(sizes)}-seed{seed}-{what}",
                        path,
                    ),
                    rows=total,
                    epochs=sizes.search["epochs"] if searches else sizes.epochs,
                    probe=probe,
                )


def _sizes(
    quick: bool, requests: int | None, grid: str | None, options: argparse.Namespace | None = None
) -> Any:
    # Imported here, so that listing the papers does not load TensorFlow.
    from benchmarks.papers.automtl.arms import ARMS, GRIDS, QUICK

    if (grid or "full") not in GRIDS:
        raise SpecError(f"--grid {grid!r}: one of {', '.join(GRIDS)} would be right.")
    sizes = QUICK if quick else GRIDS[grid or "full"]
    if getattr(options, "models", None):
        sizes = dataclasses.replace(sizes, arms=models_of(options, ARMS))
    # A request shows seven ads on average.
    return sizes if requests is None else dataclasses.replace(sizes, impressions=requests * 7)


@functools.cache
def _seed(
    name: str,
    seed: int,
    quick: bool,
    requests: int | None,
    grid: str | None,
    path: str | None,
    keep: str | None,
    models: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The results of one seed: figures by arm and by count, histories and architectures."""
    from benchmarks.papers.automtl import arms as arms
    from tfmtl.automtl.architecture import Architecture

    data = arms.DATA_SETS[name]
    asked = argparse.Namespace(models=models)
    sizes = arms.sized(data, _sizes(quick, requests, grid, asked))
    default = arms.default_count(data, sizes)
    rows = functools.cache(lambda: arms.ready(data, seed, sizes, path))
    key = f"{name}-{_size_text(sizes)}-seed{seed}"

    def keeping(what, make, declared):
        settings = declared.to_json()
        arm = f"{key}-{what}"
        made = kept(keep, "automtl", CODE, arm, make, settings=settings, path=path)
        bar.update()
        return made

    def figures(arm, architecture=None, count=None):
        declared = arms.experiment(data, arm, seed, sizes)
        if architecture is not None:
            architecture = Architecture.from_json(architecture)
            if count is not None:
                architecture = arms.choosing(architecture, count)
            architectures.setdefault(arm, architecture.to_json())
            declared = architecture.apply(declared)
        what = arm if count is None else f"{arm}-{count}"
        return keeping(what, lambda: arms.trained(data, declared, *rows()), declared)

    figures_by_arm: dict[str, Any] = {}
    histories: dict[str, Any] = {}
    architectures: dict[str, str] = {}
    counts: dict[int, Any] = {}
    with tqdm(desc=f"{name}, seed {seed}", unit=" steps", disable=None) as bar:
        for arm in sizes.arms:
            if arm not in arms.SEARCHES:
                figures_by_arm[arm] = figures(arm)
                continue
            search = keeping(
                f"search-{arm}",
                lambda arm=arm: arms.searched(data, arm, seed, sizes, rows()[0]),
                arms.experiment(data, arm, seed, sizes),
            )
            count = default if arms.narrows(arm) else None
            figures_by_arm[arm] = {
                **figures(arm, search["architecture"], count),
                **arms.standing(search, count),
            }
            figures_by_arm[arm]["search_by_training"] = (
                figures_by_arm[arm]["search_cpu"] / figures_by_arm[arm]["train_cpu"]
            )
            if arm != RANDOM:
                histories[arm] = search["history"]
            if arm == OURS:
                wanted = sorted({*sizes.counts, default})
                counts = {
                    n: figures(arm, search["architecture"], n) for n in wanted if n != default
                }
                counts = dict(sorted({**counts, default: figures_by_arm[arm]}.items()))
    return {
        "arms": figures_by_arm,
        "counts": counts,
        "histories": histories,
        "architectures": architectures,
    }


def _size_text(sizes: Any) -> str:
    searched = f"{sizes.search['epochs']}-{sizes.search['trials']}"
    return f"{sizes.impressions}-{sizes.dim}-{sizes.epochs}-{searched}"


def _first_cells() -> tuple[Published, ...]:
    """The cells that every size measures, on the log with two tasks; `further` has the others."""
    short = ("mmoe", RANDOM, OURS, "without_aux", "darts")
    return tuple(cells(SIMULATED, ("ctr", "ctcvr"), "imp", short))


PAPER = Paper(
    title="AutoMTL: mean AUC of searched and designed networks, and the course of searches",
    cells=_first_cells(),
    measure=measure,
    further=further,
    plan=plan,
    errata=(
        "Equations 2 and 3 minimise +w·L_log, which draws the tasks' expert weights together; text "
        "and Figure 3 want them apart. Here the loss is −w·L_log.",
        "The difference of gradients that stops an operation has no formula; (1 − cos)/2 is ours.",
        "The paper splits at 7:1:2, its notebooks at 8:1:1; the former is taken.",
        "UserBehavior logs nothing that was shown: its AUC of clicks is no CTR.",
        "The text names favourite and purchase, the code has purchase first: AUC0 is taken for "
        "purchase.",
        'Table 3 prints "AutoML-R" and "AutoMLT".',
    ),
)
