"""How a trained model's gates use their experts: by task, on rows of one's own."""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.backbones.base import Backbone
from tfmtl.errors import DataError
from tfmtl.layers.extraction import Extraction
from tfmtl.layers.gates import Gates, watched
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel

EVERY_TASK, SHARED = "all tasks", "shared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateUse:
    """What gates that lie beside each other give to their experts.

    Args:
        gate: Where they lie: the layer's name, as `gates` or `level_1`.
        readers: Whose mixture each gate makes: a task, `all tasks`, or `shared` for the branch
            that several tasks read in the next level.
        experts: Names of the experts; `own 1` is another one for each task.
        use: `[readers, experts]`, the mean weight over rows; a reader's sum to 1.
        entropy: `[readers]`, the mean over rows of a row's entropy, in nats.
    """

    gate: str
    readers: tuple[str, ...]
    experts: tuple[str, ...]
    use: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]

    @property
    def evenness(self) -> tuple[float, ...]:
        """Entropy over its largest value, the log of the experts; 1 for a single expert."""
        most = math.log(len(self.experts))
        return tuple(e / most if most else 1.0 for e in self.entropy)


def gate_entropy(weights: ArrayLike) -> NDArray[np.float64]:
    """The entropy of gates' weights, in nats: `log E` where all are equal, 0 where one is 1.

    Args:
        weights: `[..., experts]`, not negative, with a sum of 1.

    Returns:
        `[...]`.

    Example:
        >>> gate_entropy([[0.5, 0.5], [0.0, 1.0]]).round(3).tolist()
        [0.693, 0.0]
    """
    w = np.asarray(weights, np.float64)
    # 0 log 0 is 0: an expert without weight tells nothing.
    return -np.sum(w * np.log(np.where(w > 0, w, 1.0)), axis=-1) + 0.0


def gate_use(model: MultiTaskModel, batches: Iterable[Packed]) -> tuple[GateUse, ...]:
    """Looks at every gate of a model's backbone while it predicts rows; none without gates.

    A gate is asked on all rows, as in serving, and not only where its task is observed.

    Args:
        model: A model that has been called before.
        batches: Packed tensors.

    Raises:
        DataError: There are gates, and no rows.
    """
    places = _places(model.backbone)
    layers = [layer for place in places for layer in place.layers]
    if not layers:
        return ()
    rows = 0
    use = [np.zeros((g.num_gates, g.num_experts)) for g in layers]
    entropy = [np.zeros(g.num_gates) for g in layers]
    for packed in batches:
        with watched(layers) as noted:
            model(packed)
        for i, calls in enumerate(noted):
            (weights,) = (call.numpy().astype(np.float64) for call in calls)
            use[i] += weights.sum(axis=0)
            entropy[i] += gate_entropy(weights).sum(axis=0)
        rows += len(weights)
    if not rows:
        raise DataError("there are no rows; the use of gates cannot be measured.")
    found, at = [], 0
    for place in places:
        end = at + len(place.layers)
        found.append(
            GateUse(
                gate=place.name,
                readers=place.readers,
                experts=place.experts,
                use=tuple(map(tuple, (np.concatenate(use[at:end]) / rows).tolist())),
                entropy=tuple((np.concatenate(entropy[at:end]) / rows).tolist()),
            )
        )
        at = end
    return tuple(found)


class _Place(NamedTuple):
    name: str
    readers: tuple[str, ...]
    experts: tuple[str, ...]
    layers: list[Gates]


def _places(backbone: Backbone) -> list[_Place]:
    tasks = backbone.tasks
    levels = [layer for layer in backbone.submodules if isinstance(layer, Extraction)]
    inside = {id(part) for level in levels for part in level.submodules}
    places = []
    for layer in backbone.submodules:
        if isinstance(layer, Extraction):
            places += _places_of_level(layer, tasks)
        elif isinstance(layer, Gates) and id(layer) not in inside:
            readers = tasks if layer.num_gates == len(tasks) else (EVERY_TASK,) * layer.num_gates
            experts = tuple(f"expert {i + 1}" for i in range(layer.num_experts))
            places.append(_Place(layer.name, readers, experts, [layer]))
    return sorted(places, key=lambda place: place.name)


def _places_of_level(level: Extraction, tasks: tuple[str, ...]) -> list[_Place]:
    def numbered(name: str, count: int) -> tuple[str, ...]:
        return tuple(f"{name} {i + 1}" for i in range(count))

    common = numbered(SHARED, level.num_shared)
    own = numbered("own", level.num_specific)
    places = [_Place(level.name, tasks, own + common, list(level.gates))]
    if level.shared_gate is not None:
        of_tasks = [name for task in tasks for name in numbered(task, level.num_specific)]
        name = f"{level.name}, shared"
        places.append(_Place(name, (SHARED,), (*of_tasks, *common), [level.shared_gate]))
    return places
