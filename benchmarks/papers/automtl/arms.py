"""The arms of AutoMTL's tables as data: data sets, networks and searches, and how each is run.

A further data set is an entry of `DATA_SETS`: rows as `benchmarks.funnels` declares them, and its
tasks, AUC0's first. All arms then run on it as they are.

Settings are the paper's (section 4.1.4): eight experts, four and four of CGC and PLE, Adam at 0.001
and a patience of two epochs for every network that is trained, searched or not; of a search SGD at
0.01 falling by a cosine, Adam at 0.001 for α and β, and an auxiliary weight of 0.1. What it leaves
open, or what two CPU cores have no time for, is our choice:

- `Sizes` has width, rows, batches and epochs. The paper's widths are 64 and 128; its batch size and
  the widths of the baselines' experts are not printed.
- PLE has two levels, of one layer each: of one level it would be CGC.
- All numbers are projected to one field, the same for all arms.
- Training stops by validation MTL-Loss, the mean of the tasks' cross-entropies, as the search
  does. Test rows are predicted once, by the network of the best epoch.
- An arm's search keeps all experts, and each task then takes its `n` heaviest: `n` has no part in
  the search, so that one search serves a sweep over it. It is `AutoMTL.chosen_of`'s and not tuned.
- A search has a few hundred steps here, so that the patience of early stopping, which the paper
  tunes for each data set, is five steps, and α and β, which move by 0.001 a step, stay near even.
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

from benchmarks import funnels
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
    """How much is simulated, searched and trained.

    Args:
        impressions: Rows of the simulated log; six tenths train, three tenths test.
        epochs: Most passes over the training rows, after a search.
        dim: Width of embeddings, and of the searched networks' hidden vectors.
        batch_size: Rows a step.
        expert_units: Widths of the baselines' experts.
        search: Fields of `AutoMTL`, the same for all searches.
        arms: What is run.
        counts: Experts a task in Figure 5, besides the default.
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
"""What sets a search apart from AutoMTL's, as fields of `AutoMTL`."""

ARMS = (*BASELINES, *SEARCHES)
SHORT = ("mmoe", "random", "automtl", "without_aux", "darts")
FULL = Sizes(arms=ARMS)


def part(candidates: Sequence[Candidate], *labels: str) -> list[Candidate]:
    """The candidates of these labels."""
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
)
"""To see that all runs."""

GRIDS: Mapping[str, Sizes] = {"full": FULL, "reduced": REDUCED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """Rows with two tasks or more.

    Args:
        rows: Where they are from and what models see.
        tasks: What is asked, in the paper's order of AUCs.
        name: In the tables; that of the rows if not given.
    """

    rows: funnels.DataSet
    tasks: tuple[Task, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.rows.name)

    @property
    def problem(self) -> ProblemSpec:
        """The declaration of its features and tasks."""
        return ProblemSpec(features=self.rows.features, tasks=self.tasks, space=self.rows.space)


FUNNEL = (binary("ctr", label="click"), binary("ctcvr", label="conversion"))
DATA_SETS: Mapping[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(rows=funnels.SIMULATED, tasks=FUNNEL),
        # An ad that is closed and one that is hidden: what the simulated user does to ads that do
        # not suit, each drawn for every impression with a probability of its own.
        DataSet(
            rows=funnels.SIMULATED,
            tasks=(*FUNNEL, binary("xout", label="xout"), binary("hide", label="hide")),
            name="simulated_ads_4",
        ),
        DataSet(rows=funnels.CENSUS, tasks=census_income.PROBLEM.tasks),
    )
}


def baseline(name: str, sizes: Sizes) -> dict[str, Any]:
    """The backbone of a network that people designed.

    Args:
        name: Of `BASELINES`.
        sizes: Has the experts' number and widths.
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
    """One arm: an experiment to train, or to search a network for.

    Args:
        data: Its rows.
        arm: A name of `ARMS`.
        seed: Of initial weights and the order of rows, and of a search.
        sizes: How much.
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
    """Whether an arm's search leaves all experts, of which each task takes some afterwards."""
    return arm in SEARCHES and arm not in ("random", "without_selection")


def default_count(data: DataSet, sizes: Sizes) -> int:
    """Experts a task where nothing else is said."""
    return AutoMTL(**sizes.search).chosen_of(len(data.tasks))


def choosing(architecture: Architecture, count: int) -> Architecture:
    """The network in which each task has the `count` experts that it weighs most.

    Args:
        architecture: One whose tasks have all experts, and weights of them.
        count: How many.
    """
    tasks = {
        task: dataclasses.replace(selection, experts=first_of([selection.beta], count)[0])
        for task, selection in architecture.tasks.items()
    }
    read = {expert for selection in tasks.values() for expert in selection.experts}
    experts = [expert for expert in architecture.experts if expert.id in read]
    return dataclasses.replace(architecture, tasks=tasks, experts=experts, n_chosen=count)


def ready(data: DataSet, seed: int, sizes: Sizes, path: str | None) -> tuple[Prepared, Any]:
    """Packed rows, and the test table."""
    tables = dict(data.rows.tables(seed, sizes, path))
    return prepare(data.problem, tables), tables["test"]


def searched(data: DataSet, arm: str, seed: int, sizes: Sizes, rows: Prepared) -> dict[str, Any]:
    """Runs an arm's search on training and validation rows.

    Returns:
        As plain data: the `architecture`, the `history` and the `budget`.
    """
    # Keras keeps every graph it has built.
    keras.backend.clear_session()
    found = search(experiment(data, arm, seed, sizes), rows.data, verbose=0)
    return {
        "architecture": found.architecture.to_json(),
        "history": found.history,
        "budget": dict(found.budget),
    }


def trained(
    data: DataSet, declared: ExperimentConfig, rows: Prepared, test: Any
) -> dict[str, float]:
    """Trains a network, from new weights, and tests it.

    Returns:
        Test figures by metric; `validation_loss` and `epochs`, of the best epoch;
        `train_cpu`, seconds of all threads; and `parameters`, those of the tables left out.
    """
    keras.backend.clear_session()
    start = time.process_time()
    found = train(declared, rows.data, verbose=0)
    spent = time.process_time() - start
    metrics = found.model.evaluate(rows.test.batches(1 << 14))
    figures = {name: metrics[name] for name in metrics if "/auc@" in name}
    if data.rows.true:
        scores = found.model.predict_rows(rows.test.batches(1 << 14)).predictions
        for task in (task.name for task in data.tasks if task.name in data.rows.true):
            labels = test[data.rows.true[task]].to_numpy()
            figures[f"{task}/auc_true@{data.rows.space}"] = auc(labels, scores[task])
    return {
        **figures,
        "mean_auc": metrics["mean_auc"],
        "mtl_loss": metrics["loss"],
        "validation_loss": best_metrics(found)["loss"],
        "epochs": float(found.best_epoch + 1),
        "train_cpu": spent,
        "parameters": float(_parameters(found.model)),
    }


def standing(searched: Mapping[str, Any], count: int | None) -> dict[str, float]:
    """What can be said of a search itself.

    Args:
        searched: As `searched` returns it.
        count: Experts a task, where each takes some of all.

    Returns:
        `search_cpu`; for a search with epochs `skips`, of all its blocks, and `stopped`, the share
        of operations whose weights were stopped; and where tasks weigh experts `distance`, the
        mean Euclidean distance between two tasks' weights, and `distinct`, how many experts some
        task has.
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
    own = (v for v in model.trainable_variables if id(v) not in tables)
    return sum(math.prod(variable.shape) for variable in own)
