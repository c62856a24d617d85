"""Trains a multi-task model and its single-task twins, and reports what sharing gave."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from tfmtl import registry
from tfmtl.declare.conversions import trained_tasks
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.features.rows import READ_ROWS, PackedData, Rows
from tfmtl.metrics.bootstrap import Interval
from tfmtl.metrics.metric import Metric
from tfmtl.metrics.packed import Predicted, predict_packed
from tfmtl.transfer.gates import GateUse
from tfmtl.transfer.intervals import gain_metric, over_rows, over_seeds
from tfmtl.transfer.report import TaskTransfer, TransferReport, epoch_cosines
from tfmtl.transfer.runs import Outcome, Watch, digest_of, outcome_of
from tfmtl.transfer.twins import TaskRows, twin_of


def negative_transfer(
    experiment: ExperimentConfig,
    data: PackedData,
    test_rows: Rows,
    *,
    seeds: Sequence[int] | int = 3,
    metric: str = "auc",
    regression_metric: str = "mse",
    log_every: int | None = None,
    log_rows: int = 4096,
    samples: int = 1000,
    level: float = 0.95,
    directory: str | None = None,
    verbose: int = 1,
) -> TransferReport:
    """Compares a multi-task model with one single-task twin per served task, seed by seed.

        report = tfmtl.negative_transfer(experiment, prepared.data, prepared.test, seeds=5)
        print(report)
        tfmtl.draw_transfer(report)

    Twins are made by `tfmtl.transfer.twins.twin_of`: the same backbone, sizes, settings, seed and
    rows, with one task alone. It takes `seeds · (1 + served tasks)` trainings.

    Args:
        experiment: The multi-task experiment. Its training seed gives way to `seeds`.
        data: Training and validation rows.
        test_rows: Rows on which all are measured, each task on its own space.
        seeds: Seeds, or how many, from the experiment's own on. From two on intervals are
            Student's over seeds; of a single one, a paired bootstrap over requests (or users),
            or rows where neither is declared.
        metric: What the gain of binary tasks is measured in: any of their metrics that is best
            high or low, such as `auc`, `gauc`, `log_loss`, `ne` or `pr_auc`.
        regression_metric: That of regressions, such as `mse`, `rmse`, `mae` or `r2`.
        log_every: Steps between two measurements of the gradients' cosines; four times an epoch
            by default. An epoch without one is NaN.
        log_rows: Training rows to measure them on.
        samples: Resamples of the bootstrap; each measures both models again, so that fewer spare
            minutes where there are millions of test rows.
        level: Of the intervals.
        directory: Where results are kept, training by training, in a folder for each experiment,
            seed and rows: what is there is not trained again, and a training that was killed
            goes on from its last checkpoint. Nothing is kept without it.
        verbose: 1 shows a bar over the trainings, 2 also a line per epoch, 0 nothing.

    Raises:
        SpecError: Fewer than two tasks are trained, a metric is not known, or `seeds` has none or
            one twice.
        DataError: See `tfmtl.run.train`.
    """
    problem, part = experiment.problem, _backbone(experiment)
    trained = trained_tasks(problem, experiment.model.conv_semantics or part.conv_semantics)
    compared = _compared(problem, trained, metric, regression_metric)
    experiment = _measuring(experiment, compared)
    problem = experiment.problem
    chosen = _seeds(experiment, seeds)
    steps = max(data.train.count() // experiment.training.batch_size, 1)
    watch = None
    if part.shares:
        watch = Watch(every=log_every or max(steps // 4, 1), rows=log_rows)
    # The rows of every twin follow from these and its problem, so one digest serves all trainings.
    digest = "" if directory is None else digest_of(data.train, data.validation, test_rows)
    run = functools.partial(
        outcome_of, directory=directory, rows_digest=digest, verbose=2 if verbose == 2 else 0
    )
    together, alone = _train_all(
        experiment, data, test_rows, list(compared), chosen, watch, run, verbose
    )
    tasks = {
        name: _over_seeds(problem, name, chosen_metric, alone[name], together, level)
        for name, chosen_metric in compared.items()
    }
    over = "seeds"
    if len(chosen) == 1:
        truth = _truth(test_rows)
        over = _unit(problem, truth)
        for name, chosen_metric in compared.items():
            both = (alone[name][0], together[0])
            interval = _over_rows(problem, name, chosen_metric, truth, both, samples, level)
            tasks[name] = dataclasses.replace(tasks[name], gain=interval)
    return TransferReport(
        seeds=chosen,
        tasks=tasks,
        cosines=None if watch is None else epoch_cosines([o.log for o in together], trained, steps),
        gates=_mean_entropy([o.gates for o in together]),
        over=over,
        level=level,
    )


def _train_all(
    experiment: ExperimentConfig,
    data: PackedData,
    test_rows: Rows,
    tasks: Sequence[str],
    seeds: Sequence[int],
    watch: Watch | None,
    run: Callable[..., Outcome],
    verbose: int,
) -> tuple[list[Outcome], dict[str, list[Outcome]]]:
    """Trains all models: the multi-task outcomes per seed, and those of each task's twins."""
    problem = experiment.problem
    together: list[Outcome] = []
    alone: dict[str, list[Outcome]] = {name: [] for name in tasks}
    total = len(seeds) * (1 + len(tasks))
    with tqdm(total=total, unit=" trainings", disable=not verbose) as bar:
        for seed in seeds:
            seeded = experiment.replace_path("training.seed", seed)
            bar.set_description(f"seed {seed}, together")
            together.append(run("together", seeded, data, test_rows, watch=watch, gates=True))
            bar.update()
            for name in tasks:
                bar.set_description(f"seed {seed}, {name} alone")
                twin = twin_of(seeded, name)
                train, validation, test = (
                    TaskRows(rows, problem, twin.problem)
                    for rows in (data.train, data.validation, test_rows)
                )
                narrowed = PackedData(train, validation, data.table_rows)
                alone[name].append(run(f"{name}-alone", twin, narrowed, test))
                bar.update()
            if len(seeds) > 1:
                # Only the rows of a single seed are drawn from.
                for outcomes in (together, *alone.values()):
                    outcomes[-1].predictions.clear()
    return together, alone


def _backbone(experiment: ExperimentConfig) -> Any:
    return registry.get("backbone", experiment.model.backbone.get("name", ""))


def _compared(
    problem: ProblemSpec, trained: Sequence[str], metric: str, regression_metric: str
) -> dict[str, Metric[...]]:
    if len(trained) < 2:
        raise SpecError(
            "negative_transfer compares several tasks with each alone; trained here are "
            f"{list(trained)}."
        )
    compared = {
        task.name: gain_metric(task.kind, metric if task.kind == "binary" else regression_metric)
        for task in problem.served
    }
    for chosen in compared.values():
        if chosen.needs_groups and not (problem.request_id or problem.user_id):
            raise SpecError(
                f"metric={chosen.name!r} is within requests or users, and the problem declares "
                "neither. Give ProblemSpec(request_id=…), or take metric='auc'."
            )
    return compared


def _measuring(
    experiment: ExperimentConfig, compared: Mapping[str, Metric[...]]
) -> ExperimentConfig:
    """The experiment whose tasks are measured by what they are compared in."""
    tasks = [
        dataclasses.replace(task, metrics=(*task.metrics, compared[task.name]))
        if task.name in compared
        else task
        for task in experiment.problem.tasks
    ]
    problem = dataclasses.replace(experiment.problem, tasks=tuple(tasks))
    return dataclasses.replace(experiment, problem=problem)


def _seeds(experiment: ExperimentConfig, seeds: Sequence[int] | int) -> tuple[int, ...]:
    first = experiment.training.seed
    chosen = tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise SpecError(
            f"seeds={seeds!r}: give how many, at least 1, or distinct seeds such as (1, 2, 3)."
        )
    return chosen


def _over_seeds(
    problem: ProblemSpec,
    task: str,
    metric: Metric[...],
    alone: Sequence[Outcome],
    together: Sequence[Outcome],
    level: float,
) -> TaskTransfer:
    full = problem.metric_name(task, metric.name)
    of_one, of_all = ([o.metrics[full] for o in outcomes] for outcomes in (alone, together))
    gains = [metric.gain(a, b) for a, b in zip(of_one, of_all, strict=True)]
    return TaskTransfer(
        metric=full,
        together=tuple(of_all),
        alone=tuple(of_one),
        gain=over_seeds(gains, level=level),
    )


def _over_rows(
    problem: ProblemSpec,
    task: str,
    metric: Metric[...],
    truth: Predicted,
    both: Sequence[Outcome],
    samples: int,
    level: float,
) -> Interval:
    index = problem.task_names.index(task)
    seen = truth.observed[:, index]
    alone, together = (outcome.predictions[task][seen] for outcome in both)
    return over_rows(
        metric,
        truth.labels[seen, index],
        alone,
        together,
        groups=None if truth.groups is None else truth.groups[seen],
        samples=samples,
        level=level,
    )


def _truth(rows: Rows) -> Predicted:
    """The rows' labels, with no model's predictions."""
    return predict_packed(lambda packed: {}, rows.batches(READ_ROWS))


def _unit(problem: ProblemSpec, truth: Predicted) -> str:
    if truth.groups is None:
        return "rows"
    return "requests" if problem.request_id else "users"


def _mean_entropy(by_seed: Sequence[tuple[GateUse, ...]]) -> tuple[GateUse, ...]:
    return tuple(
        dataclasses.replace(
            same[0], entropy=tuple(np.mean([gate.entropy for gate in same], axis=0).tolist())
        )
        for same in zip(*by_seed, strict=True)
    )
