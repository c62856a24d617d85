"""Fitted curves as a part of the model's graph."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.calibration.curves import Curve


class Calibrators(tf.Module):
    """Maps a head's logits to calibrated ones, by task and by a row's scene.

    Args:
        curves: By task, one curve per scene id, and under `None` the pooled one.
        num_scenes: Scene ids; 0 where all rows have the pooled curve.
        record: Plain data on the fit, which an export writes beside the model.
    """

    def __init__(
        self,
        curves: Mapping[str, Mapping[int | None, Curve]],
        *,
        num_scenes: int,
        record: Mapping[str, Any],
    ) -> None:
        super().__init__(name="calibrators")
        self.num_scenes = num_scenes
        # As text: a dictionary would be saved with the model.
        self.record_json = json.dumps(record, indent=1)
        self._tables = {
            task: _tables([of_scene.get(i, of_scene[None]) for i in range(max(num_scenes, 1))])
            for task, of_scene in curves.items()
        }

    @property
    def record(self) -> dict[str, Any]:
        """Plain data on the fit."""
        record: dict[str, Any] = json.loads(self.record_json)
        return record

    def calibrates(self, task: str) -> bool:
        """Whether the task has a calibrator."""
        return task in self._tables

    def __call__(self, task: str, logits: tf.Tensor, scene: tf.Tensor | None) -> tf.Tensor:
        """Calibrated logits `[batch]`.

        Args:
            task: A task with a calibrator.
            logits: `[batch]`.
            scene: Scene ids `[batch]`; not read where all rows have the pooled curve.

        Raises:
            ValueError: The curves are by scene and no scene is given.
        """
        tables = self._tables[task]
        if self.num_scenes and scene is None:
            raise ValueError(f"task {task!r} is calibrated by scene, and no scene is given.")
        if scene is None or not self.num_scenes:
            scene = tf.zeros_like(logits, tf.int32)
        # An id beyond the table cannot occur in one model; 0 is the unknown scene.
        scene = tf.where((scene >= 0) & (scene < max(self.num_scenes, 1)), scene, 0)
        knots = tf.gather(tables["x"], scene)
        passed = tf.reduce_sum(tf.cast(knots <= logits[:, tf.newaxis], tf.int32), axis=1)
        place = tf.stack([scene, tf.maximum(passed - 1, 0)], axis=1)
        x, y, slope = (tf.gather_nd(tables[name], place) for name in ("x", "y", "slope"))
        outside = tf.gather(tables["outside"], scene)
        # The slope after a knot; before the first one it is the slope outside.
        return y + tf.where(passed == 0, outside, slope) * (logits - x)


def _tables(curves: list[Curve]) -> dict[str, tf.Variable]:
    width = max(len(curve.x) for curve in curves)
    x = np.full((len(curves), width), np.inf)
    y, slope = np.zeros_like(x), np.ones_like(x)
    for row, curve in enumerate(curves):
        count = len(curve.x)
        x[row, :count], y[row, :count] = curve.x, curve.y
        slope[row, : count - 1] = np.diff(curve.y) / np.diff(curve.x)
        slope[row, count - 1] = curve.slope
    arrays = {"x": x, "y": y, "slope": slope, "outside": np.array([c.slope for c in curves])}
    return {
        name: tf.Variable(values.astype(np.float32), trainable=False, name=name)
        for name, values in arrays.items()
    }
