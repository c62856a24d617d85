"""LightGBM as a baseline (Ke et al., NIPS 2017): one booster a task, on the rows our models get.

    boosters = tfmtl.train_boosters(PROBLEM, tables)      # as read_table returns them
    boosters.evaluate(tables["test"])                     # {"ctr/auc@imp": …, "cvr/auc@click": …}

Rows, splits, labels, sample spaces and metrics are those of `train` and `MultiTaskModel.evaluate`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging
from tqdm import tqdm

from tfmtl.boosting.columns import (
    TargetMeans,
    TreeColumns,
    fit_columns,
    fit_means,
    folds_of,
    require,
)
from tfmtl.data.labels import label_values, numbers, observed
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.errors import DataError
from tfmtl.metrics.packed import Predicted, packed_metrics
from tfmtl.plain import write_json

SETTINGS: Mapping[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
}
"""What `train_boosters` gives LightGBM (our choice, for logs of 10⁵ rows and more)."""


@dataclasses.dataclass(frozen=True)
class Boosters:
    """Trained boosters; made by `train_boosters` or `Boosters.load`.

    Attributes:
        problem: The declaration.
        columns: How raw columns become numbers.
        means: Mean labels of ids with too many values for categories, by task.
        boosters: A `lightgbm.Booster` with the best rounds alone, by task.
        num_threads: Threads that predict; 0 for all cores.
    """

    problem: ProblemSpec
    columns: TreeColumns
    means: Mapping[str, TargetMeans]
    boosters: Mapping[str, Any]
    num_threads: int = 0

    @property
    def rounds(self) -> dict[str, int]:
        """Rounds that validation chose, by task."""
        return {task: booster.num_trees() for task, booster in self.boosters.items()}

    def predict(self, table: Any) -> dict[str, np.ndarray]:
        """Returns `{task: [rows]}` of all rows: probabilities, or a regression's value.

        A post-click rate is predicted on rows without a click too.

        Args:
            table: Rows with the feature columns; labels may be absent.

        Raises:
            DataError: A column is missing, or its values are not of its type.
        """
        rows = _arrow(table)
        codes = self.columns.codes(rows)
        return {
            task: booster.predict(
                self.columns.matrix(rows, codes, self.means[task].of(codes)),
                num_threads=self.num_threads,
            )
            for task, booster in self.boosters.items()
        }

    def evaluate(self, table: Any) -> dict[str, float]:
        """Every task's exact metrics on its own space, named as `MultiTaskModel.evaluate` does.

        Args:
            table: Rows with features and labels.

        Returns:
            `{"ctr/auc@imp": …, "mean_auc": …}`; there is no `loss`, which is a network's own.

        Raises:
            DataError: A column is missing, or there are no rows.
        """
        rows = _arrow(table)
        require(rows, {**self.columns.columns, **self.problem.label_columns()})
        if not rows.num_rows:
            raise DataError("there are no rows; nothing can be measured.")
        labels = np.zeros([rows.num_rows, len(self.problem.tasks)])
        weights = np.zeros_like(labels)
        for index, task in enumerate(self.problem.tasks):
            values = label_values(task, rows)
            seen = observed(self.problem, task, rows, values)
            labels[seen, index], weights[seen, index] = values[seen], 1.0
        group = self.problem.request_id or self.problem.user_id
        groups = None
        if group in rows.column_names:
            text = rows[group].combine_chunks().cast(pa.string()).fill_null("")
            groups = pc.dictionary_encode(text).indices.to_numpy()
        found = Predicted(self.predict(rows), labels, weights, groups)
        return packed_metrics(self.problem, found)

    def save(self, folder: str) -> None:
        """Writes a folder: LightGBM's own text files, `boosters.json` and `columns.npz`."""
        os.makedirs(folder, exist_ok=True)
        for task, booster in self.boosters.items():
            booster.save_model(_model_path(folder, task))
        plain = {
            "problem": self.problem.to_json(),
            "columns": dict(self.columns.columns),
            "priors": {task: means.prior for task, means in self.means.items()},
        }
        # NumPy 2's stubs take any keyword of `savez` for its flag `allow_pickle` too.
        arrays: dict[str, Any] = {f"keys/{n}": keys for n, keys in self.columns.keys.items()}
        arrays |= {f"counts/{name}": of for name, of in self.columns.log_counts.items()}
        for task, means in self.means.items():
            arrays |= {f"means/{task}/{name}": of for name, of in means.means.items()}
        np.savez_compressed(os.path.join(folder, "columns.npz"), **arrays)
        write_json(os.path.join(folder, "boosters.json"), plain)

    @classmethod
    def load(cls, folder: str, *, num_threads: int = 0) -> "Boosters":
        """Reads what `save` wrote; its predictions are the same."""
        lightgbm = _lightgbm()
        with open(os.path.join(folder, "boosters.json"), encoding="utf-8") as file:
            plain = json.load(file)
        with np.load(os.path.join(folder, "columns.npz")) as file:
            arrays = dict(file)

        def under(prefix: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

        columns = TreeColumns(plain["columns"], under("keys/"), under("counts/"))
        priors = plain["priors"].items()
        means = {task: TargetMeans(prior, under(f"means/{task}/")) for task, prior in priors}
        boosters = {t: lightgbm.Booster(model_file=_model_path(folder, t)) for t in means}
        problem = ProblemSpec.from_json(plain["problem"])
        return cls(problem, columns, means, boosters, num_threads)


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
    """Trains one booster a task on the task's own space, and stops where validation is best.

    Ids of up to `most_categories` values are LightGBM's own categories, an unseen one a missing
    value; further ids become a smoothed out-of-fold mean label and a log count. Numbers are as
    they are, lists are left out. Example weights count in the loss, pseudo-labels do not.

    Args:
        problem: The declaration.
        tables: `train` and `validation`, as `prepare` takes them: Arrow tables, pandas frames or
            mappings of arrays. A `test` beside them is not looked at.
        seed: Of bagging, of feature sampling, and of folds where the rows bring none. The same
            seed and rows give the same trees.
        tasks: Names of tasks; by default all that have a head of their own.
        rounds: Most trees.
        patience: Rounds without a better validation metric before training stops: AUC of a
            binary task, cross-entropy of soft labels, squared error of a regression.
        most_categories: As above. LightGBM orders categories by their mean label on the training
            rows, a row's own among them, which of ids with few rows each is noise: as categories,
            even 200 ids of 180 rows each can cost .05 AUC (our measurement, simulated clicks).
        smoothing: Rows of prior in a mean label.
        folds: Folds of the training rows, for mean labels.
        num_threads: Threads that train and predict; 0 for all cores. Where other work has some
            of them, one can be twenty times as fast: LightGBM's threads wait for one another.
        verbose: 0 shows no progress bar.
        **settings: LightGBM's parameters beside or instead of `SETTINGS`.

    Raises:
        ImportError: LightGBM, an optional extra, is not installed.
        SpecError: A task is not declared.
        DataError: A column is missing, or a task has no rows to learn or to stop by.

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
    _lightgbm()
    if folds < 2 or smoothing <= 0:
        raise ValueError(f"needs folds >= 2 and smoothing > 0; got {folds} and {smoothing}.")
    own_heads = [task.name for task in problem.tasks if task.head is None]
    chosen = [problem.task(name) for name in (own_heads if tasks is None else tasks)]
    rows = {split: _arrow(tables[split]) for split in ("train", "validation")}
    for table in rows.values():
        require(table, {**problem.feature_columns(), **problem.label_columns()})
    columns = fit_columns(problem, rows["train"], most_categories=most_categories)
    codes = {split: columns.codes(table) for split, table in rows.items()}
    fold = folds_of(problem, rows["train"], folds=folds, seed=seed)
    means, boosters = {}, {}
    for task in chosen:
        labels = {split: label_values(task, table) for split, table in rows.items()}
        seen = {s: observed(problem, task, table, labels[s]) for s, table in rows.items()}
        for split in rows:
            _check_labels(problem, task, split, labels[split][seen[split]])
        fitted, own = fit_means(
            columns, codes["train"], labels["train"], seen["train"], fold, smoothing=smoothing
        )
        features = {
            "train": columns.matrix(rows["train"], codes["train"], own),
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


def _boost(task, columns, parts, parameters, rounds, patience, verbose):
    lightgbm = _lightgbm()
    names = columns.names()
    train, validation = (
        lightgbm.Dataset(
            features,
            labels,
            weight=weights,
            # LightGBM takes no brackets, quotes or colons in a name.
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
    # The best rounds alone: what is used, kept and read again is then one and the same.
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


def _arrow(table: Any) -> pa.Table:
    if isinstance(table, pd.DataFrame):
        return pa.Table.from_pandas(table, preserve_index=False)
    return table if isinstance(table, pa.Table) else pa.table(dict(table))


def _model_path(folder: str, task: str) -> str:
    return os.path.join(folder, f"{task}.txt")


def _lightgbm() -> Any:
    # Imported here: LightGBM is an optional extra.
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError(
            "boosters need LightGBM, which is an optional extra: pip install tfmtl[lightgbm]"
        ) from error
    return lightgbm
