"""Recall on a replay log as a validation metric, so that training stops and searches choose by it.

A model that ranks well among impressions may rank badly among all that was retrieved (Wang et
al., AdKDD 2023, §3.3): recall is what an early stage is chosen by.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.layout import GROUP
from tfmtl.declare.total_value import ACTIONS
from tfmtl.errors import SpecError
from tfmtl.features.rows import READ_ROWS, ArrayRows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.replay.columns import column
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import divergence_at, rank, recall_at
from tfmtl.training.epochs import Validate

Transform = Callable[[pa.Table], Mapping[str, tf.Tensor]]


def replay_validation(
    experiment: ExperimentConfig, table: pa.Table, transform: Transform
) -> Validate:
    """Measures a model's `soft_recall@K`, `hard_recall@K` and `tvd@K` on a replay log.

    Hand it to `train(..., validate=…)` and name a metric in `Training(monitor="soft_recall@20")`.

    Args:
        experiment: Declares `value` and `replay`, whose `k` and `ks` are the Ks.
        table: The log: feature columns, and those that `value` and `replay` name.
        transform: Raw columns to packed tensors, such as a fitted `Preprocessor`.

    Raises:
        SpecError: The experiment declares no `replay`.
        DataError: The rows are no replay log.
    """
    value, replay = experiment.value, experiment.replay
    if value is None or replay is None:
        raise SpecError(
            f"experiment {experiment.name!r} declares no replay=Replay(k=…) with value="
            "TotalValue(actions={…}), so there is nothing to measure recall by."
        )
    log = ReplayLog.from_table(
        table,
        request_id=replay.request_id,
        ad_id=replay.ad_id,
        final_value=replay.final_value,
    )
    features = [name for name in table.column_names if name in experiment.problem.feature_columns()]
    packed = transform(table.select(features))
    rows = ArrayRows({name: x for name, x in packed.items() if name != GROUP})
    names = [value.bid, value.objective]
    # Without a conversion among the objectives no rate is read.
    if value.rate in table.column_names or any(ACTIONS[a][1] for a in value.actions.values()):
        names.append(value.rate)
    columns = {name: column(table, name, "the replay log") for name in names}
    ks = sorted({replay.k, *replay.ks})

    def validate(model: MultiTaskModel) -> dict[str, float]:
        ranking = rank(log, value.of_rows(predicted(model, rows), columns))
        recall = recall_at(log, ranking, ks).values()
        metrics = {}
        for i, k in enumerate(ks):
            metrics[f"soft_recall@{k}"] = float(recall["soft_recall"][i])
            metrics[f"hard_recall@{k}"] = float(recall["hard_recall"][i])
            metrics[f"tvd@{k}"] = float(divergence_at(log, ranking, k).value[0])
        return metrics

    return validate


def predicted(model: MultiTaskModel, rows: ArrayRows) -> dict[str, np.ndarray]:
    """The served tasks' predictions of packed rows without labels, `{task: [rows]}`."""
    predict = tf.function(model.predict_served, reduce_retracing=True)
    parts: dict[str, list[np.ndarray]] = {}
    for batch in rows.batches(READ_ROWS):
        for task, values in predict(batch).items():
            parts.setdefault(task, []).append(values.numpy())
    return {task: np.concatenate(values) for task, values in parts.items()}
