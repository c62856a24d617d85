"""Metrics of a model's probabilities before and after its calibrators."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfmtl.calibration.fit import logits_of
from tfmtl.errors import SpecError
from tfmtl.features.rows import READ_ROWS, Rows
from tfmtl.metrics.checks import quietly
from tfmtl.metrics.tasks import task_metrics
from tfmtl.model.multitask import MultiTaskModel

METRICS = ("log_loss", "ne", "calibration", "ece", "auc")


def calibration_report(model: MultiTaskModel, rows: Rows) -> pd.DataFrame:
    """Metrics per binary task and scene, before and after the calibrators.

    Args:
        model: A model with calibrators.
        rows: Packed rows with labels; test rows, since validation rows were fitted on.

    Returns:
        A frame indexed by `task` and `scene` (`all`, or the scene's id among the rows), with
        `rows`, `positives`, `standard_error` of calibration as the labels alone give it,
        `clamped`, the share of rows whose conversion was held below their click, and each metric
        with `_before` and `_after`.

    Raises:
        SpecError: The model has no calibrators.
    """
    calibrators = model.heads.calibrators
    if calibrators is None:
        raise SpecError("the model has no calibrators; train with calibration=Calibration().")
    after = model.predict_rows(rows.batches(READ_ROWS))
    model.calibrate_with(None)
    try:
        before = model.predict_rows(rows.batches(READ_ROWS))
    finally:
        model.calibrate_with(calibrators)
    known = logits_of(model, rows)
    clamped = _clamped(model, before.predictions, after.predictions)
    lines = []
    for task in model.problem.served:
        if task.kind != "binary":
            continue
        k = model.problem.task_names.index(task.name)
        for scene, of_scene in _scenes(known.scenes, len(before.labels)):
            chosen = before.observed[:, k] & of_scene
            labels = before.labels[chosen, k].astype(np.float64)
            line: dict[str, Any] = {"task": task.name, "scene": scene, "rows": len(labels)}
            line |= {"positives": float(labels.sum())}
            line |= {"clamped": float(clamped[of_scene].mean()) if len(labels) else 0.0}
            for when, predicted in (("before", before), ("after", after)):
                values = _metrics(labels, predicted.predictions[task.name][chosen], task.name)
                line |= {f"{name}_{when}": values[name] for name in METRICS}
            line["standard_error"] = _standard_error(after.predictions[task.name][chosen])
            lines.append(line)
    return pd.DataFrame(lines).set_index(["task", "scene"])


def _scenes(scenes: NDArray[Any] | None, rows: int) -> list[tuple[Any, NDArray[np.bool_]]]:
    parts: list[tuple[Any, NDArray[np.bool_]]] = [("all", np.ones(rows, bool))]
    if scenes is not None:
        parts += [(int(scene), scenes == scene) for scene in np.unique(scenes)]
    return parts


def _metrics(labels: NDArray[Any], predictions: NDArray[Any], task: str) -> dict[str, float]:
    if not len(labels):
        return dict.fromkeys(METRICS, float("nan"))
    with quietly():
        return task_metrics("binary", labels, predictions, task=task, space="")


def _standard_error(predictions: NDArray[Any]) -> float:
    """Of mean prediction over mean label, if the predictions were true."""
    p = predictions.astype(np.float64)
    return float(np.sqrt(np.sum(p * (1 - p))) / p.sum()) if p.sum() else float("nan")


def _clamped(
    model: MultiTaskModel, before: dict[str, Any] | Any, after: dict[str, Any] | Any
) -> NDArray[np.bool_]:
    funnel = model.problem.funnel()
    some = next(iter(after.values()))
    if funnel is None or model.heads.conv_semantics != "ctcvr_direct":
        return np.zeros(len(some), bool)
    if funnel[0] not in after or funnel[2] not in after:
        return np.zeros(len(some), bool)
    return np.asarray(after[funnel[2]] == after[funnel[0]])
