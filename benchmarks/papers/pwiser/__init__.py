"""PWiseR (Durmus et al.): Tables 4 and 5, cross-entropy with and without the pairwise term.

The figures are `pwiser` minus `bce` with the same model, rows, initial weights and order of rows:
AUC of logged clicks, paired over seeds. The paper has four public data sets and one run per cell.
With `--data FOLDER`, each of them runs on its raw files in `FOLDER/NAME` (`ali_ccp`,
`aliexpress_nl` and so on). Its mean improvement over the four is also compared with a simulated
log, in which a fifth of the clicks is random; there only the sign can agree. `arms` declares data
sets, models and losses.

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
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from benchmarks.contract import Row
from benchmarks.funnels import models_of, sets_of, some_rows
from benchmarks.keeping import is_kept, kept
from benchmarks.paper import Further, Measured, Paper, Planned, Published, chosen, compare
from tfmtl.errors import SpecError

# Kept figures are used again only while these sources are unchanged.
CODE = (
    "tfmtl",
    "benchmarks/papers/pwiser/arms.py",
    "benchmarks/funnels.py",
    "benchmarks/datasets.py",
    "pipeline/configs",
)

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
NEAR = 0.005
"""The tolerance of a level, which has a single run in the paper."""
NO_SPACE = "below .5 on Ali-CCP: we know no sample space with this CTCVR AUC"
NOT_HERE = "we do not have its rows; --data FOLDER, with its raw files, judges this cell"
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
    """The changes by the term in the run's model, or the level of a loss, by metric over seeds."""
    by_seed = _over_seeds(run["data"], options)
    if "loss" in run:
        levels = [one[run["model"]][run["loss"]] for one in by_seed]
        return {metric: Measured(values=[one[metric] for one in levels]) for metric in levels[0]}
    changes = [_change(levels[run["model"]]) for levels in by_seed]
    return {metric: Measured(values=[one[metric] for one in changes]) for metric in changes[0]}


def further(options: argparse.Namespace) -> Iterator[Row]:
    """The cells of the public data sets, and all figures of the data sets that were run."""
    from benchmarks.datasets import row_count
    from benchmarks.papers.pwiser.arms import DATA_SETS, NETWORKS

    names = sets_of(options, DATA_SETS)
    at_hand = {name for name in names if name == SIMULATED or _path(name, options)}
    models = models_of(options, NETWORKS)
    public = [*level_cells(at_hand), *public_cells(at_hand)]
    public = [c for c in public if c.name.split(": ")[1].split("/")[0] in models]
    if getattr(options, "sets", None):
        public = chosen(public, options)
    yield from compare(Paper(title="", cells=public, measure=measure), options)
    for name in names:
        data = DATA_SETS[name]
        if name not in at_hand:
            note = f"not run: --data FOLDER, with its rows in FOLDER/{name}"
            yield Further(name=name, ours=Measured(values=()), note=note)
            continue
        yield from row_count(data, _path(name, options))
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


def level_cells(at_hand: set[str] | frozenset[str]) -> Iterator[Published]:
    """The printed levels of clicks, for the public data sets whose rows are at hand."""
    for name, models in CTR.items():
        for model, printed in models.items() if name in at_hand else ():
            for loss, value in zip(("bce", "pwiser"), printed, strict=True):
                yield Published(
                    name=f"{TABLES[model]}, {name}: {model}/{loss}/{AUC}",
                    value=round(value / 100, 5),
                    metric=AUC,
                    source=TABLES[model],
                    run={"data": name, "model": model, "loss": loss},
                    tolerance=NEAR,
                    gate=False,
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
    for model, settings in _tuned(name, options).items():
        for path, value in settings.items():
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
    from benchmarks.papers.pwiser.arms import DATA_SETS

    return DATA_SETS[name].path_in(options.data)


def _over_seeds(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    return [_levels(name, seed, *_settings(name, options)) for seed in range(options.seeds)]


def _tuned(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    return _chosen(name, *_settings(name, options))


def _settings(name: str, options: argparse.Namespace) -> tuple:
    from benchmarks.papers.pwiser.arms import NETWORKS

    grid, _ = _grid(options)
    models = models_of(options, NETWORKS)
    return options.quick, options.requests, grid, _path(name, options), options.keep, models


@functools.cache
def _chosen(
    name: str,
    quick: bool,
    requests: int | None,
    grid: str,
    path: str | None,
    keep: str | None,
    models: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    from benchmarks.papers.pwiser.arms import DATA_SETS, GRIDS, experiment, search

    sizes, data = _sizes(quick, requests), DATA_SETS[name]
    tuned = {}
    with tqdm(desc=f"{name}, grid {grid}", unit=" models", disable=None) as bar:
        for model in models:

            def choose(model: str = model) -> dict[str, float]:
                return search(data, (model,), sizes, GRIDS[grid], path, trained=bar.update)[model]

            tuned[model] = kept(
                keep,
                "pwiser",
                CODE,
                f"{name}-{_text(sizes)}-{grid}-{model}",
                choose,
                settings=[
                    experiment(data, model, "pwiser", 0, sizes).to_json(),
                    GRIDS[grid].space(),
                ],
                path=path,
            )
    return tuned


@functools.cache
def _levels(
    name: str,
    seed: int,
    quick: bool,
    requests: int | None,
    grid: str,
    path: str | None,
    keep: str | None,
    models: tuple[str, ...],
) -> dict[str, Any]:
    from benchmarks.papers.pwiser.arms import DATA_SETS, prepared_rows, study

    sizes, data = _sizes(quick, requests), DATA_SETS[name]
    tuned = _chosen(name, quick, requests, grid, path, keep, models)
    levels: dict[str, Any] = {}
    rows = functools.cache(lambda: prepared_rows(data, seed, sizes, path))
    with tqdm(desc=f"{name}, seed {seed}", unit=" arms", disable=None) as bar:
        for model in models:

            def run(model: str = model) -> dict[str, Any]:
                only = {model: tuned[model]}
                return study(data, seed, sizes, only, path, rows=rows, trained=bar.update)

            # The figures of the truth come with each model's, and are the same.
            levels.update(
                kept(
                    keep,
                    "pwiser",
                    CODE,
                    _arm_name(name, sizes, grid, seed, model),
                    run,
                    settings=_arm_settings(data, model, seed, sizes, tuned[model]),
                    path=path,
                )
            )
    return levels


def plan(options: argparse.Namespace) -> Iterator[Planned]:
    """The trainings that the options ask for, without those of the grid; see `Planned`."""
    from benchmarks.papers.pwiser.arms import DATA_SETS, NETWORKS, epoch_seconds, experiment

    sizes = _sizes(options.quick, options.requests)
    grid, size = _grid(options)
    for name in sets_of(options, DATA_SETS):
        data, path = DATA_SETS[name], _path(name, options)
        if data.reads and path is None:
            continue
        rows, total = some_rows(data, sizes, path)
        for model in models_of(options, NETWORKS):
            probe = functools.cache(
                functools.partial(epoch_seconds, data, model, sizes, rows, total)
            )
            epochs = experiment(data, model, "bce", 0, sizes).training.epochs
            common = {"data_set": name, "rows": total, "probe": probe}
            if size > 1:
                what = f"{model}, grid of {size}"
                yield Planned(arm=what, seed=0, kept=False, epochs=epochs * size, **common)
            for seed in range(options.seeds):
                # Both losses.
                yield Planned(
                    arm=model,
                    seed=seed,
                    kept=is_kept(
                        options.keep,
                        "pwiser",
                        CODE,
                        _arm_name(name, sizes, grid, seed, model),
                        path,
                    ),
                    epochs=2 * epochs,
                    **common,
                )


def _arm_name(name: str, sizes: Any, grid: str, seed: int, model: str) -> str:
    return f"{name}-{_text(sizes)}-{grid}-seed{seed}-{model}"


def _arm_settings(
    data: Any, model: str, seed: int, sizes: Any, tuned: Mapping[str, float]
) -> list[Any]:
    from benchmarks.papers.pwiser.arms import experiment

    return [experiment(data, model, "pwiser", seed, sizes).to_json(), dict(tuned)]


def _sizes(quick: bool, requests: int | None) -> Any:
    # Imported here, so that listing the papers does not load TensorFlow.
    from benchmarks.funnels import QUICK, Sizes

    sizes = QUICK if quick else Sizes()
    # A request shows seven ads on average.
    return sizes if requests is None else dataclasses.replace(sizes, impressions=requests * 7)


def _text(sizes: Any) -> str:
    return f"{sizes.impressions}-{sizes.epochs}"


PAPER = Paper(
    title="PWiseR: the change of the AUC of clicks by the pairwise term",
    cells=tuple(_mean_cells()),
    measure=measure,
    further=further,
    plan=plan,
    errata=(
        "As printed, the gate of equation 2 opens where a conversion's score is below another's by "
        "the margin; its penalty is then (2m)² at once, and with scores of about .02 and margins "
        "of .3 it never opens. The hinge is trained here.",
        "K and M are swapped in the text: k runs over rows without a click, j over conversions.",
        "The sum over conversions is not divided by their number, so the term grows with a batch's "
        "conversions.",
        "The CTCVR columns, below .5 on Ali-CCP, fit no sample space that we know.",
        "Every cell is a single run; the gains are of the size of the difference of two seeds.",
    ),
)
