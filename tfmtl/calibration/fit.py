"""Fits the calibrators of a trained model on its validation rows."""

import dataclasses
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from tfmtl.backbones.scenes import scene_of
from tfmtl.calibration.calibrators import Calibrators
from tfmtl.calibration.curves import FITS, IDENTITY, Curve, Floats, log_loss
from tfmtl.data.hashing import mix
from tfmtl.declare.calibration import Calibration
from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.features.rows import READ_ROWS, Rows
from tfmtl.model.multitask import MultiTaskModel

LEAST_ROWS, LEAST_OF_A_CLASS = 1000, 50


@dataclasses.dataclass(frozen=True)
class Logits:
    """Logits of `N` rows and what happened.

    Args:
        logits: By task `[N]`, of the heads, before any calibrator.
        labels: `[N, tasks]`.
        observed: bool `[N, tasks]`; false for pseudo-labels too.
        scenes: Scene ids `[N]`; `None` where no scene is a feature.
        folds: 0 or 1, `[N]`; rows of one request have one fold.
    """

    logits: dict[str, Floats]
    labels: NDArray[Any]
    observed: NDArray[np.bool_]
    scenes: NDArray[Any] | None
    folds: NDArray[Any]


def calibrate(model: MultiTaskModel, rows: Rows, settings: Calibration) -> Calibrators:
    """Fits calibrators and makes them part of the model.

    Each is fitted on the rows on which its task is observed. It is kept where it lowers the log
    loss of rows that it was not fitted on, by two folds of requests; otherwise the logit stays as
    it is.

    Args:
        model: A trained model.
        rows: Validation rows: packed, with labels, none of them down-sampled.
        settings: Which calibrators.

    Returns:
        The calibrators; their `record` has the parameters and the losses before and after.

    Raises:
        SpecError: A task of `settings` has no head, or calibration is by scene and the model's
            `rank` signature has none.
    """
    tasks = _tasks(model, settings)
    by_scene = _by_scene(model, settings)
    known = logits_of(model, rows)
    num_scenes = 0
    if by_scene and known.scenes is not None:
        # An id that no validation row has gets the pooled curve.
        num_scenes = int(known.scenes.max(initial=-1)) + 1
    curves: dict[str, dict[int | None, Curve]] = {}
    record: dict[str, Any] = {"method": settings.method, "tasks": {}}
    for task in tasks:
        k = model.problem.task_names.index(task)
        observed = known.observed[:, k]
        s, y = known.logits[task][observed], known.labels[observed, k].astype(np.float64)
        folds = known.folds[observed]
        pooled, told = _fit(settings.method, s, y, folds)
        curves[task] = {None: pooled}
        record["tasks"][task] = {"pooled": told, "scenes": {}}
        scenes = None if known.scenes is None else known.scenes[observed]
        # The first two ids are unknown and missing scenes.
        for scene in range(2, num_scenes):
            of_scene = scenes == scene
            if _enough(y[of_scene]):
                curve, told = _fit(settings.method, s[of_scene], y[of_scene], folds[of_scene])
                curves[task][scene] = curve
                record["tasks"][task]["scenes"][scene] = told
    calibrators = Calibrators(curves, num_scenes=num_scenes, record=record)
    model.calibrate_with(calibrators)
    return calibrators


def logits_of(model: MultiTaskModel, rows: Rows) -> Logits:
    """The logits of a model's heads on packed rows, in their order."""
    problem = model.problem
    feature = problem.scene_feature()
    parts: dict[str, list[NDArray[Any]]] = {}
    for packed in rows.batches(READ_ROWS):
        outputs, _ = model.forward(packed)
        found = {task: outputs[task]["logit"] for task in model.heads.tasks if task in outputs}
        found |= {name: packed[name] for name in (LABELS, WEIGHTS, PSEUDO, GROUP) if name in packed}
        if feature is not None:
            found["scene"] = scene_of(feature, problem, packed)
        for name, values in found.items():
            parts.setdefault(name, []).append(np.asarray(values))
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    observed = joined[WEIGHTS] > 0
    if PSEUDO in joined:
        observed &= ~(joined[PSEUDO] > 0)
    groups = joined.get(GROUP, np.arange(len(observed)))
    return Logits(
        logits={t: joined[t].astype(np.float64) for t in model.heads.tasks if t in joined},
        labels=joined[LABELS],
        observed=observed,
        scenes=joined.get("scene"),
        folds=(mix(groups.astype(np.uint64)) >> np.uint64(40)).astype(np.int64) % 2,
    )


def _fit(
    method: str, logits: Floats, labels: Floats, folds: NDArray[Any]
) -> tuple[Curve, dict[str, Any]]:
    fit = FITS[method]
    told: dict[str, Any] = {"rows": len(labels), "positives": float(labels.sum())}
    halves = [folds == fold for fold in (0, 1)]
    if not all(_both_classes(labels[half]) for half in halves):
        return IDENTITY, told | {"kept": False, "why": "a fold lacks one of the classes"}
    before = log_loss(logits, labels)
    crossed = np.empty_like(logits)
    for half, other in (halves, halves[::-1]):
        crossed[other] = fit(logits[half], labels[half])(logits[other])
    after = log_loss(crossed, labels)
    curve = fit(logits, labels) if after < before else IDENTITY
    told |= {"kept": after < before, "log_loss_before": before, "log_loss_after": after}
    told |= {"mean_label": float(labels.mean()), **dataclasses.asdict(curve)}
    probability = {"before": logits, "after": curve(logits)}
    for when, values in probability.items():
        told[f"mean_prediction_{when}"] = float(np.mean(1 / (1 + np.exp(-values))))
    return curve, told


def _both_classes(labels: Floats) -> bool:
    return len(labels) > 0 and 0 < labels.sum() < len(labels)


def _enough(labels: Floats) -> bool:
    positives = labels.sum()
    least = min(positives, len(labels) - positives)
    return len(labels) >= LEAST_ROWS and least >= LEAST_OF_A_CLASS


def _tasks(model: MultiTaskModel, settings: Calibration) -> list[str]:
    binary = [
        task for task in model.heads.served_tasks() if model.problem.task(task).kind == "binary"
    ]
    if settings.tasks is None:
        return binary
    for task in settings.tasks:
        if task not in binary:
            raise SpecError(
                f"calibration.tasks names {task!r}; the served binary tasks with a logit of their "
                f"own are {binary}.{did_you_mean(task, binary)}"
            )
    return list(settings.tasks)


def _by_scene(model: MultiTaskModel, settings: Calibration) -> bool:
    feature = model.problem.scene_feature()
    if not settings.by_scene or model.problem.scene is None:
        return False
    if model.tower_sides is not None:
        raise SpecError(
            "calibration.by_scene: the signature `rank` of a model of towers takes vectors and "
            "knows no scene; by_scene=False would be right."
        )
    if feature is None:
        logging.warning(
            "Calibration is not by scene: no feature has the ids of scene %r.", model.problem.scene
        )
        return False
    return True
