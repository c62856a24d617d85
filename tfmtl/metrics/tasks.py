"""How good predictions are: all metrics of a task by name. NumPy in float64.

Every metric takes vectors of one length and returns a float. Where it is not defined it returns
NaN and warns by its name, never a value that reads like a result.
"""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from tfmtl import registry
from tfmtl.errors import did_you_mean
from tfmtl.metrics.auc import (
    GroupAUC,
    LogitHistogram,
    auc,
    auc_standard_error,
    gauc,
    group_auc,
)
from tfmtl.metrics.metric import KINDS, Metric
from tfmtl.metrics.probabilities import calibration, ece, log_loss, normalized_entropy
from tfmtl.metrics.residuals import bias, mae, mse, r2, rmse

__all__ = [
    "GroupAUC",
    "LogitHistogram",
    "auc",
    "auc_standard_error",
    "bias",
    "calibration",
    "ece",
    "gauc",
    "group_auc",
    "log_loss",
    "mae",
    "metric_name",
    "mse",
    "normalized_entropy",
    "r2",
    "rmse",
    "task_metrics",
]


def metric_name(task: str, metric: str, space: str) -> str:
    """The full name of a metric: of which task, and on which rows.

    Args:
        task: Task name.
        metric: Metric name, such as a key of `task_metrics`.
        space: Rows it is computed on, such as `imp` for all and `click` for clicked ones.

    Raises:
        ValueError: A part is empty or holds `/` or `@`, so that the name could not be read back.

    Example:
        >>> metric_name("cvr", "auc", "click")
        'cvr/auc@click'
    """
    for part in (task, metric, space):
        if not part or set("/@") & set(part):
            raise ValueError(f"a metric's name has parts without '/' or '@'; got {part!r}.")
    return f"{task}/{metric}@{space}"


def task_metrics(
    kind: str,
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    task: str | None = None,
    space: str | None = None,
    metrics: Sequence[Metric[...]] | None = None,
) -> dict[str, float]:
    """All metrics of one task on the rows given, which are those of its space.

    Args:
        kind: `binary`, whose standard metrics are `auc`, `gauc` (with groups), `log_loss`, `ne`,
            `calibration`, `ece` and `mae`; or `regression`, with `calibration`, `mae`, `mse`,
            `rmse`, `r2` and `bias`.
        labels: `[n]`, of the rows on which the task is observed.
        predictions: `[n]`, probabilities, or numbers in the label's unit.
        weights: `[n]`, not negative; without them every row counts once.
        groups: `[n]`, sortable keys such as request ids.
        task: Task name, for warnings.
        space: Space of the rows, for warnings.
        metrics: What is measured; the standard metrics of the kind if not given.

    Returns:
        Bare metric names to values; NaN, with a warning, where a metric is not defined.

    Example:
        >>> metrics = task_metrics("binary", [0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'auc': 0.875, 'log_loss': 0.439, 'ne': 0.633, 'calibration': 0.85, 'ece': 0.125,
         'mae': 0.325}
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind must be one of {list(KINDS)}; got {kind!r}.{did_you_mean(kind, KINDS)}"
        )
    if metrics is None:
        known = registry.parts("metric").values()
        metrics = [m for m in known if m.standard and kind in m.kinds and not m.counts]
    return {
        metric.name: metric.measure(
            labels,
            predictions,
            weights,
            groups,
            called=metric_name(task, metric.name, space) if task and space else metric.name,
        )
        for metric in metrics
        if groups is not None or not metric.needs_groups
    }
