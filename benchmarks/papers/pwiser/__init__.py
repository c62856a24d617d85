"""PWiseR (Durmus et al.): Tables 4 and 5, cross-entropy with and without the pairwise term.

The figures are `pwiser` minus `bce` with the same model, rows, initial weights and order of rows:
AUC of logged clicks, paired over seeds. The paper has four public data sets and one run per cell.
Without their rows, its mean improvement over the four is compared with a simulated log, in which a
fifth of the clicks is random. Then only the sign can agree. `arms` declares data sets, models and
losses. With `--data FOLDER`, each data set that reads rows runs on `FOLDER/NAME`.

λ, m1 and m2 are chosen per model by a grid search on validation rows of a seed that no table uses.
`--grid full` has every candidate, `reduced` (the default) some of them, and `printed` only the
values of the paper's Table 3. `--quick` uses `printed`, without a search. Cross-entropy alone has
no such parameters. Nothing else is tuned for either loss.

Further figures are AUC on clicks without noise, on true probabilities, and on conversions ranked
by the click score. There are also calibration and normalised entropy, because a margin changes the
probabilities.

The paper's CTCVR columns (below .5 on Ali-CCP) fit no sample space that we know, and are not
judged.
"""

import argparse
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from benchmarks.contract import Row
from benchmarks.paper import Further, Measured, Paper, Published, compare, kept
from tfmtl.errors import SpecError

# Kept figures are used again only while these sources are unchanged.
CODE = ("tfmtl", "benchmarks/papers/pwiser/arms.py", "benchmarks/funnels.py", "pipeline/configs")

SIMULATED = "simulated_ads"
AUC, CTCVR = "ctr/auc@imp", "ctcvr/auc@imp"
REMARKS: Mapping[str, str] = {
    "auc": "of logged clicks",
    "auc_clean": "of clicks without the random ones",
    "auc_true": "expected over clicks of the true probabilities",
    "auc_bought": "conversions, ranked by the click score",
    "auc_true_bought": "expected over conversions, ranked by the click score",
    "calibration": "sum of predictions over sum of logged labels",
    "ne": "of logged labels",
}
NO_SPACE = "below .5 on Ali-CCP: we know no sample space with this CTCVR AUC"
NOT_HERE = "we do not have its rows; --data FOLDER, with a reader for it, judges this cell"
TABLES: Mapping[str, str] = dict.fromkeys(("mmoe", "ple", "shared_bottom"), "Table 4") | (
    dict.fromkeys(("dnn", "masknet"), "Table 5")
)

CTR: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "aliexpress_us": {
        "mmoe": (71.214, 71.158),
        "ple": (71.149, 71.175),
        "shared_bottom": (70.883, 70.941),
        "dnn": (70.946, 71.112),
        "masknet": (71.350, 71.323),
    },
    "aliexpress_fr": {
        "mmoe": (72.846, 73.069),
        "ple": (72.883, 72.894),
        "shared_bottom": (72.741, 72.614),
        "dnn": (72.865, 73.015),
        "masknet": (72.931, 72.943),
    },
    "aliexpress_nl": {
        "mmoe": (72.890, 72.991),
        "ple": (72.642, 72.668),
        "shared_bottom": (72.924, 73.000),
        "dnn": (73.130, 72.935),
        "masknet": (72.912, 73.001),
    },
    "ali_ccp": {
        "mmoe": (61.852, 61.859),
        "ple": (61.481, 61.491),
        "shared_bottom": (61.539, 61.840),
        "dnn": (62.255, 62.310),
        "masknet": (62.431, 62.441),
    },
}
"""AUC of clicks in percent, without and with the term, by data set and model."""

CONVERSIONS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "aliexpress_us": {
        "mmoe": (62.379, 62.716),
        "ple": (62.365, 62.126),
        "shared_bottom": (62.200, 61.937),
    },
    "aliexpress_fr": {
        "mmoe": (64.257, 64.284),
        "ple": (64.067, 64.369),
        "shared_bottom": (63.941, 63.932),
    },
    "aliexpress_nl": {
        "mmoe": (63.196, 63.336),
        "ple": (62.778, 62.856),
        "shared_bottom": (63.008, 63.266),
    },
    "ali_ccp": {
        "mmoe": (40.700, 40.399),
        "ple": (39.774, 40.082),
        "shared_bottom": (38.853, 38.928),
    },
}
"""AUC of what the paper calls CTCVR, without and with the term, by data set and model."""


def measure(run: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Measured]:
    """The changes by the term in the run's model on the run's data, by metric over the seeds."""
    by_seed = _over_seeds(run["data"], options)
    changes = [_change(levels[run["model"]]) for levels in by_seed]
    return {metric: Measured(values=[one[metric] for one in changes]) for metric in changes[0]}


def further(options: argparse.Namespace) -> Iterator[Row]:
    """The cells of the public data sets, and all figures of the data sets that were run."""
    from benchmarks.papers.pwiser.arms import DATA_SETS

    at_hand = {name for name in DATA_SETS if name == SIMULATED or _path(name, options)}
    public = Paper(title="", cells=public_cells(at_hand), measure=measure)
    yield from compare(public, options)
    for name, data in DATA_SETS.items():
        if name not in at_hand:
            note = f"not run: --data FOLDER, with its rows in FOLDER/{name}"
            yield Further(name=name, ours=Measured(values=()), note=note)
            continue
        yield from _changes(name, options)
        if data.reads:
            yield from _funnel(name, options)


def public_cells(at_hand: set[str] | frozenset[str] = frozenset()) -> tuple[Published, ...]:
    """The printed cells of the public data sets.

    Args:
        at_hand: The data sets with a reader and rows, whose cells are judged.
    """
    return tuple(
        Published(
            name=f"{TABLES[model]}, {name}: {model}/{metric}",
            value=round(after - before, 3) / 100,
            metric=metric,
            source=TABLES[model],
            run={"data": name, "model": model} if name in at_hand else None,
            rule="sign",
            printed=f"{before:.3f} → {after:.3f}",
            gate=False,
            not_comparable=_why_not(metric, name, at_hand),
        )
        for metric, table in ((AUC, CTR), (CTCVR, CONVERSIONS))
        for name, models in table.items()
        for model, (before, after) in models.items()
    )


def _why_not(metric: str, name: str, at_hand: set[str] | frozenset[str]) -> str:
    if metric == CTCVR:
        return NO_SPACE
    return "" if name in at_hand else NOT_HERE


def _mean_cells() -> Iterator[Published]:
    """The mean improvement over the public data sets, by model, against the simulated log's."""
    for metric, table in ((AUC, CTR), (CTCVR, CONVERSIONS)):
        for model in next(iter(table.values())):
            gains = [after - before for before, after in (of[model] for of in table.values())]
            yield Published(
                name=f"{TABLES[model]}, mean of four: {model}/{metric}",
                value=sum(gains) / len(gains) / 100,
                metric=metric,
                source=TABLES[model],
                run={"data": SIMULATED, "model": model},
                rule="sign",
                gate=False,
                not_comparable=NO_SPACE if metric == CTCVR else "",
            )


def _changes(name: str, options: argparse.Namespace) -> Iterator[Row]:
    by_seed = _over_seeds(name, options)
    for model in (model for model in by_seed[0] if model != "truth"):
        changes = [_change(levels[model]) for levels in by_seed]
        for metric in changes[0]:
            yield Further(
                name=f"{name}/{model}/{metric}, change",
                ours=Measured(values=[one[metric] for one in changes]),
                note=REMARKS[metric.split("/")[1].split("@")[0]],
            )
    for model, losses in by_seed[0].items():
        for loss, metrics in losses.items():
            for metric in metrics:
                values = [levels[model][loss][metric] for levels in by_seed]
                label = model if model == loss else f"{model}/{loss}"
                yield Further(name=f"{name}/{label}/{metric}", ours=Measured(values=values))
    grid, size = _grid(options)
    note = f"grid {grid}, {size} candidates" + ("" if grid == "full" else "; --grid full has 80")
    for model, chosen in _tuned(name, options).items():
        for path, value in chosen.items():
            yield Further(
                name=f"{name}/{model}/{path.split('.')[-1]}, chosen",
                ours=Measured(values=[value]),
                note=note,
            )


def _funnel(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """The number of training rows of each kind, which the term compares."""
    from benchmarks.funnels import Sizes
    from benchmarks.papers.pwiser.arms import DATA_SETS

    data = DATA_SETS[name]
    table = data.tables(0, Sizes(), _path(name, options))["train"]
    for column in (data.click, data.conversion):
        share = float(table[column].to_numpy().mean())
        yield Further(
            name=f"{name}/rows with {column}",
            ours=Measured(values=[share]),
            note=f"of {len(table):,} training rows",
        )


def _change(losses: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    before, after = losses["bce"], losses["pwiser"]
    return {metric: after[metric] - before[metric] for metric in before}


def _grid(options: argparse.Namespace) -> tuple[str, int]:
    from benchmarks.papers.pwiser.arms import GRIDS

    name = options.grid or ("printed" if options.quick else "reduced")
    if name not in GRIDS:
        raise SpecError(f"--grid {name!r}: one of {', '.join(GRIDS)} would be right.")
    return name, len(GRIDS[name])


def _path(name: str, options: argparse.Namespace) -> str | None:
    from benchmarks.funnels import path_of

    return path_of(name, options.data)


def _over_seeds(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    return [_levels(name, seed, *_settings(name, options)) for seed in range(options.seeds)]


def _tuned(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    return _chosen(name, *_settings(name, options))


def _settings(name: str, options: argparse.Namespace) -> tuple:
    grid, _ = _grid(options)
    return options.quick, options.requests, grid, _path(name, options), options.keep


@functools.cache
def _chosen(
    name: str, quick: bool, requests: int | None, grid: str, path: str | None, keep: str | None
) -> dict[str, dict[str, float]]:
    from benchmarks.papers.pwiser.arms import DATA_SETS, GRIDS, NETWORKS, search

    sizes = _sizes(quick, requests)

    def choose() -> dict[str, dict[str, float]]:
        with tqdm(desc=f"{name}, grid {grid}", unit=" models", disable=None) as bar:
            return search(
                DATA_SETS[name], tuple(NETWORKS), sizes, GRIDS[grid], path, trained=bar.update
            )

    return kept(keep, "pwiser", CODE, f"{name}-{_text(sizes)}-{grid}", choose)


@functools.cache
def _levels(
    name: str,
    seed: int,
    quick: bool,
    requests: int | None,
    grid: str,
    path: str | None,
    keep: str | None,
) -> dict[str, Any]:
    from benchmarks.papers.pwiser.arms import DATA_SETS, study

    sizes = _sizes(quick, requests)
    tuned = _chosen(name, quick, requests, grid, path, keep)

    def run() -> dict[str, Any]:
        with tqdm(desc=f"{name}, seed {seed}", unit=" arms", disable=None) as bar:
            return study(DATA_SETS[name], seed, sizes, tuned, path, trained=bar.update)

    return kept(keep, "pwiser", CODE, f"{name}-{_text(sizes)}-{grid}-seed{seed}", run)


def _sizes(quick: bool, requests: int | None) -> Any:
    # Imported here, so that listing the papers does not load TensorFlow.
    from benchmarks.funnels import QUICK, Sizes

    sizes = QUICK if quick else Sizes()
    # A request shows seven ads on average.
    return sizes if requests is None else Sizes(impressions=requests * 7, epochs=sizes.epochs)


def _text(sizes: Any) -> str:
    return f"{sizes.impressions}-{sizes.epochs}"


PAPER = Paper(
    title="PWiseR: the change of the AUC of clicks by the pairwise term",
    cells=tuple(_mean_cells()),
    measure=measure,
    further=further,
)
