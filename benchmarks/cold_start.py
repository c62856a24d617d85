"""What meta-learning gives on groups nobody has seen: new advertisers, and whole new scenes.

Simulated logs, of which some advertisers (or scenes) train, others choose rates, and the rest are
the newcomers. A plain model and two meta-trained ones have the same rows and network, and each
stops when its own validation loss falls no more. Of the latter, `hidden` is trained on tasks whose
advertisers and ads (or scenes) are unknown, as a newcomer's are. All adapt to k rows of each
newcomer by one step and are judged on its other rows, with what lies above the embeddings adapting
(`top`) or all weights (`all`). Rates are chosen on the validation groups of a seed that no figure
uses, for each model its own, by the log loss of clicks after 20 rows.

Three worlds:

- `alike`: ads of one advertiser share most of what no feature tells, how attractive they are and
  how well they convert. There is something to learn from a newcomer's first rows.
- `apart`: ads differ as much within an advertiser as between two. What is left to learn is that
  the rows to come show the same dozen ads.
- `scenes`: scenes differ in their rates, and whole scenes are new.

Differences are below 0 where log loss falls. Intervals are Student's over seeds.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from benchmarks.contract import Result, main, over_runs
from benchmarks.newcomers import WORLDS
from pipeline.configs import simulated_ads
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.few_shot.cold_start import cold_start
from tfmtl.few_shot.picture import draw_cold_start
from tfmtl.few_shot.report import ColdStart
from tfmtl.metrics.tasks import log_loss
from tfmtl.plain import write_json
from tfmtl.run import train
from tfmtl.transfer.intervals import over_seeds

TUNING_SEED, CHOSEN_AT = 1_000, 20
KINDS = ("plain", "meta", "hidden")
PARAMS = {"top": "no_embedding", "all": "all"}
LOSS, AUC = "ctr/log_loss@imp", "ctr/group_auc@imp"

PROBLEM = ProblemSpec(
    features=simulated_ads.PROBLEM.features,
    tasks=(binary("ctr", label="click"), binary("ctcvr", label="conversion")),
    scene="scene",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is simulated, trained and tried.

    Args:
        impressions: Rows of a log.
        epochs: Most passes over the training rows, of both models.
        ks: Rows of a newcomer to adapt to.
        rates: Candidates of the rate that newcomers are adapted at.
        meta_rate: The rate that meta-training adapts at.
        draws: Splits of each newcomer's rows.
    """

    impressions: int = 60_000
    epochs: int = 15
    ks: Sequence[int] = (0, 5, 20, 50, 100)
    rates: Sequence[float] = (0.1, 0.3, 1.0, 3.0)
    meta_rate: float = 0.3
    draws: int = 3


QUICK = Sizes(impressions=20_000, epochs=2, ks=(0, 20), rates=(0.3, 1.0))


def experiment(name: str, kind: str, seed: int, sizes: Sizes) -> ExperimentConfig:
    """The plain model of a world, or a meta-trained one: all else is the same."""
    meta = Meta(
        tasks=f"group:{WORLDS[name].column}",
        task_rows=64,
        inner_rate=sizes.meta_rate,
        hide=WORLDS[name].unknown if kind == "hidden" else (),
        # The second stage would lead the towers away from where they adapt well.
        finetune_epochs=0,
    )
    return ExperimentConfig(
        name=f"cold_start_{name}",
        problem=PROBLEM,
        split=WORLDS[name].split,
        model=Model(
            backbone={"name": "shared_bottom", "bottom_units": (64, 32)},
            dim=8,
            tower_units=(16,),
        ),
        training=Training(
            epochs=sizes.epochs, batch_size=512, learning_rate=2e-3, monitor="loss", seed=seed
        ),
        meta=None if kind == "plain" else meta,
    )


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields each world's figures and verdicts."""
    sizes = QUICK if options.quick else Sizes()
    names = options.worlds or (["alike"] if options.quick else list(WORLDS))
    with tqdm(total=len(names) * (options.seeds + 1), unit=" worlds") as bar:
        for name in names:
            rates = chosen(name, sizes)
            bar.update()
            reports, truths = [], []
            for seed in range(1, options.seeds + 1):
                report, truth = study(name, seed, sizes, rates)
                if options.keep:
                    _keep(options.keep, f"{name}-{seed}", report)
                reports.append(report)
                truths.append(truth)
                bar.update()
            yield over_runs(f"cold_start/{name}/truth/{LOSS}", truths, note="all test rows")
            yield from _figures(name, reports)
            yield from _verdicts(name, reports)


def chosen(name: str, sizes: Sizes) -> dict[str, float]:
    """Each model's rate, by validation groups of `TUNING_SEED`, with what lies on top adapting."""
    tables = WORLDS[name].tables(TUNING_SEED, sizes.impressions)
    ready = prepare(PROBLEM, tables)
    groups = tables["validation"][WORLDS[name].column].to_numpy()

    def loss(model: Any, rate: float) -> float:
        report = cold_start(
            model,
            ready.data.validation,
            groups,
            meta=Meta(inner_rate=rate),
            ks=(CHOSEN_AT,),
            draws=2,
            samples=1,
            verbose=0,
        )
        return report.curve(LOSS)[-1].value.value

    found = {}
    for kind in KINDS:
        model = _trained(name, kind, TUNING_SEED, sizes, ready)
        found[kind] = min(sizes.rates, key=functools.partial(loss, model))
    return found


def study(
    name: str, seed: int, sizes: Sizes, rates: Mapping[str, float]
) -> tuple[ColdStart, float]:
    """One seed's report on its newcomers, and the log loss of the true click rates there."""
    tables = WORLDS[name].tables(seed, sizes.impressions)
    ready = prepare(PROBLEM, tables)
    trained = {kind: _trained(name, kind, seed, sizes, ready) for kind in KINDS}
    arms = {f"{kind}, {params}": (kind, params) for kind in KINDS for params in PARAMS}
    test = tables["test"]
    report = cold_start(
        {arm: trained[kind] for arm, (kind, _) in arms.items()},
        ready.test,
        test[WORLDS[name].column].to_numpy(),
        meta={
            arm: Meta(inner_rate=rates[kind], inner_params=PARAMS[params])
            for arm, (kind, params) in arms.items()
        },
        ks=sizes.ks,
        draws=sizes.draws,
        seed=seed,
        verbose=0,
    )
    return report, log_loss(test["click"].to_numpy(), test["true_ctr"].to_numpy())


def _trained(name: str, kind: str, seed: int, sizes: Sizes, ready: Prepared) -> Any:
    # Keras keeps every graph it has built.
    keras.backend.clear_session()
    return train(experiment(name, kind, seed, sizes), ready.data, verbose=0).model


def _keep(folder: str, name: str, report: ColdStart) -> None:
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, f"{name}.json"), report.to_json(), allow_nan=False)
    draw_cold_start(report, os.path.join(folder, f"{name}.png"))


def _figures(name: str, reports: Sequence[ColdStart]) -> Iterator[Result]:
    first = reports[0]
    for arm in first.models:
        rate = first.settings[arm]["rate"]
        for metric in (LOSS, AUC):
            for place, k in enumerate(first.ks):
                values = [r.curve(metric, arm)[place].value.value for r in reports]
                note = f"{first.groups} groups, rate {rate:g}" if not place else ""
                yield over_runs(f"cold_start/{name}/{arm}/{metric}, k={k}", values, note=note)


def _verdicts(name: str, reports: Sequence[ColdStart]) -> Iterator[Result]:
    ks = reports[0].ks
    verdict = functools.partial(_verdict, f"cold_start/{name}", reports)
    for at, k in enumerate(ks):
        if k:
            for arm in reports[0].models:
                yield verdict(f"adapting to {k} rows/{arm}", (arm, at), (arm, 0))
    for at, k in enumerate(ks):
        # Without rows nothing adapts, and both are the same.
        for params in PARAMS if k else ("top",):
            for kind in KINDS[1:]:
                arms = ((f"{kind}, {params}", at), (f"plain, {params}", at))
                yield verdict(f"{kind} against plain at k={k}" + (f"/{params}" if k else ""), *arms)


def _verdict(
    prefix: str,
    reports: Sequence[ColdStart],
    what: str,
    one: tuple[str, int],
    other: tuple[str, int],
) -> Result:
    found = over_seeds(
        [
            r.curve(LOSS, one[0])[one[1]].value.value
            - r.curve(LOSS, other[0])[other[1]].value.value
            for r in reports
        ]
    )
    said = "no difference shown" if len(reports) > 1 else "one seed shows nothing"
    if found.high < 0:
        said = "helps"
    elif found.low > 0:
        said = "hurts"
    return Result(
        f"{prefix}/{what}",
        found.value,
        "nats",
        runs=len(reports),
        note=f"[{found.low:+.4f}, {found.high:+.4f}]: {said}",
        details={"low": found.low, "high": found.high, "verdict": said},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), help="some of the worlds")
    parser.add_argument("--keep", metavar="FOLDER", help="writes each seed's report and curves")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, seeds=3, arguments=add_arguments))
