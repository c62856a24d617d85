"""The gain of meta-learning on groups without training rows: new advertisers and new scenes.

The logs are simulated. Some advertisers (or scenes) are for training, others for choosing rates,
and the rest are the newcomers. A plain model and two meta-trained models have the same rows and
network. Each stops when its own validation loss stops falling. The meta-trained model `hidden` is
trained on tasks whose advertisers and ads (or scenes) are unknown, like those of a newcomer. Each
model adapts to k rows of each newcomer by one step and is evaluated on the newcomer's other rows.
Either the weights above the embeddings adapt (`top`), or all weights do (`all`). The rate of each
model is chosen by the log loss of clicks after 20 rows, on the validation groups of a separate
seed.

There are three worlds:

- `alike`: ads of one advertiser share most of their hidden properties, attractiveness and
  conversion rate. So the first rows of a newcomer contain information.
- `apart`: ads differ as much within an advertiser as between advertisers. The first rows say only
  something about the advertiser's own ads, about a dozen.
- `scenes`: scenes differ in their rates, and whole scenes are new.

A difference below 0 is an improvement of log loss. Intervals are Student's over seeds.
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
    """Sizes of simulation, training and evaluation.

    Args:
        impressions: Rows per log.
        epochs: Greatest number of passes over the training rows.
        ks: Numbers of rows per newcomer to adapt to.
        rates: Candidates for the learning rate of adapting to newcomers.
        meta_rate: The learning rate of adapting in meta-training.
        draws: Number of random splits of each newcomer's rows.
    """

    impressions: int = 60_000
    epochs: int = 15
    ks: Sequence[int] = (0, 5, 20, 50, 100)
    rates: Sequence[float] = (0.1, 0.3, 1.0, 3.0)
    meta_rate: float = 0.3
    draws: int = 3


QUICK = Sizes(impressions=20_000, epochs=2, ks=(0, 20), rates=(0.3, 1.0))


def experiment(name: str, kind: str, seed: int, sizes: Sizes) -> ExperimentConfig:
    """The experiment of the plain model or of a meta-trained one; all else is the same."""
    meta = Meta(
        tasks=f"group:{WORLDS[name].column}",
        task_rows=64,
        inner_rate=sizes.meta_rate,
        hide=WORLDS[name].unknown if kind == "hidden" else (),
        # After the second stage the towers would adapt less well.
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
    """Yields the figures and verdicts of each world."""
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
    """Each model's rate, by the validation groups of `TUNING_SEED`; the top weights adapt."""
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

    rates = {}
    for kind in KINDS:
        model = _trained(name, kind, TUNING_SEED, sizes, ready)
        rates[kind] = min(sizes.rates, key=functools.partial(loss, model))
    return rates


def study(
    name: str, seed: int, sizes: Sizes, rates: Mapping[str, float]
) -> tuple[ColdStart, float]:
    """The report on one seed's newcomers, and the log loss of their true click rates."""
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
    # Without this, Keras keeps all graphs of earlier models in memory.
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
        # Without rows nothing adapts, so both values of `params` give the same.
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
    difference = over_seeds(
        [
            r.curve(LOSS, one[0])[one[1]].value.value
            - r.curve(LOSS, other[0])[other[1]].value.value
            for r in reports
        ]
    )
    answer = "no difference shown" if len(reports) > 1 else "one seed shows nothing"
    if difference.high < 0:
        answer = "helps"
    elif difference.low > 0:
        answer = "hurts"
    return Result(
        f"{prefix}/{what}",
        difference.value,
        "nats",
        runs=len(reports),
        note=f"[{difference.low:+.4f}, {difference.high:+.4f}]: {answer}",
        details={"low": difference.low, "high": difference.high, "verdict": answer},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), help="run only these worlds")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="write the report and curves of each seed to this folder"
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, run, seeds=3, arguments=add_arguments))
