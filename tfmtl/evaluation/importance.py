"""Which features a model's predictions rest on: permutation importance, and one request explained.

Both change raw columns and ask the model again, so they need no gradient and work for every
backbone, and for a model that is only served.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfmtl.declare.features import Categorical
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.metrics.checks import quietly
from tfmtl.metrics.tasks import task_metrics

Predict = Callable[[pd.DataFrame], Mapping[str, NDArray[Any]]]
"""Raw columns to `{task: [rows]}`: `Client.predict`, or a model over its preprocessor."""


def predictor(preprocessor: Any, model: Any) -> Predict:
    """The `Predict` of a trained model.

    Args:
        preprocessor: Raw columns to packed tensors.
        model: The model.
    """

    def predict(frame: pd.DataFrame) -> Mapping[str, NDArray[Any]]:
        packed = preprocessor({name: frame[name] for name in frame})
        return {task: p.numpy() for task, p in model.predict_served(packed).items()}

    return predict


def permutation_importance(
    predict: Predict,
    problem: ProblemSpec,
    rows: pd.DataFrame,
    labels: NDArray[Any],
    observed: NDArray[np.bool_],
    *,
    metric: str = "auc",
    regression_metric: str = "rmse",
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """How much each task's metric falls when a raw column is shuffled (Breiman, 2001).

    A column is shuffled over all rows, together with the weights of its lists. Features that read
    the same column, such as an id and its count, are shuffled together. Two columns that say the
    same hide each other: neither then looks important.

    Args:
        predict: The model.
        problem: The declaration.
        rows: Raw feature columns of test rows.
        labels: `[rows, tasks]`.
        observed: bool `[rows, tasks]`; each task is measured on its own space.
        metric: Of binary tasks: `auc`, or an error such as `log_loss`, whose rise counts.
        regression_metric: An error of regressions, whose rise counts.
        repeats: Shuffles per column.
        seed: Of the shuffles.

    Returns:
        A frame with one line per column and task: `column`, `task`, `importance` (the mean fall)
        and `spread` (standard deviation over repeats), the most important first.

    Raises:
        DataError: There are no rows.
    """
    if not len(rows):
        raise DataError("there are no rows to shuffle.")
    rng = np.random.default_rng(seed)
    names = {"binary": metric, "regression": regression_metric}
    before = _measured(predict(rows), problem, labels, observed, names)
    lines = []
    for group in _groups(problem):
        falls: dict[str, list[float]] = {task: [] for task in before}
        for _ in range(repeats):
            order = rng.permutation(len(rows))
            shuffled = rows.assign(
                **{name: pd.Series(rows[name].to_numpy()[order], rows.index) for name in group}
            )
            after = _measured(predict(shuffled), problem, labels, observed, names)
            for task, value in after.items():
                falls[task].append(before[task] - value)
        lines += [
            {"column": group[0], "task": task, "importance": np.mean(f), "spread": np.std(f)}
            for task, f in falls.items()
        ]
    frame = pd.DataFrame(lines)
    return frame.sort_values(["task", "importance"], ascending=[True, False], ignore_index=True)


def explain_request(predict: Predict, problem: ProblemSpec, row: Mapping[str, Any]) -> pd.DataFrame:
    """What each column of one row contributes: the change of a prediction without its value.

    The value is replaced by a missing one. Contributions are differences of logits for binary
    tasks, and of predictions for regressions. They do not add up to the prediction: columns act
    together.

    Args:
        predict: The model.
        problem: The declaration.
        row: Raw feature columns of one row.

    Returns:
        A frame with the columns `column`, `value` and one per task, the largest contribution of
        any task first.
    """
    groups = _groups(problem)
    columns = problem.feature_columns()
    lines = [dict(row)]
    for group in groups:
        lines.append({**row, **dict.fromkeys(group)})
    frame = pd.DataFrame(
        {name: pd.Series([line[name] for line in lines], dtype=object) for name in columns}
    )
    predicted = predict(frame)
    contributions = {}
    for task, values in predicted.items():
        p = np.asarray(values, np.float64)
        if problem.task(task).kind == "binary":
            p = np.clip(p, 1e-12, 1 - 1e-12)
            p = np.log(p) - np.log1p(-p)
        contributions[task] = p[0] - p[1:]
    result = pd.DataFrame(
        {
            "column": [group[0] for group in groups],
            "value": [row[group[0]] for group in groups],
            **contributions,
        }
    )
    largest = result[list(contributions)].abs().max(axis=1)
    return result.iloc[np.argsort(-largest.to_numpy(), kind="stable")].reset_index(drop=True)


def _groups(problem: ProblemSpec) -> list[tuple[str, ...]]:
    """Columns that change together: a column, and the weights of its lists."""
    weights: dict[str, tuple[str, ...]] = {}
    for feature in problem.features:
        if isinstance(feature, Categorical) and feature.weights is not None:
            weights[feature.column] = (feature.weights,)
    of_weights = {name for names in weights.values() for name in names}
    names = [name for name in problem.feature_columns() if name not in of_weights]
    return [(name, *weights.get(name, ())) for name in names]


def _measured(
    predictions: Mapping[str, NDArray[Any]],
    problem: ProblemSpec,
    labels: NDArray[Any],
    observed: NDArray[np.bool_],
    names: Mapping[str, str],
) -> dict[str, float]:
    """Each served task's metric; an error counts negative, so that a fall is always worse."""
    values = {}
    for task in problem.served:
        k = problem.task_names.index(task.name)
        chosen = observed[:, k]
        with quietly():
            metrics = task_metrics(
                task.kind, labels[chosen, k], np.asarray(predictions[task.name])[chosen]
            )
        sign = 1.0 if task.kind == "binary" and names["binary"] == "auc" else -1.0
        values[task.name] = sign * metrics[names[task.kind]]
    return values
