"""Trained boosters of LightGBM: what they predict, their metrics, and their files."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.boosting.columns import (
    TargetMeans,
    TreeColumns,
    raw_columns,
    require,
    with_matches,
)
from tfmtl.data.columns import as_arrow
from tfmtl.data.labels import observed, task_values
from tfmtl.data.texts import text_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.durable import read_arrays, read_json, whole_file
from tfmtl.errors import DataError
from tfmtl.metrics.packed import Predicted, packed_metrics
from tfmtl.plain import file_name, write_json


@dataclasses.dataclass(frozen=True)
class Boosters:
    """Trained boosters; made by `train_boosters` or `Boosters.load`.

    Attributes:
        problem: The declaration.
        columns: Converts raw columns to numbers.
        means: Mean labels of ids with too many values for categories, by task.
        boosters: A `lightgbm.Booster` with the best number of rounds, by task.
        num_threads: Threads for prediction; 0 for all cores.
    """

    problem: ProblemSpec
    columns: TreeColumns
    means: Mapping[str, TargetMeans]
    boosters: Mapping[str, Any]
    num_threads: int = 0

    @property
    def rounds(self) -> dict[str, int]:
        """Number of rounds that validation chose, by task."""
        return {task: booster.num_trees() for task, booster in self.boosters.items()}

    def predict(self, table: Any) -> dict[str, np.ndarray]:
        """Returns `{task: [rows]}` for all rows: probabilities, or a regression's value.

        A post-click rate is predicted for rows without a click too.

        Args:
            table: Rows with the feature columns; labels may be absent.

        Raises:
            DataError: A column is missing, or its values are not of its type.
        """
        rows = as_table(table)
        require(rows, raw_columns(self.problem, self.columns))
        rows = with_matches(self.problem, rows)
        codes = self.columns.codes(rows)
        return {
            task: booster.predict(
                self.columns.matrix(rows, codes, self.means[task].of(codes)),
                num_threads=self.num_threads,
            )
            for task, booster in self.boosters.items()
        }

    def evaluate(self, table: Any) -> dict[str, float]:
        """Returns each task's exact metrics on its space, named as by `MultiTaskModel.evaluate`.

        Args:
            table: Rows with features and labels.

        Returns:
            `{"ctr/auc@imp": …, "mean_auc": …}`, without the `loss` that a network has.

        Raises:
            DataError: A column is missing, or there are no rows.
        """
        rows = as_table(table)
        raw = raw_columns(self.problem, self.columns)
        require(rows, {**raw, **self.problem.label_columns()})
        if not rows.num_rows:
            raise DataError("there are no rows; nothing can be measured.")
        labels = np.zeros([rows.num_rows, len(self.problem.tasks)])
        seen = np.zeros(labels.shape, bool)
        for index, task in enumerate(self.problem.tasks):
            values = task_values(self.problem, task, rows)
            seen[:, index] = observed(self.problem, task, rows, values)
            labels[seen[:, index], index] = values[seen[:, index]]
        group = self.problem.request_id or self.problem.user_id
        groups = None
        if group in rows.column_names:
            text = text_of(as_arrow(rows[group]), exact=False).fill_null("")
            groups = pc.dictionary_encode(text).indices.to_numpy()
        predicted = Predicted(
            labels=labels, observed=seen, predictions=self.predict(rows), groups=groups
        )
        return packed_metrics(self.problem, predicted)

    def save(self, folder: str) -> None:
        """Writes a folder: LightGBM's text files, `boosters.json` and `columns.npz`."""
        os.makedirs(folder, exist_ok=True)
        for task, booster in self.boosters.items():
            booster.save_model(_model_path(folder, task))
        plain = {
            "problem": self.problem.to_json(),
            "columns": dict(self.columns.columns),
            "priors": {task: means.prior for task, means in self.means.items()},
        }
        # NumPy 2's stubs hold any keyword of `savez` for one of its flags too.
        arrays: dict[str, Any] = {f"keys/{n}": keys for n, keys in self.columns.keys.items()}
        arrays |= {f"counts/{name}": of for name, of in self.columns.log_counts.items()}
        for task, means in self.means.items():
            arrays |= {f"means/{task}/{name}": of for name, of in means.means.items()}
        with whole_file(os.path.join(folder, "columns.npz")) as file:
            np.savez_compressed(file, **arrays)
        write_json(os.path.join(folder, "boosters.json"), plain)

    @classmethod
    def load(cls, folder: str, *, num_threads: int = 0) -> "Boosters":
        """Reads what `save` wrote; its predictions are the same."""
        lightgbm = load_lightgbm()
        plain = read_json(os.path.join(folder, "boosters.json"))
        arrays = read_arrays(os.path.join(folder, "columns.npz"))

        def under(prefix: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

        columns = TreeColumns(plain["columns"], under("keys/"), under("counts/"))
        priors = plain["priors"].items()
        means = {task: TargetMeans(prior, under(f"means/{task}/")) for task, prior in priors}
        boosters = {t: lightgbm.Booster(model_file=_model_path(folder, t)) for t in means}
        problem = ProblemSpec.from_json(plain["problem"])
        return cls(problem, columns, means, boosters, num_threads)


def as_table(table: Any) -> pa.Table:
    """Returns rows, as `prepare` takes them, as an Arrow table."""
    if isinstance(table, pd.DataFrame):
        return pa.Table.from_pandas(table, preserve_index=False)
    return table if isinstance(table, pa.Table) else pa.table(dict(table))


def _model_path(folder: str, task: str) -> str:
    return os.path.join(folder, f"{file_name(task)}.txt")


def load_lightgbm() -> Any:
    """Imports LightGBM, which is an optional extra.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError(
            "boosters need LightGBM, which is an optional extra: pip install tfmtl[lightgbm]"
        ) from error
    return lightgbm
