"""Features that reveal a label: equal to it, or sufficient alone to predict it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.hashing import hash_rows
from tfmtl.data.labels import numbers, observed, task_values
from tfmtl.data.matches import match_numbers
from tfmtl.data.splits import as_text
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError

# With fewer positives or negatives than this, a perfect order may be chance.
LEAST_OF_EACH = 10
CATEGORIES_OF_A_NUMBER = 1000
FOLDS = 5


class EqualColumns:
    """Finds features that equal a label in every row of a stream.

    Args:
        problem: Its features and labels are compared.
    """

    def __init__(self, problem: ProblemSpec) -> None:
        features = [c.name for c in problem.feature_columns().values() if not c.max_values]
        self.pairs = [(feature, label) for feature in features for label in problem.labels]

    def update(self, batch: pa.RecordBatch) -> None:
        """Drops the pairs of columns that differ in a row of the batch."""
        # Nearly all pairs differ in the first rows, so the rest of the batch is compared for few.
        for rows in (batch.slice(0, 256), batch):
            text = {
                name: as_text(rows.column(rows.schema.names.index(name)))
                for name in {name for pair in self.pairs for name in pair}
            }
            self.pairs = [(f, label) for f, label in self.pairs if text[f].equals(text[label])]


def strongest_features(
    problem: ProblemSpec, rows: pa.Table, *, limit: float
) -> list[tuple[str, str, float]]:
    """Features that alone order the rows of a binary task with an AUC above `limit`.

    - A number orders the rows by its value, ascending or descending; missing values come first or
      last.
    - A category, or a number with few distinct values, orders them by the smoothed mean label of
      its rows in the other folds, so that an id that occurs once says nothing.
    - A list is judged by its length and by its first value.

    Args:
        problem: Features and tasks.
        rows: A sample of the training rows.
        limit: AUC above which a feature is returned.

    Returns:
        `(feature, task, auc)`, the AUC on the task's own sample space.
    """
    tasks = []
    for task in problem.tasks:
        if task.kind == "binary":
            values = task_values(problem, task, rows)
            chosen = observed(problem, task, rows, values)
            positive = values[chosen] > 0.5
            if min(positive.sum(), (~positive).sum()) >= LEAST_OF_EACH:
                tasks.append((task.name, chosen, positive))
    best: dict[tuple[str, str], float] = {}
    fold = (hash_rows(0, rows.num_rows, salt="leak") % np.uint64(FOLDS)).astype(np.int64)
    for name, column in problem.feature_columns().items():
        if column.whole:
            continue
        for codes, ordered in _codes(rows.column(name), column.max_values):
            for task_name, chosen, positive in tasks:
                if ordered:
                    auc = _auc(codes[chosen], positive)
                    auc = max(auc, 1 - auc)
                else:
                    auc = _auc(_target_mean(codes[chosen], positive, fold[chosen]), positive)
                key = (name, task_name)
                best[key] = max(best.get(key, 0.0), auc)
    for feature in problem.sequences:
        # An id of the row's own outcome shows as a match with the row's own value.
        try:
            of_feature = match_numbers(problem, feature, rows)
        except DataError:
            continue  # Lists of unequal length, which `SequenceChecks` reports with their place.
        for numbers_of_feature in of_feature.values():
            _, codes = np.unique(np.nan_to_num(numbers_of_feature, nan=-1.0), return_inverse=True)
            for task_name, chosen, positive in tasks:
                auc = _auc(codes[chosen], positive)
                key = (feature.columns()[0].name, task_name)
                best[key] = max(best.get(key, 0.0), auc, 1 - auc)
    feature_of = {c.name: f.name for f in reversed(problem.features) for c in f.columns()}
    return [(feature_of[name], task, auc) for (name, task), auc in best.items() if auc > limit]


def _codes(column: pa.ChunkedArray, max_values: int) -> Iterator[tuple[NDArray[Any], bool]]:
    # Yields small integers for a column's values, and whether their order is that of the values.
    array = pa.concat_arrays(column.chunks)
    if max_values:
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        yield lengths.astype(np.int64), True
        filled = lengths > 0
        first = array.flatten().take(pa.array((np.cumsum(lengths) - lengths)[filled]))
        codes = np.zeros(len(array), np.int64)
        codes[filled] = _categories(first) + 1
        yield codes, False
        return
    if pa.types.is_string(array.type):
        yield _categories(array), False
        return
    missing = array.is_null().to_numpy(zero_copy_only=False)
    distinct, codes = np.unique(numbers(array), return_inverse=True)
    yield np.where(missing, -1, codes) + 1, True
    if missing.any():
        yield np.where(missing, len(distinct), codes), True
    if pa.types.is_integer(array.type) or len(distinct) <= CATEGORIES_OF_A_NUMBER:
        yield codes, False


def _categories(array: pa.Array) -> NDArray[Any]:
    encoded = array.dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
    return np.asarray(codes, np.int64)


def _target_mean(codes: NDArray[Any], positive: NDArray[Any], fold: NDArray[Any]) -> NDArray[Any]:
    # Ranks of the mean label of a category's rows in the other folds. The prior counts as one row.
    cell = codes * FOLDS + fold
    size = (codes.max() + 1) * FOLDS
    rows = np.bincount(cell, minlength=size).reshape(-1, FOLDS)
    positives = np.bincount(cell, weights=positive, minlength=size).reshape(-1, FOLDS)
    other_rows = rows.sum(axis=1, keepdims=True) - rows
    other_positives = positives.sum(axis=1, keepdims=True) - positives
    mean = (other_positives + positive.mean()) / (other_rows + 1.0)
    _, ranks = np.unique(mean.ravel(), return_inverse=True)
    return np.asarray(ranks.ravel()[cell])


def _auc(codes: NDArray[Any], positive: NDArray[Any]) -> float:
    ones = np.bincount(codes[positive], minlength=codes.max() + 1)
    zeros = np.bincount(codes[~positive], minlength=codes.max() + 1)
    below = np.cumsum(zeros) - zeros
    return float((ones * (below + zeros / 2)).sum() / (ones.sum() * zeros.sum()))
