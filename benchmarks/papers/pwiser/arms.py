"""The arms of PWiseR's tables: data sets, models and losses, and the measurement of one seed.

Data sets are those of `benchmarks.funnels`, and the paper's own, which `benchmarks.datasets` reads
from raw files; on these the networks have the paper's sizes (`tfmtl.datasets.presets`). To add one,
add a `DataSet`.

All arms of a seed have the same rows. Arms with the same model also have the same initial weights
and the same order of rows: `pwiser` is `bce` with the term. λ, m1 and m2 are chosen by the AUC of
clicks, on validation rows of a seed that no table uses. All else is the same for both losses and
is not tuned.

The simulated log has random clicks (`with_random_clicks`). They are spread evenly over the
impressions without a click. The order of the true click probabilities is therefore still the best
order for the logged clicks: random clicks add variance, but no bias of the order.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tf_keras as keras

from benchmarks.datasets import ALI_CCP, ALIEXPRESS
from benchmarks.funnels import CENSUS, SIMULATED, DataSet, Sizes, by_day, measures, simulated_log
from tfmtl.datasets.presets import preset
from tfmtl.declare.experiment import ExperimentConfig, Model, Training, Tuning
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.declare.split import whole
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.run import train
from tfmtl.tuning.tune import ExperimentTuner

NOISE = 0.2
TUNING_SEED = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Candidates of PWiseR's hyper-parameters.

    Args:
        weight: λ.
        margin_click: m1.
        margin_no_click: m2.
    """

    weight: Sequence[float]
    margin_click: Sequence[float]
    margin_no_click: Sequence[float]

    def space(self) -> dict[str, Sequence[float]]:
        """The candidates by the path of their field."""
        return {f"model.terms.0.{f.name}": getattr(self, f.name) for f in dataclasses.fields(self)}

    def __len__(self) -> int:
        return math.prod(len(candidates) for candidates in self.space().values())


FULL = Grid(
    weight=(0.01, 0.05, 0.1, 0.5, 1.0),
    margin_click=(0.1, 0.2, 0.3, 0.5),
    margin_no_click=(0.1, 0.2, 0.3, 0.5),
)
REDUCED = Grid(weight=(0.01, 0.1), margin_click=(0.1, 0.3), margin_no_click=(0.1, 0.3))
PRINTED = Grid(weight=(0.1,), margin_click=(0.3,), margin_no_click=(0.3,))
"""The values of the paper's Table 3 for PLE on AliExpress-US."""
GRIDS: Mapping[str, Grid] = {"full": FULL, "reduced": REDUCED, "printed": PRINTED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A model of the tables.

    Args:
        backbone: See `Model`.
        tower_units: Widths of each task's tower.
        multi_task: Whether it also learns conversions, or only clicks (Table 5).
    """

    backbone: Mapping[str, Any]
    tower_units: tuple[int, ...] = ()
    multi_task: bool = False


NETWORKS: Mapping[str, Network] = {
    "mmoe": Network(
        backbone={"name": "mmoe", "num_experts": 4, "expert_units": (64, 32)},
        tower_units=(32,),
        multi_task=True,
    ),
    "ple": Network(
        backbone={
            "name": "ple",
            "num_specific": 2,
            "num_shared": 2,
            "expert_units": ((64,), (32,)),
        },
        tower_units=(32,),
        multi_task=True,
    ),
    "shared_bottom": Network(
        backbone={"name": "shared_bottom", "bottom_units": (128, 64)},
        tower_units=(32,),
        multi_task=True,
    ),
    "dnn": Network(backbone={"name": "dnn", "units": (128, 64, 32)}),
    "masknet": Network(backbone={"name": "masknet", "form": "serial", "units": (64, 64, 64)}),
}
LOSSES: Mapping[str, tuple[Mapping[str, Any], ...]] = {"bce": (), "pwiser": ({"name": "pwiser"},)}
"""Terms that are added to the cross-entropies, by loss."""


def problem(data: DataSet, network: Network) -> ProblemSpec:
    """The tasks clicks and conversions, or clicks only, with the conversion labels in the rows."""
    if network.multi_task:
        second = binary("ctcvr", label=data.conversion)
    else:
        second = binary("bought", label=data.conversion, head="ctr", trained=False, served=False)
    tasks = (binary("ctr", label=data.click), second)
    return ProblemSpec(features=data.features, tasks=tasks, space=data.space)


def experiment(
    data: DataSet,
    model: str,
    loss: str,
    seed: int,
    sizes: Sizes,
    tuned: Mapping[str, float] | None = None,
) -> ExperimentConfig:
    """The experiment of one arm: everything but the term is the same for all losses.

    Args:
        data: The data set.
        model: A name in `NETWORKS`.
        loss: A name in `LOSSES`.
        seed: Seed of the initial weights and of the order of rows.
        sizes: Gives the number of epochs.
        tuned: Values from a search, by path; only for losses with terms.
    """
    network = NETWORKS[model]
    labels = {"click": "ctr", "conversion": "ctcvr" if network.multi_task else "bought"}
    declared = ExperimentConfig(
        name=f"{data.name}_{model}_{loss}",
        problem=problem(data, network),
        split=whole(),
        model=_model(data, model, sizes, tuple({**term, **labels} for term in LOSSES[loss])),
        training=_training(data, sizes, seed),
    )
    for path, value in (tuned or {}).items():
        declared = declared.replace_path(path, value)
    return declared


def _model(data: DataSet, model: str, sizes: Sizes, terms: tuple[Mapping[str, Any], ...]) -> Model:
    if data.preset and sizes.papers_sizes:
        return preset(data.preset).model(model, terms=terms)
    network = NETWORKS[model]
    return Model(
        backbone=network.backbone,
        tower_units=network.tower_units,
        # The paper's loss is a sum (eq. 1), so that λ has the same weight relative to each task.
        balancer={"name": "fixed", "reduction": "sum"},
        terms=terms,
        **data.model,
    )


def _training(data: DataSet, sizes: Sizes, seed: int) -> Training:
    monitor = f"ctr/auc@{data.space}"
    if data.preset and sizes.papers_sizes:
        return preset(data.preset).training(monitor=monitor, seed=seed)
    return Training(
        epochs=sizes.epochs,
        patience=sizes.epochs,
        monitor=monitor,
        seed=seed,
        **data.training,
    )


def search(
    data: DataSet,
    models: Sequence[str],
    sizes: Sizes,
    grid: Grid,
    path: str | None = None,
    *,
    trained: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, float]]:
    """The best of the grid by validation AUC of the logged clicks, by model and path.

    The rows are those of `TUNING_SEED`, and no test row is used. With a single candidate there is
    no search.
    """
    space = grid.space()
    if len(grid) == 1:
        return {model: {path: values[0] for path, values in space.items()} for model in models}
    rows = prepared_rows(data, TUNING_SEED, sizes, path)
    best = {}
    for model in models:
        declared = dataclasses.replace(
            experiment(data, model, "pwiser", TUNING_SEED, sizes),
            tuning=Tuning(space=space, trials=len(grid), epochs=sizes.epochs, algorithm="grid"),
        )
        with tempfile.TemporaryDirectory() as folder:
            tuner = ExperimentTuner(declared, directory=folder, verbose=0)
            tuner.search(data=rows[NETWORKS[model].multi_task][0].data)
            trials = tuner.oracle.get_best_trials(len(grid))
        ended = sum(trial.status == "COMPLETED" for trial in trials)
        if ended < len(grid):
            # Keras Tuner continues after a failed trial, and would return an incomplete grid.
            raise RuntimeError(f"{declared.name}: {ended} of {len(grid)} trials ended.")
        best[model] = {path: float(trials[0].hyperparameters.values[path]) for path in space}
        trained()
    return best


def study(
    data: DataSet,
    seed: int,
    sizes: Sizes,
    tuned: Mapping[str, Mapping[str, float]],
    path: str | None = None,
    *,
    rows: Callable[[], dict[bool, tuple[Prepared, pa.Table]]] | None = None,
    trained: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Trains every loss of the models in `tuned` on one seed's rows.

    `rows` returns what `prepared_rows` does, where several calls share the rows.

    Returns:
        Test figures by model, loss and metric. If the truth is known, its figures are `truth`.
    """
    made = rows() if rows is not None else prepared_rows(data, seed, sizes, path)
    levels: dict[str, dict[str, dict[str, float]]] = {}
    for model, values in tuned.items():
        ready, test = made[NETWORKS[model].multi_task]
        levels[model] = {}
        for loss, terms in LOSSES.items():
            # Without this, Keras keeps all graphs of earlier models in memory.
            keras.backend.clear_session()
            declared = experiment(data, model, loss, seed, sizes, values if terms else {})
            arm = train(declared, ready.data, verbose=0).model
            scores = arm.predict_rows(ready.test.batches(1 << 14)).predictions
            levels[model][loss] = measures(data, scores, test)
            trained()
    if data.true:
        truth = {score: test[column].to_numpy() for score, column in data.true.items()}
        levels["truth"] = {"truth": measures(data, truth, test)}
    return levels


def epoch_seconds(data: DataSet, model: str, sizes: Sizes, rows: pa.Table, total: float) -> float:
    """Seconds that an epoch of `total` rows takes here, by the times of a short and a longer one.

    Args:
        data: The data set.
        model: A name in `NETWORKS`.
        sizes: Says whether the networks have the paper's sizes.
        rows: Some rows.
        total: Number of training rows.
    """
    declared = experiment(data, model, "pwiser", 1, sizes)
    declared = declared.replace_path("training.epochs", 1)
    size = declared.training.batch_size

    def seconds(steps: int) -> float:
        keras.backend.clear_session()
        repeated = rows.take(np.arange(steps * size) % len(rows))
        tables = {"train": repeated, "validation": rows.slice(0, 64), "test": rows.slice(0, 64)}
        ready = prepare(problem(data, NETWORKS[model]), tables)
        start = time.perf_counter()
        train(declared, ready.data, verbose=0)
        return time.perf_counter() - start

    few, more = 2, 6
    return max(0.0, (seconds(more) - seconds(few)) / (more - few)) * total / size


def prepared_rows(
    data: DataSet, seed: int, sizes: Sizes, path: str | None
) -> dict[bool, tuple[Prepared, pa.Table]]:
    """Packed rows and the test table, by `multi_task` of the model."""
    tables = data.tables(seed, sizes, path)
    kinds = {network.multi_task: network for network in NETWORKS.values()}
    return {
        multi: (prepare(problem(data, network), tables), tables["test"])
        for multi, network in kinds.items()
    }


def with_random_clicks(log: pa.Table, *, share: float, seed: int) -> pa.Table:
    """Adds random clicks to the log, which never convert.

    Rows without a click get a click at random, with equal probability, until `share` of all clicks
    is random. The column `clean_click` keeps the original clicks.

    Args:
        log: A log with the columns `click` and `conversion`, 0 or 1.
        share: Share of the logged clicks that is random, below 1.
        seed: Seed of the choice of rows; the same log, share and seed give the same rows.

    Raises:
        ValueError: The share is not in `[0, 1)`, or there are too few rows without a click.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share} of the clicks; from 0 to below 1 makes sense.")
    clicks = log["click"].to_numpy()
    free = np.flatnonzero(clicks == 0)
    number = round(clicks.sum() * share / (1 - share))
    if number > len(free):
        raise ValueError(
            f"share={share}: {number} random clicks are needed, and {len(free)} rows are without "
            "a click."
        )
    noisy = clicks.copy()
    noisy[np.random.default_rng(seed).choice(free, number, replace=False)] = 1
    place, field = log.column_names.index("click"), log.schema.field("click")
    kept = log.append_column("clean_click", log["click"])
    return kept.set_column(place, field, pa.array(noisy, field.type))


def _noisy_log(seed: int, sizes: Sizes, path: str | None) -> dict[str, pa.Table]:
    del path
    return by_day(with_random_clicks(simulated_log(seed, sizes), share=NOISE, seed=seed))


DATA_SETS: Mapping[str, DataSet] = {
    data.name: data
    for data in (
        dataclasses.replace(SIMULATED, tables=_noisy_log, clean_click="clean_click"),
        CENSUS,
        *ALIEXPRESS,
        ALI_CCP,
    )
}
