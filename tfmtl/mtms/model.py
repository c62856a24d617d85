"""The served model of MTMS: the fine-tuned networks of all scenes, on all components' tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.metrics.packed import Packed, Predicted, packed_metrics, predict_packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.frozen import ComponentTables
from tfmtl.mtms.units import scene_column, scene_ids


class MTMSModel(tf.Module):
    """Maps packed tensors to `{task: prediction}`; each row goes to the networks of its scene.

    A scene without a network for a task, and any other scene, gets the prediction of the first
    scene that has one. If click and conversion are predicted, so is their product.

    Args:
        problem: The whole problem.
        scenes: Names of the scenes.
        networks: Fine-tuned networks by scene and task.
        tables: Tables of all components that the networks read.

    Attributes:
        tower_sides: `None`: there are no towers to serve separately.
    """

    tower_sides = None

    def __init__(
        self,
        problem: ProblemSpec,
        scenes: Sequence[str],
        networks: Mapping[str, Mapping[str, MultiTaskModel]],
        tables: ComponentTables,
    ):
        super().__init__(name="mtms")
        self.problem, self.scenes, self.tables = problem, tuple(scenes), tables
        self.networks = {scene: dict(of_scene) for scene, of_scene in networks.items()}
        self.tasks = tuple(
            t for t in problem.task_names if any(t in n for n in self.networks.values())
        )
        if not self.tasks:
            raise DataError("no scene has a fine-tuned network; did any have labelled rows?")
        self._scene_ids = tf.constant(scene_ids(problem, scenes), tf.int32)
        self._column = scene_column(problem)
        self._predict: Any = None

    def __call__(self, packed: Packed) -> dict[str, tf.Tensor]:
        """Returns `{task: [batch]}`: probabilities, or a regression's value."""
        layout = layout_of(self.problem)
        ids = tf.concat(
            [packed[f"ids_{side}"] for side in layout.sides if layout.id_columns[side]], axis=1
        )
        scene_of_row = tf.cast(ids[:, self._column], tf.int32)
        # Without a match, argmax gives the first scene.
        scene = tf.argmax(
            scene_of_row[:, tf.newaxis] == self._scene_ids, axis=1, output_type=tf.int32
        )
        features = _features(packed)
        predictions = dict.fromkeys(self.tasks, tf.zeros(tf.shape(scene_of_row), tf.float32))
        for group in self._groups():
            network = tf.gather(tf.constant(group.routes), scene)
            for index in sorted(set(group.routes)):
                rows = tf.where(network == index)
                networks = self.networks[self.scenes[index]]
                values = _on_some(networks, group.tasks, features, rows)
                for task, value in zip(group.tasks, values, strict=True):
                    predictions[task] = tf.tensor_scatter_nd_update(predictions[task], rows, value)
        funnel = self.problem.funnel()
        if funnel is not None and {funnel[0], funnel[1]} <= set(predictions):
            predictions[funnel[2]] = predictions[funnel[0]] * predictions[funnel[1]]
        names = self.problem.task_names
        return {name: predictions[name] for name in names if name in predictions}

    def predict_served(self, packed: Packed) -> dict[str, tf.Tensor]:
        """Returns `{task: [batch]}` of the served tasks."""
        served = {task.name for task in self.problem.served}
        return {task: p for task, p in self(packed).items() if task in served}

    @property
    def calibrators(self) -> None:
        """None: slots hold back no validation rows to fit calibrators on."""

    def served_parts(self) -> list[Any]:
        """The networks and tables that `predict_served` uses."""
        parts: list[Any] = [self.tables]
        for of_scene in self.networks.values():
            for network in of_scene.values():
                parts += [network.backbone, network.heads]
        return parts

    def evaluate(self, batches: Iterable[Packed]) -> dict[str, float]:
        """Returns the exact metrics of every predicted task over all rows, as `packed_metrics`."""
        return packed_metrics(self.problem, self.predict_rows(batches))

    def predict_rows(self, batches: Iterable[Packed]) -> Predicted:
        """Returns the predictions of packed rows together with their labels."""
        return predict_packed(self._traced, batches)

    def _traced(self, packed: Packed) -> dict[str, tf.Tensor]:
        features = _features(packed)
        if self._predict is None:
            # One trace for every batch size, so that a smaller last batch is not traced again.
            specs = {
                name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
                for name, value in features.items()
            }
            # Without autograph, which took 90 % of the tracing: no code here branches on a tensor.
            self._predict = tf.function(self.__call__, input_signature=[specs], autograph=False)
        return self._predict(features)

    def _groups(self) -> "list[_Group]":
        """Groups of tasks whose rows go to the same networks."""
        by_route: dict[tuple[int, ...], list[str]] = {}
        for task in self.tasks:
            having = [i for i, s in enumerate(self.scenes) if task in self.networks.get(s, {})]
            route = tuple(i if i in having else having[0] for i in range(len(self.scenes)))
            by_route.setdefault(route, []).append(task)
        return [_Group(tasks, route) for route, tasks in by_route.items()]


class _Group:
    """Tasks, and per scene the scene whose networks predict them."""

    def __init__(self, tasks: Sequence[str], routes: Sequence[int]):
        self.tasks, self.routes = tuple(tasks), np.asarray(routes, np.int32)


def _features(packed: Packed) -> dict[str, tf.Tensor]:
    return {name: packed[name] for name in packed if name.startswith(("ids_", "numbers_"))}


def _on_some(
    networks: Mapping[str, MultiTaskModel],
    tasks: Sequence[str],
    features: Packed,
    rows: tf.Tensor,
) -> list[tf.Tensor]:
    """Predictions of a scene's networks on some rows; computes nothing if there are none."""

    def predict() -> list[tf.Tensor]:
        of_rows = {name: tf.gather_nd(value, rows) for name, value in features.items()}
        looked_up: dict[tuple[str, ...], tf.Tensor] = {}
        predictions = []
        for task in tasks:
            fields: Any = networks[task].embedding
            names = tuple(fields.input_names)
            if names not in looked_up:
                looked_up[names] = fields(of_rows)
            model = networks[task]
            outputs = model.heads(model.backbone(looked_up[names]))
            predictions.append(outputs[task]["prediction"])
        return predictions

    def nothing() -> list[tf.Tensor]:
        return [tf.zeros([0], tf.float32) for _ in tasks]

    return tf.cond(tf.shape(rows)[0] > 0, predict, nothing)
