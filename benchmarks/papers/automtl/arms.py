"""The arms of AutoMTL's tables: data sets, networks and searches, and functions to run them.

To add a data set, add an entry to `DATA_SETS`: its rows, declared as in `benchmarks.funnels`, and
its tasks, the task of AUC0 first. All arms then run on it without changes. The paper's own data
sets are read from their raw files by `benchmarks.datasets`, and have the paper's widths (`sized`).

The settings are the paper's (section 4.1.4). Networks have eight experts; CGC and PLE have four
and four. Every network is trained by Adam at 0.001 with a patience of two epochs. A search uses
SGD at 0.01 with a cosine decay, Adam at 0.001 for α and β, and an auxiliary weight of 0.1. The
following is our choice, because the paper does not say, or because two CPU cores are too slow:

- `Sizes` has width, rows, batches and epochs. The paper's widths are 64 and 128; its batch size and
  the widths of the baselines' experts are not printed.
- PLE has two levels of one layer each. With one level it would be CGC.
- All numbers are projected to one field, the same for all arms.
- Training stops by validation MTL-Loss, the mean of the tasks' cross-entropies, as the search
  does. Test rows are predicted once, by the network of the best epoch.
- An arm's search keeps all experts, and each task then takes the `n` experts with the greatest
  weights. The search does not depend on `n`, so one search serves all values of `n`. The default
  is that of `AutoMTL.chosen_of` and is not tuned.
- A search has only a few hundred steps here. The patience of early stopping, which the paper tunes
  per data set, is therefore five steps. α and β move by 0.001 per step, so they stay nearly even.
- The paper's row "w/o OLES" is DARTS− after a few epochs, because DARTS had collapsed. Both are
  arms here, with as many epochs as any other search.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras as keras

from benchmarks import datasets, funnels
from pipeline.configs import census_income
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.derive import first_of
from tfmtl.automtl.search import search
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import whole
from tfmtl.declare.tasks import Task
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.metrics.tasks import auc
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS, Candidate
from tfmtl.run import train
from tfmtl.training.epochs import best_metrics

TOWER_UNITS = (64,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes(funnels.Sizes):
    """Sizes of simulation, search and training.

    Args:
        impressions: Rows of the simulated log; six tenths train, three tenths test.
        epochs: Greatest number of passes over the training rows, after a search.
        dim: Width of embeddings, and of the searched networks' hidden vectors.
        batch_size: Rows per step.
        expert_units: Widths of the baselines' experts.
        search: Fields of `AutoMTL`, the same for all searches.
        arms: Names of the arms to run.
        counts: Numbers of experts per task in Figure 5, besides the default.
    """

    impressions: int = 40_000
    epochs: int = 10
    dim: int = 16
    batch_size: int = 256
    expert_units: tuple[int, ...] = (128, 64)
    search: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"epochs": 4, "warm_up_epochs": 1, "patience": 5, "trials": 5}
    )
    arms: tuple[str, ...] = ()
    counts: tuple[int, ...] = (1, 2, 6, 8)
    papers_sizes: bool = True

    @property
    def num_experts(self) -> int:
        """Experts of a search and of the baselines."""
        return AutoMTL(**self.search).num_experts


BASELINES = ("single_task", "shared_bottom", "mmoe", "cgc", "ple")
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "random": {"algorithm": "random"},
    "automtl": {},
    "without_interaction": {"interaction": False},
    "homogeneous": {"heterogeneous": False},
    "without_selection": {"selection": False},
    "without_aux": {"aux_weight": 0.0},
    "darts": {"stopping": "none"},
    "darts_minus": {"stopping": "none", "auxiliary_skip": True},
}
"""The fields of `AutoMTL` that differ from the paper's search, by arm."""

ARMS = (*BASELINES, *SEARCHES)
SHORT = ("mmoe", "random", "automtl", "without_aux", "darts")
FULL = Sizes(arms=ARMS)


def part(candidates: Sequence[Candidate], *labels: str) -> list[Candidate]:
    """The candidates with these labels."""
    return [candidate for candidate in candidates if candidate[0] in labels]


REDUCED = Sizes(
    impressions=24_000,
    epochs=5,
    dim=8,
    expert_units=(32, 16),
    search={
        "epochs": 4,
        "warm_up_epochs": 1,
        "patience": 5,
        "trials": 2,
        "num_experts": 4,
        "num_blocks": 2,
        "interactions": part(INTERACTIONS, "skip", "product-inner", "cross-1", "sa-2"),
        "poolings": part(POOLINGS, "sum", "linear"),
        "hidden": part(HIDDEN, "skip", "gate-hidden", "mlp-16", "mlp-64", "conv-3"),
    },
    arms=ARMS,
    counts=(1, 4),
    papers_sizes=False,
)
"""A tenth of the cost: half of the experts, a third of the operations, fewer rows and epochs."""

QUICK = dataclasses.replace(
    REDUCED,
    impressions=12_000,
    epochs=2,
    batch_size=512,
    expert_units=(16, 8),
    search={**REDUCED.search, "epochs": 2, "num_blocks": 1},
    arms=SHORT,
    papers_sizes=False,
)
"""Only to check that everything runs."""

GRIDS: Mapping[str, Sizes] = {"full": FULL, "reduced": REDUCED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """Rows with two or more tasks.

    Args:
        rows: Source and features of the rows.
        tasks: The tasks, in the paper's order of AUCs.
        name: Name in the tables; the name of the rows if not given.
        dim: Width of embeddings in the paper, if the data are its own.
    """

    rows: funnels.DataSet
    tasks: tuple[Task, ...]
    name: str = ""
    dim: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.rows.name)

    @property
    def problem(self) -> ProblemSpec:
        """The declaration of features and tasks."""
        return ProblemSpec(features=self.rows.features, tasks=self.tasks, space=self.rows.space)


FUNNEL = (binary("ctr", label="click"), binary("ctcvr", label="conversion"))
DATA_SETS: Mapping[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(rows=funnels.SIMULATED, tasks=FUNNEL),
        # The simulated user closes or hides ads that are not relevant. Each event has its own
        # probability and is drawn for every impression.
        DataSet(
            rows=funnels.SIMULATED,
            tasks=(*FUNNEL, binary("xout", label="xout"), binary("hide", label="hide")),
            name="simulated_ads_4",
        ),
        DataSet(rows=funnels.CENSUS, tasks=census_income.PROBLEM.tasks),
        *(
            DataSet(rows=rows, tasks=datasets.prepared(rows.name).problem.tasks, dim=dim)
            for rows, dim in (
                (datasets.USER_BEHAVIOR, 64),
                (datasets.IJCAI, 64),
                *((country, 128) for country in datasets.ALIEXPRESS),
            )
        ),
    )
}


def sized(data: DataSet, sizes: Sizes) -> Sizes:
    """The sizes of a run: the paper's on its own data sets, if the whole space is searched.

    The paper prints neither the batch size nor the widths of the baselines' experts; these are
    MTReclib's.
    """
    if data.dim is None or not sizes.papers_sizes:
        return sizes
    search = {**sizes.search, "epochs": 10, "warm_up_epochs": 2, "patience": 20, "trials": 10}
    return dataclasses.replace(
        sizes, dim=data.dim, batch_size=2048, expert_units=(512, 256), search=search, epochs=20
    )


def baseline(name: str, sizes: Sizes) -> dict[str, Any]:
    """The backbone of a designed network.

    Args:
        name: A name in `BASELINES`.
        sizes: Gives the number and widths of the experts.
    """
    units, experts = sizes.expert_units, sizes.num_experts
    halves = {"num_specific": experts // 2, "num_shared": experts // 2}
    arguments: Mapping[str, Mapping[str, Any]] = {
        "single_task": {"bottom_units": units},
        "shared_bottom": {"bottom_units": units},
        "mmoe": {"num_experts": experts, "expert_units": units},
        "cgc": {**halves, "expert_units": units},
        "ple": {**halves, "expert_units": tuple((width,) for width in units)},
    }
    return {"name": name, **arguments[name]}


def experiment(data: DataSet, arm: str, seed: int, sizes: Sizes) -> ExperimentConfig:
    """The experiment of one arm: to train, or to search a network.

    Args:
        data: The data set.
        arm: A name in `ARMS`.
        seed: Seed of the initial weights, of the order of rows and of a search.
        sizes: Sizes of the run.
    """
    model = Model(dim=sizes.dim, tower_units=TOWER_UNITS)
    declared = None
    if arm in SEARCHES:
        settings = {**sizes.search, "tower_units": TOWER_UNITS, **SEARCHES[arm]}
        if narrows(arm):
            settings["n_chosen"] = sizes.num_experts
        declared = AutoMTL(**settings)
    else:
        model = dataclasses.replace(model, backbone=baseline(arm, sizes))
    return ExperimentConfig(
        name=f"{data.name}_{arm}",
        problem=data.problem,
        split=whole(),
        model=model,
        training=Training(
            epochs=sizes.epochs,
            batch_size=sizes.batch_size,
            learning_rate=1e-3,
            patience=2,
            monitor="loss",
            seed=seed,
        ),
        search=declared,
    )


def narrows(arm: str) -> bool:
    """Whether an arm's search keeps all experts, so that each task takes some afterwards."""
    return arm in SEARCHES and arm not in ("random", "without_selection")


def default_count(data: DataSet, sizes: Sizes) -> int:
    """The default number of experts per task."""
    return AutoMTL(**sizes.search).chosen_of(len(data.tasks))


def choosing(architecture: Architecture, count: int) -> Architecture:
    """The network in which each task has its `count` experts with the greatest weights.

    Args:
        architecture: An architecture whose tasks have all experts, with weights.
        count: Experts per task.
    """
    tasks = {
        task: dataclasses.replace(selection, experts=first_of([selection.beta], count)[0])
        for task, selection in architecture.tasks.items()
    }
    read = {expert for selection in tasks.values() for expert in selection.experts}
    experts = [expert for expert in architecture.experts if expert.id in read]
    return dataclasses.replace(architecture, tasks=tasks, experts=experts, n_chosen=count)


def ready(data: DataSet, seed: int, sizes: Sizes, path: str | None) -> tuple[Prepared, Any]:
    """Packed rows and the test table."""
    tables = dict(data.rows.tables(seed, sizes, path))
    return prepare(data.problem, tables), tables["test"]


def searched(data: DataSet, arm: str, seed: int, sizes: Sizes, rows: Prepared) -> dict[str, Any]:
    """Runs an arm's search on training and validation rows.

    Returns:
        As plain data: the `architecture`, the `history` and the `budget`.
    """
    # Without this, Keras keeps all graphs of earlier models in memory.
    keras.backend.clear_session()
    result = search(experiment(data, arm, seed, sizes), rows.data, verbose=0)
    return {
        "architecture": result.architecture.to_json(),
        "history": result.history,
        "budget": dict(result.budget),
    }


def trained(
    data: DataSet, declared: ExperimentConfig, rows: Prepared, test: Any
) -> dict[str, float]:
    """Trains a network from new weights and tests it.

    Returns:
        Test figures by metric; `validation_loss` and `epochs` of the best epoch; `train_cpu`, the
        seconds of all threads; and `parameters`, the number of parameters without the tables.
    """
    keras.backend.clear_session()
    start = time.process_time()
    trained_model = train(declared, rows.data, verbose=0)
    spent = time.process_time() - start
    metrics = trained_model.model.evaluate(rows.test.batches(1 << 14))
    figures = {name: metrics[name] for name in metrics if "/auc@" in name}
    if data.rows.true:
        scores = trained_model.model.predict_rows(rows.test.batches(1 << 14)).predictions
        for task in (task.name for task in data.tasks if task.name in data.rows.true):
            labels = test[data.rows.true[task]].to_numpy()
            figures[f"{task}/auc_true@{data.rows.space}"] = auc(labels, scores[task])
    return {
        **figures,
        "mean_auc": metrics["mean_auc"],
        "mtl_loss": metrics["loss"],
        "validation_loss": best_metrics(trained_model)["loss"],
        "epochs": float(trained_model.best_epoch + 1),
        "train_cpu": spent,
        "parameters": float(_parameters(trained_model.model)),
    }


def epoch_seconds(data: DataSet, arm: str, sizes: Sizes, rows: Any, total: float) -> float:
    """Seconds that an epoch of training `total` rows takes here; NaN for a search.

    Args:
        data: The data set.
        arm: A name in `ARMS`.
        sizes: Sizes of the run.
        rows: Some rows.
        total: Number of training rows.
    """
    if arm in SEARCHES:
        return math.nan
    declared = experiment(data, arm, 1, dataclasses.replace(sizes, epochs=1))

    def seconds(steps: int) -> float:
        keras.backend.clear_session()
        repeated = rows.take(np.arange(steps * sizes.batch_size) % len(rows))
        few = {name: rows.slice(0, 64) for name in ("validation", "test")}
        made = prepare(data.problem, {"train": repeated, **few})
        start = time.perf_counter()
        train(declared, made.data, verbose=0)
        return time.perf_counter() - start

    return max(0.0, (seconds(6) - seconds(2)) / 4) * total / sizes.batch_size


def standing(searched: Mapping[str, Any], count: int | None) -> dict[str, float]:
    """Figures of a search itself.

    Args:
        searched: The result of the function `searched`.
        count: Experts per task, if each task takes some of them.

    Returns:
        `search_cpu`. For a search with epochs: `skips`, the number in all its blocks, and
            `stopped`, the share of operations whose weights were stopped. If tasks weight experts:
            `distance`, the mean Euclidean distance between two tasks' weights, and `distinct`, the
            number of experts that at least one task uses.
    """
    architecture = Architecture.from_json(searched["architecture"])
    figures = {"search_cpu": float(searched["budget"]["cpu_seconds"])}
    last = searched["history"][-1]
    if "epoch" in last:
        figures["skips"] = float(last["n_skip"])
        if last.get("difference"):
            figures["stopped"] = len(last["frozen"]) / len(last["difference"])
    weights = [selection.beta for selection in architecture.tasks.values()]
    if count is not None and None not in weights:
        pairs = itertools.combinations(np.array(weights), 2)
        figures["distance"] = float(np.mean([np.linalg.norm(a - b) for a, b in pairs]))
        figures["distinct"] = float(len(choosing(architecture, count).experts))
    return figures


def _parameters(model: MultiTaskModel) -> int:
    tables = {id(variable) for variable in model.embedding.trainable_variables}
    without_tables = (v for v in model.trainable_variables if id(v) not in tables)
    return sum(math.prod(variable.shape) for variable in without_tables)
