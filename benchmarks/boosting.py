"""LightGBM, one model a task, on the rows and columns our models get."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from tfmtl.problem import ProblemSpec
from tfmtl.tasks import Task

MOST_CATEGORIES = 5000
SMOOTHING = 20.0
FOLDS = 5
ROUNDS, PATIENCE = 1000, 50
SETTINGS = {
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "verbose": -1,
}


def predict_test(
    problem: ProblemSpec, tables: Mapping[str, pa.Table], task: str, *, seed: int = 1, **settings
) -> np.ndarray:
    """Trains a booster on the task's own space and returns its predictions on all test rows.

    Values of up to 5,000 categories are LightGBM's own categories; further ids become a
    smoothed out-of-fold mean label and a log count, fitted on training rows. Lists are left out.
    Rounds are chosen by AUC (or squared error) on validation.

    Args:
        problem: The declaration.
        tables: `train`, `validation` and `test` from `read_table`.
        task: Name of the task.
        seed: Of bagging and feature sampling.
        **settings: LightGBM parameters instead of `SETTINGS`.
    """
    # Imported here: LightGBM is an optional extra.
    import lightgbm

    spec = problem.task(task)
    labels = {split: _labels(problem, spec, table) for split, table in tables.items()}
    features = _features(problem, tables, labels["train"], seed)
    sets = {}
    for split in ("train", "validation"):
        seen = np.isfinite(labels[split])
        sets[split] = lightgbm.Dataset(
            features[split][seen],
            labels[split][seen],
            reference=sets.get("train"),
            free_raw_data=False,
        )
    binary = spec.kind == "binary"
    booster = lightgbm.train(
        {
            "objective": "binary" if binary else "regression",
            "metric": "auc" if binary else "l2",
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,
            **SETTINGS,
            **settings,
        },
        sets["train"],
        ROUNDS,
        valid_sets=[sets["validation"]],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    return booster.predict(features["test"], num_iteration=booster.best_iteration)


def _labels(problem: ProblemSpec, task: Task, table: pa.Table) -> np.ndarray:
    def column(of: Task) -> np.ndarray:
        values = table.column(of.label).to_pandas()
        if of.positive is not None:
            values = (values == of.positive).where(values.notna())
        return values.astype(float).to_numpy()

    label = column(task)
    if task.observed_if is not None:
        owner = next(t for t in problem.tasks if t.label == task.observed_if)
        label = np.where(column(owner) > 0.5, label, np.nan)
    return label


def _features(problem, tables, train_labels, seed):
    columns = {n: c for n, c in problem.feature_columns().items() if not c.max_values}
    frames = {split: {} for split in tables}
    for name, column in columns.items():
        values = {split: table.column(name).to_pandas() for split, table in tables.items()}
        if column.dtype == "float32":
            for split in tables:
                frames[split][name] = values[split]
            continue
        known = pd.Index(values["train"].dropna().unique())
        if len(known) <= MOST_CATEGORIES:
            for split in tables:
                frames[split][name] = pd.Categorical(values[split], categories=known)
        else:
            for split, encoded in _mean_and_count(values, train_labels, seed).items():
                frames[split][f"{name}_mean"], frames[split][f"{name}_count"] = encoded
    return {split: pd.DataFrame(frame) for split, frame in frames.items()}


def _mean_and_count(values, labels, seed):
    seen = np.isfinite(labels)
    prior = labels[seen].mean()
    keys = values["train"].astype(str)

    def means(rows):
        grouped = pd.Series(labels[rows]).groupby(keys[rows].to_numpy())
        return (grouped.sum() + SMOOTHING * prior) / (grouped.count() + SMOOTHING)

    fold = np.random.default_rng(seed).integers(0, FOLDS, len(keys))
    own = np.full(len(keys), prior)
    for held_out in range(FOLDS):
        rows = fold == held_out
        table = means(seen & ~rows)
        own[rows] = keys[rows].map(table).fillna(prior)
    table, counts = means(seen), np.log1p(keys.value_counts())
    encoded = {"train": (own, keys.map(counts))}
    for split in ("validation", "test"):
        text = values[split].astype(str)
        encoded[split] = (text.map(table).fillna(prior), text.map(counts).fillna(0.0))
    return encoded
