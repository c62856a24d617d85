"""The search for an early-stage model's loss weights (Wang et al., AdKDD 2023, §3.2.3)."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence

from absl import logging

from tfmtl.declare.experiment import ExperimentConfig, Tuning
from tfmtl.durable import Damaged, read_json
from tfmtl.errors import SpecError
from tfmtl.features.rows import PackedData
from tfmtl.plain import write_json
from tfmtl.run import train
from tfmtl.training.checkpoints import forget
from tfmtl.training.epochs import Validate, best_metrics
from tfmtl.tuning.space import trial_experiment
from tfmtl.tuning.tune import ExperimentTuner

CQS = (0.25, 0.5, 1.0, 1.5, 2.0)
TEACHER = (0.0, 0.5, 1.0, 2.0, 4.0)
PATH = "model.balancer.task_weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSearch:
    """The result of a search for loss weights.

    Attributes:
        experiment: The experiment with the chosen weights, and recall as its monitor.
        weights: Weight by task.
        trials: One row per trial: the weights, `recall`, `ne` and `allowed`; best recall first.
        most_ne: Largest normalised entropy that a trial may have.
    """

    experiment: ExperimentConfig
    weights: Mapping[str, float]
    trials: Sequence[Mapping[str, float]]
    most_ne: float


def tune_loss_weights(
    experiment: ExperimentConfig,
    data: PackedData,
    *,
    validate: Validate,
    directory: str,
    recall: str | None = None,
    candidates: Mapping[str, Sequence[float]] | None = None,
    worse_ne: float = 0.001,
    verbose: int = 0,
) -> WeightSearch:
    """Chooses the weights of the quality and teacher losses by recall, without a loss in clicks.

    Every combination of weights is trained and evaluated on validation rows. The one with the best
    recall is chosen, among those whose normalised entropy of clicks is at most `1 + worse_ne` times
    that of a dedicated click model: the same model with weight 0 for the quality task. The recall
    is then the best of many trials, so report it on other requests. Trials are kept in `directory`;
    a search that was stopped continues.

    Args:
        experiment: With `value`, `replay` and the balancer `fixed`.
        data: Training and validation rows.
        validate: Gives recall, from `replay_validation`.
        directory: Folder of the trials, with one folder per experiment. Other rows need another
            directory.
        recall: The metric to choose by, `soft_recall@K` at the experiment's `replay.k` by default.
        candidates: Weights to try, by task; by default 0.25 to 2 for the value's quality task and
            0 to 4 for the task `teacher`, if there is one.
        worse_ne: Share by which normalised entropy may exceed the dedicated model's.
        verbose: As in `tfmtl.run.train`.

    Raises:
        SpecError: The experiment has no `value` or no `replay`, or another balancer, or a
            candidate is not a task.
    """
    candidates, recall = _checked(experiment, candidates, recall)
    value = experiment.value
    assert value is not None and value.cqs is not None
    ne = experiment.problem.metric_name(value.ctr, "ne")
    experiment = _with_weights(experiment, candidates)
    # A folder per experiment, so that trials of another one are not used.
    key = hashlib.sha256(json.dumps([experiment.to_json(), candidates, recall]).encode())
    directory = os.path.join(directory, key.hexdigest()[:16])
    monitored = experiment.replace_path("training.monitor", recall)
    tuning = Tuning(
        space={f"{PATH}.{task}": list(values) for task, values in candidates.items()},
        algorithm="grid",
        trials=math.prod(map(len, candidates.values())),
        epochs=experiment.training.epochs,
    )
    dedicated = _dedicated(monitored, data, validate, directory, value.cqs, verbose)
    most_ne = (1 + worse_ne) * dedicated[ne]
    tuner = ExperimentTuner(
        dataclasses.replace(monitored, tuning=tuning),
        directory=os.path.join(directory, "grid"),
        validate=validate,
        verbose=verbose,
    )
    tuner.search(data=data)
    trials = []
    for trial in tuner.finished():
        metrics = tuner.metrics_of(trial)
        weights = {task: trial.hyperparameters.values[f"{PATH}.{task}"] for task in candidates}
        judged = {"recall": metrics[recall], "ne": metrics[ne], "allowed": metrics[ne] <= most_ne}
        trials.append({**weights, **judged})
    # With equal recall the lower entropy wins, so that the order of trials does not matter.
    trials.sort(key=lambda row: (-row["recall"], row["ne"]))
    allowed = [row for row in trials if row["allowed"]]
    if not allowed:
        logging.warning(
            "No weights keep the normalised entropy of clicks below %.5f; the least is taken.",
            most_ne,
        )
        allowed = sorted(trials, key=lambda row: row["ne"])
    chosen = {f"{PATH}.{task}": allowed[0][task] for task in candidates}
    best = trial_experiment(monitored, tuning, chosen)
    return WeightSearch(
        experiment=dataclasses.replace(best, tuning=experiment.tuning),
        weights=dict(best.model.balancer["task_weights"]),
        trials=tuple(trials),
        most_ne=most_ne,
    )


def _checked(
    experiment: ExperimentConfig,
    candidates: Mapping[str, Sequence[float]] | None,
    recall: str | None,
) -> tuple[Mapping[str, Sequence[float]], str]:
    value, replay = experiment.value, experiment.replay
    if value is None or value.cqs is None or replay is None:
        raise SpecError(
            "tune_loss_weights chooses by recall of a total value with quality; the experiment "
            "needs value=TotalValue(…) and replay=Replay(…)."
        )
    if experiment.model.balancer.get("name") != "fixed":
        raise SpecError(
            f"tune_loss_weights tunes the weights of balancer 'fixed'; the experiment's is "
            f"{experiment.model.balancer.get('name')!r}."
        )
    names = experiment.problem.task_names
    if candidates is None:
        candidates = {value.cqs: CQS, **({"teacher": TEACHER} if "teacher" in names else {})}
    for task in candidates:
        if task not in names:
            raise SpecError(f"candidates: {task!r} is no task; tasks are {list(names)}.")
    return candidates, recall or f"soft_recall@{replay.k}"


def _with_weights(
    experiment: ExperimentConfig, candidates: Mapping[str, Sequence[float]]
) -> ExperimentConfig:
    weights = dict(experiment.model.balancer.get("task_weights") or {})
    balancer = dict(experiment.model.balancer)
    balancer["task_weights"] = {**dict.fromkeys(candidates, 1.0), **weights}
    return experiment.replace_path("model.balancer", balancer)


def _dedicated(
    experiment: ExperimentConfig,
    data: PackedData,
    validate: Validate,
    directory: str,
    cqs: str,
    verbose: int,
) -> dict[str, float]:
    path = os.path.join(directory, "dedicated.json")
    if os.path.exists(path):
        try:
            values: dict[str, float] = read_json(path)
            return values
        except Damaged as damage:
            logging.warning("%s. The dedicated model is trained anew.", damage)
    folder = os.path.join(directory, "dedicated")
    alone = experiment.replace_path(f"{PATH}.{cqs}", 0.0)
    # Monitors clicks only: recall also depends on the quality task, which is not trained here.
    alone = alone.replace_path("training.monitor", "mean_auc")
    trained = train(alone, data, checkpoint_dir=folder, verbose=verbose, validate=validate)
    metrics = best_metrics(trained)
    os.makedirs(directory, exist_ok=True)
    write_json(path, metrics)
    forget(folder)
    return metrics
