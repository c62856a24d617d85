"""The arms of the early-stage tables: their training data, and the measurement of one seed.

All arms of a seed use one world, one log and one set of constants. Nothing is tuned per arm.
Features, network and training are those of the configuration `early_stage`. All models train for
the same number of epochs at a falling rate, and keep the epoch with the lowest loss on the log's
last day.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tf_keras as keras
from absl import logging

from benchmarks.clock import Clock
from pipeline.configs.early_stage import EXPERIMENT
from tfmtl.declare import early_stage
from tfmtl.declare.problem import ProblemSpec, Task, binary
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.metrics.bootstrap import Ratio, paired_intervals
from tfmtl.metrics.tasks import log_loss
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import divergence_at, recall_at
from tfmtl.run import train
from tfmtl.serving.cost import Cost, cost_of, request_macs
from tfmtl.simulator.constants import Constants, Funnel, funnel_constants
from tfmtl.simulator.early_stage import consolidated_log
from tfmtl.simulator.funnel import EarlyStage, final_stage, logging_policy
from tfmtl.simulator.model_stage import Predict, model_stage, predictor
from tfmtl.simulator.online import OnlineTest, run_online
from tfmtl.simulator.retrieval import Candidates, retrieve
from tfmtl.simulator.world import World, draw_world

TRAIN_DAYS, DAYS = 9, 12  # Training days, then one day each for validation, test and A/B.
SHOWN, AUCTION, ALL = ("R1", "R2"), ("R1", "R2", "R3"), ("R1", "R2", "R3", "R4")
FINAL_ONLY, EARLY_ONLY = AUCTION, ("R1", "R2", "R4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training data and losses of one model.

    Args:
        tasks: Tasks of the model.
        rows: Types of its training rows.
        weights: Weights of the tasks' losses; 1 for tasks that are not named.
    """

    tasks: tuple[Task, ...]
    rows: tuple[str, ...] = ALL
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _multi_task(teacher: str = "separate", rows: Sequence[str] = ALL) -> Recipe:
    return Recipe(
        tasks=early_stage.tasks(teacher=teacher),
        rows=tuple(rows),
        weights=early_stage.loss_weights(teacher=teacher),
    )


def _only(names: Sequence[str], teacher: str = "separate") -> tuple[Task, ...]:
    return tuple(t for t in early_stage.tasks(teacher=teacher) if t.name in names)


RECIPES: Mapping[str, Recipe] = {
    "mt": _multi_task(),
    "mt_no_teacher": _multi_task("none"),
    "mt_no_augmentation": _multi_task(rows=SHOWN),
    "mt_teacher_on_ctr": _multi_task("shared"),
    "mt_both_teachers": _multi_task("both"),
    "mt_final_only": _multi_task(rows=FINAL_ONLY),
    "mt_early_only": _multi_task(rows=EARLY_ONLY),
    "dedicated_ctr": Recipe(tasks=_only(["ctr", "teacher"]), weights={"teacher": 2.0}),
    "dedicated_cqs": Recipe(tasks=_only(["cqs"])),
    # The model before the framework, without augmentation and teacher (§3.2): impressions only.
    "production_ctr": Recipe(tasks=_only(["ctr"]), rows=SHOWN),
    "production_cqs": Recipe(tasks=_only(["cqs"]), rows=SHOWN),
    "xout": Recipe(tasks=(binary("xout", label="xout"),), rows=SHOWN),
    "hide": Recipe(tasks=(binary("hide", label="hide"),), rows=SHOWN),
}
ARMS: Mapping[str, Mapping[str, str]] = {
    "mt": {"ctr": "mt", "cqs": "mt"},
    "mt_no_teacher": {"ctr": "mt_no_teacher", "cqs": "mt_no_teacher"},
    "mt_no_augmentation": {"ctr": "mt_no_augmentation", "cqs": "mt_no_augmentation"},
    "mt_teacher_on_ctr": {"ctr": "mt_teacher_on_ctr", "cqs": "mt_teacher_on_ctr"},
    "mt_both_teachers": {"ctr": "mt_both_teachers", "cqs": "mt_both_teachers"},
    "mt_final_only": {"ctr": "mt_final_only", "cqs": "mt_final_only"},
    "mt_early_only": {"ctr": "mt_early_only", "cqs": "mt_early_only"},
    "dedicated": {"ctr": "dedicated_ctr", "cqs": "dedicated_cqs"},
    "ctr_and_cqs": {"ctr": "production_ctr", "cqs": "production_cqs"},
    "ctr_and_events": {"ctr": "production_ctr", "xout": "xout", "hide": "hide"},
}
"""The recipe of each prediction, by arm. The score is the sum of the events times their
scalars."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the simulation.

    Args:
        requests: Logged requests; the last tenth is for validation.
        test: Requests of the test log, and of the replay.
        online: Requests of the A/B test.
        epochs: Passes over the training rows.
    """

    requests: int = 40_000
    test: int = 3_000
    online: int = 3_000
    epochs: int = 3


def world_constants(clickbait: float | None = None) -> Constants:
    """The constants of all tables; `clickbait` is varied in the sensitivity sweep."""
    constants = funnel_constants()
    if clickbait is None:
        return constants
    events = dict(constants.events)
    events["click"] = dataclasses.replace(events["click"], clickbait=clickbait)
    return dataclasses.replace(constants, events=events)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The results of one seed.

    Attributes:
        recalls: Soft recall at K by request, by arm.
        divergences: Total-value divergence on the replay, by arm.
        offline: Test metrics by recipe: `ne@imp` and `mse@final`.
        online: The A/B test.
        costs: Cost of a prediction, by recipe.
        seconds: Seconds by part of the work.
        rows: Rows of the log by type.
    """

    recalls: Mapping[str, Ratio]
    divergences: Mapping[str, Ratio]
    offline: Mapping[str, Mapping[str, float]]
    online: OnlineTest
    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]
    rows: Mapping[str, int]


def study(
    seed: int,
    sizes: Sizes,
    *,
    arms: Sequence[str] = tuple(ARMS),
    clickbait: float | None = None,
    trained: Callable[[], object] = lambda: None,
) -> Study:
    """Simulates a log, trains the arms' models on it and measures them.

    Args:
        seed: Seed of world, log, models and test requests.
        sizes: Sizes of the simulation.
        arms: Names in `ARMS`.
        clickbait: The clickbait term of the click logit, if it differs from the constants.
        trained: Called after each model, to show progress.
    """
    clock, seconds = Clock(), {}
    funnel = Funnel()
    world = draw_world(seed, days=DAYS, constants=world_constants(clickbait))
    policy = logging_policy(world, seed=seed)
    log = consolidated_log(
        world, funnel, policy, requests=sizes.requests, seed=seed, days=TRAIN_DAYS + 1
    )
    after, test_day = sizes.requests, {"days": 1, "first_day": TRAIN_DAYS + 1}
    test = consolidated_log(
        world, funnel, policy, requests=sizes.test, first_request=after, seed=seed, **test_day
    )
    seconds["log"] = clock.lap()
    names = list(dict.fromkeys(r for arm in arms for r in ARMS[arm].values()))
    predictors: dict[str, Predict] = {}
    offline: dict[str, dict[str, float]] = {}
    costs: dict[str, Cost] = {}
    inputs: tuple[Any, ...] = ()
    for name in names:
        recipe = RECIPES[name]
        if (recipe.rows, recipe.tasks) != inputs:
            inputs, prepared = (recipe.rows, recipe.tasks), _prepare(log, recipe)
        model = _train(recipe, prepared, seed, sizes)
        predictors[name] = predictor(world, model, prepared.preprocessor)
        offline[name] = _offline(model, prepared.preprocessor, test)
        costs[name] = cost_of(model)
        trained()
        seconds[name] = clock.lap()
        logging.info("%s: %s in %.0f s", name, offline[name], seconds[name])
    stages = {arm: _stage(world, ARMS[arm], predictors) for arm in arms}
    candidates = retrieve(
        world,
        funnel,
        requests=sizes.test,
        first_request=after + sizes.test,
        seed=seed,
        day=TRAIN_DAYS + 1,
    )
    recalls, divergences = _replay(world, funnel, candidates, stages, seed)
    seconds["replay"] = clock.lap()
    online = run_online(
        world,
        funnel,
        stages,
        requests=sizes.online,
        first_request=after + 2 * sizes.test,
        day=TRAIN_DAYS + 2,
        seed=seed,
        costs={arm: arm_macs(costs, arm) for arm in arms},
    )
    seconds["online"] = clock.lap()
    kinds = pc.value_counts(log["row_type"]).to_pylist()
    return Study(
        recalls=recalls,
        divergences=divergences,
        offline=offline,
        online=online,
        costs=costs,
        seconds=seconds,
        rows={kind["values"]: kind["counts"] for kind in kinds},
    )


def _prepare(log: pa.Table, recipe: Recipe) -> Prepared:
    kept = log.filter(pc.is_in(log["row_type"], pa.array(recipe.rows)))
    last = pc.equal(kept["day"], TRAIN_DAYS)
    validation = kept.filter(last)
    return prepare(
        _problem(recipe),
        {"train": kept.filter(pc.invert(last)), "validation": validation, "test": validation},
    )


def _problem(recipe: Recipe) -> ProblemSpec:
    return ProblemSpec(
        features=EXPERIMENT.problem.features,
        tasks=recipe.tasks,
        indicators=EXPERIMENT.problem.indicators,
    )


def _train(recipe: Recipe, prepared: Prepared, seed: int, sizes: Sizes) -> MultiTaskModel:
    balancer = {**EXPERIMENT.model.balancer, "task_weights": dict(recipe.weights)}
    experiment = dataclasses.replace(
        EXPERIMENT,
        problem=_problem(recipe),
        model=dataclasses.replace(EXPERIMENT.model, balancer=balancer),
        # Every arm is trained to the end, so that no task stops the training of another.
        training=dataclasses.replace(
            EXPERIMENT.training, epochs=sizes.epochs, patience=sizes.epochs, seed=seed
        ),
        # One model alone may not predict all parts of the total value.
        value=None,
        replay=None,
    )
    # Without this, Keras keeps all graphs of earlier models in memory.
    keras.backend.clear_session()
    return train(experiment, prepared.data, verbose=0).model


def _offline(model: Any, preprocessor: Any, test: pa.Table) -> dict[str, float]:
    """Normalised entropy on impressions and squared error of the score on final-stage rows.

    The entropy uses the true click probabilities: it is the expectation of the metric over clicks,
    with far less noise than a single draw. The probabilities are those at the position shown,
    which no model knows. They are the same for all arms.
    """
    figures: dict[str, float] = {}
    packed = preprocessor(test.select([c for c in test.column_names if c in _columns(model)]))
    predictions = {t: p.numpy() for t, p in model.predict_served(packed).items()}
    kind = np.asarray(test["row_type"])
    if "ctr" in predictions:
        rows = kind == "R1"
        truth = np.asarray(test["true_ctr"])[rows]
        rate = truth.mean()
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        figures["ne@imp"] = log_loss(truth, predictions["ctr"][rows]) / entropy
        unseen = ~np.isin(kind, SHOWN) & (np.asarray(test["ctr_traffic"]) == 1)
        truth = np.asarray(test["true_ctr"])[unseen]
        figures["calibration@not_shown"] = predictions["ctr"][unseen].mean() / truth.mean()
    if "cqs" in predictions:
        rows = np.isin(kind, AUCTION)
        final = np.asarray(test["final_cqs"])[rows]
        figures["mse@final"] = float(np.mean((predictions["cqs"][rows] - final) ** 2) / final.var())
    return figures


def _columns(model: Any) -> set[str]:
    return set(model.problem.feature_columns())


def _stage(world: World, sources: Mapping[str, str], predictors: Mapping[str, Predict]):
    if "cqs" in sources:
        return model_stage(world, {task: predictors[name] for task, name in sources.items()})
    scalars = {event: world.constants.scalars[event] for event in sources if event != "ctr"}

    def score(candidates: Candidates) -> dict[str, Any]:
        parts = [s * predictors[sources[e]](candidates)[e] for e, s in scalars.items()]
        return {"cqs": sum(parts)}

    return model_stage(world, {"ctr": predictors[sources["ctr"]], "cqs": score})


def _replay(
    world: World,
    funnel: Funnel,
    candidates: Candidates,
    stages: Mapping[str, EarlyStage],
    seed: int,
) -> tuple[dict[str, Ratio], dict[str, Ratio]]:
    final = final_stage(world, candidates, seed=seed).total_value
    log = ReplayLog(
        request=np.repeat(candidates.request, candidates.ad.shape[1]),
        ad=candidates.ad.ravel(),
        final_value=final.ravel(),
    )
    recalls, divergences = {}, {}
    for arm, stage in stages.items():
        early = stage(candidates).ravel()
        recalls[arm] = recall_at(log, early, funnel.passed).ratios()["soft_recall"]
        divergences[arm] = divergence_at(log, early, funnel.passed)
    return recalls, divergences


def differences(result: Study, control: str, arm: str) -> dict[str, tuple[float, float, float]]:
    """The differences of an arm from another, by metric: value and 95 % interval over requests.

    They are relative, except for `survey_score@imp`, which is absolute as in the paper. `ne@imp`
    and `mse@final` belong to one model each and have no interval here.
    """
    figures: dict[str, tuple[float, float, float]] = {}
    replayed = {"soft_recall@20": result.recalls, "tvd_replayed@20": result.divergences}
    for name, ratios in replayed.items():
        (pair,) = paired_intervals(ratios[control], ratios[arm], seed=0)
        figures[name] = dataclasses.astuple(pair.relative)
    for name, pair in result.online.compare(control, arm).items():
        absolute = name == "survey_score@imp"
        figures[name] = dataclasses.astuple(pair.difference if absolute else pair.relative)
    for metric, task in (("ne@imp", "ctr"), ("mse@final", "cqs")):
        sources = [ARMS[name].get(task, "") for name in (control, arm)]
        before, after = (result.offline.get(s, {}).get(metric, np.nan) for s in sources)
        figures[metric] = (after / before - 1, np.nan, np.nan)
    return figures


def arm_macs(costs: Mapping[str, Cost], arm: str) -> float:
    """Multiply-adds per request of all models of an arm, without a cache of ad vectors."""
    models = [costs[name] for name in dict.fromkeys(ARMS[arm].values())]
    return request_macs(models, ads=Funnel().retrieved, cached=0.0)
