"""LightGBM as a baseline (Ke et al., NIPS 2017): one booster per task, on the rows of our models.

    boosters = tfmtl.train_boosters(PROBLEM, tables)      # as read_table returns them
    boosters.evaluate(tables["test"])                     # {"ctr/auc@imp": …, "cvr/auc@click": …}

Rows, splits, labels, sample spaces and metrics are those of `train` and `MultiTaskModel.evaluate`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging
from tqdm import tqdm

from tfmtl.boosting.boosters import Boosters, as_table, load_lightgbm
from tfmtl.boosting.columns import (
    TreeColumns,
    fit_columns,
    fit_means,
    folds_of,
    require,
    with_matches,
)
from tfmtl.data.labels import numbers, observed, task_values
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.errors import DataError

SETTINGS: Mapping[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
}
"""LightGBM's parameters in `train_boosters` (our choice, for logs of 10⁵ rows and more)."""


def train_boosters(
    problem: ProblemSpec,
    tables: Mapping[str, Any],
    *,
    seed: int = 1,
    tasks: Sequence[str] | None = None,
    rounds: int = 1000,
    patience: int = 50,
    most_categories: int = 100,
    smoothing: float = 20.0,
    folds: int = 5,
    num_threads: int = 0,
    verbose: int = 1,
    **settings: Any,
) -> Boosters:
    """Trains one booster per task on the task's own space, up to the best validation metric.

    Ids with at most `most_categories` values are categories of LightGBM; an unseen value is
    missing. Other ids become a smoothed out-of-fold mean label and a log count. Numbers are used as
    they are, lists are left out. Example weights count in the loss, pseudo-labels do not.

    Args:
        problem: The declaration.
        tables: `train` and `validation`, as `prepare` takes them: Arrow tables, pandas frames or
            mappings of arrays. A `test` split is ignored.
        seed: Seed of bagging, of feature sampling, and of folds if the rows have none. The same
            seed and rows give the same trees.
        tasks: Names of tasks; by default all tasks with their own head.
        rounds: Maximum number of trees.
        patience: Rounds without a better validation metric after which training stops. The
            metric is AUC for a binary task, cross-entropy for soft labels and squared error for a
            regression.
        most_categories: See above. LightGBM orders categories by their mean label on the training
            rows, which include the row itself. For ids with few rows this order is noise: even 200
            ids with 180 rows each cost .05 AUC as categories (our measurement, simulated clicks).
        smoothing: Weight of the prior in a mean label, in rows.
        folds: Number of folds of the training rows, for mean labels.
        num_threads: Threads for training and prediction; 0 for all cores. If other work uses some
            cores, one thread can be twenty times as fast, because LightGBM's threads wait for one
            another.
        verbose: 0 shows no progress bar.
        **settings: Further parameters of LightGBM; they override `SETTINGS`.

    Raises:
        ImportError: LightGBM, an optional extra, is not installed.
        SpecError: A task is not declared.
        DataError: A column is missing, or a task has no training or no validation rows.

    Example:
        >>> from tfmtl.declare.problem import ProblemSpec, binary, numerical
        >>> problem = ProblemSpec(features=(numerical("x"),), tasks=(binary("ctr", label="y"),))
        >>> x = np.arange(400.0)
        >>> rows = pa.table({"x": x, "y": (x >= 200).astype(float)})
        >>> tables = {"train": rows, "validation": rows}
        >>> boosters = train_boosters(problem, tables, rounds=5, min_data_in_leaf=20, verbose=0)
        >>> boosters.evaluate(rows)["ctr/auc@imp"]
        1.0
    """
    load_lightgbm()
    if folds < 2 or smoothing <= 0:
        raise ValueError(f"needs folds >= 2 and smoothing > 0; got {folds} and {smoothing}.")
    with_head = [task.name for task in problem.tasks if task.head is None]
    chosen = [problem.task(name) for name in (with_head if tasks is None else tasks)]
    rows = {split: as_table(tables[split]) for split in ("train", "validation")}
    for table in rows.values():
        require(table, {**problem.feature_columns(), **problem.label_columns()})
    rows = {split: with_matches(problem, table) for split, table in rows.items()}
    columns = fit_columns(problem, rows["train"], most_categories=most_categories)
    codes = {split: columns.codes(table) for split, table in rows.items()}
    fold = folds_of(problem, rows["train"], folds=folds, seed=seed)
    means, boosters = {}, {}
    for task in chosen:
        labels = {split: task_values(problem, task, table) for split, table in rows.items()}
        seen = {s: observed(problem, task, table, labels[s]) for s, table in rows.items()}
        for split in rows:
            _check_labels(problem, task, split, labels[split][seen[split]])
        fitted, out_of_fold = fit_means(
            columns, codes["train"], labels["train"], seen["train"], fold, smoothing=smoothing
        )
        features = {
            "train": columns.matrix(rows["train"], codes["train"], out_of_fold),
            "validation": columns.matrix(
                rows["validation"], codes["validation"], fitted.of(codes["validation"])
            ),
        }
        parts = {
            s: (features[s][seen[s]], labels[s][seen[s]], _weights(task, rows[s], seen[s]))
            for s in rows
        }
        shared = {"seed": seed, "num_threads": num_threads}
        parameters = {**_objective(task), **SETTINGS, **shared, **settings}
        means[task.name] = fitted
        boosters[task.name] = _boost(task, columns, parts, parameters, rounds, patience, verbose)
    return Boosters(problem, columns, means, boosters, num_threads)


def _boost(
    task: Task,
    columns: TreeColumns,
    parts: Mapping[str, tuple[Any, ...]],
    parameters: Mapping[str, Any],
    rounds: int,
    patience: int,
    verbose: int,
) -> Any:
    lightgbm = load_lightgbm()
    names = columns.names()
    train, validation = (
        lightgbm.Dataset(
            features,
            labels,
            weight=weights,
            # LightGBM refuses names with brackets, quotes or colons.
            feature_name=[re.sub(r"\W", "_", f"{i}_{name}") for i, name in enumerate(names)],
            categorical_feature=[names.index(name) for name in columns.categories()],
        )
        for features, labels, weights in (parts["train"], parts["validation"])
    )
    validation.set_reference(train)
    with tqdm(
        total=rounds,
        desc=f"LightGBM, {task.name}",
        unit=" trees",
        disable=None if verbose else True,
    ) as bar:
        booster = lightgbm.train(
            {"deterministic": True, "force_col_wise": True, "verbose": -1, **parameters},
            train,
            rounds,
            valid_sets=[validation],
            valid_names=["validation"],
            callbacks=[
                lightgbm.early_stopping(patience, first_metric_only=True, verbose=False),
                lambda state: bar.update(),
            ],
        )
    best = booster.best_iteration or booster.current_iteration()
    logging.info("LightGBM, %s: %d trees, %s.", task.name, best, dict(booster.best_score))
    # Keeps the best rounds only, so that the trained, the saved and the loaded booster are equal.
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=best))


def _objective(task: Task) -> dict[str, str]:
    if task.kind != "binary":
        return {"objective": "regression", "metric": "l2"}
    if task.soft:
        return {"objective": "cross_entropy", "metric": "cross_entropy"}
    return {"objective": "binary", "metric": "auc"}


def _weights(task: Task, rows: pa.Table, seen: np.ndarray) -> np.ndarray | None:
    return None if task.weight is None else numbers(rows[task.weight])[seen]


def _check_labels(problem: ProblemSpec, task: Task, split: str, labels: np.ndarray) -> None:
    space = problem.space_of(task)
    if not len(labels):
        raise DataError(
            f"task {task.name!r}: no {split} row is in its space {space!r} with a label; leave "
            "the task out of tasks=, or give such rows."
        )
    if task.kind == "binary" and not task.soft and len(np.unique(labels)) < 2:
        raise DataError(
            f"task {task.name!r}: all {len(labels)} {split} rows of its space {space!r} have the "
            f"label {labels[0]:g}; trees need both classes to learn and to stop by. Leave the "
            "task out of tasks=, or give more rows."
        )
