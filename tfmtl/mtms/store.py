"""Components and networks on disk, and how a slot takes over those of the slot before."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.features import FIRST
from tfmtl.errors import SpecError
from tfmtl.plain import write_json

MOMENTS = ("_momentums", "_velocities", "_accumulators")


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """The tables of one component: a row for every id its training rows have had.

    Attributes:
        features: Names of its fields, in the order of the rows.
        sizes: Rows of each field, `[F]`; `R` in all.
        keys: int32 `[R]`, ids, sorted within each field; its first two are unknown and missing.
        seen: int32 `[R]`, the last slot that had the id.
        table: float32 `[R, dim]`.
        moments: float32 `[M, R, dim]`, the optimizer's state of each row.
    """

    features: tuple[str, ...]
    sizes: np.ndarray
    keys: np.ndarray
    seen: np.ndarray
    table: np.ndarray
    moments: np.ndarray

    def block(self, feature: str) -> slice:
        """Where a field's rows lie."""
        index = self.features.index(feature)
        start = int(self.sizes[:index].sum())
        return slice(start, start + int(self.sizes[index]))

    def without(self, dropped: np.ndarray) -> "Component":
        """The component without some rows, bool `[R]`; unknown and missing always stay."""
        kept = ~dropped | (self.keys < FIRST)
        counts = [int(kept[self.block(feature)].sum()) for feature in self.features]
        return Component(
            self.features,
            np.asarray(counts),
            self.keys[kept],
            self.seen[kept],
            self.table[kept],
            self.moments[:, kept],
        )

    def save(self, path: str) -> None:
        """Writes the component to a file."""
        with open(path, "wb") as file:
            np.savez(file, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str) -> "Component":
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            found = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**found, "features": tuple(map(str, found["features"]))})


def row_moments(optimizer: keras.optimizers.Optimizer, index: int) -> list[tf.Variable]:
    """The optimizer's state of its variable number `index`, shaped as the variable."""
    return [getattr(optimizer, name)[index] for name in MOMENTS if getattr(optimizer, name, None)]


def save_network(
    path: str,
    variables: Sequence[tf.Variable],
    trained: Sequence[tf.Variable],
    optimizers: Sequence[keras.optimizers.Optimizer],
    inputs: Iterable[str] = (),
    fields: Iterable[str] = (),
) -> None:
    """Writes a network and the state of its optimizer.

    Args:
        path: The file.
        variables: All of its variables.
        trained: Those that the first optimizer was built with.
        optimizers: The network's; further ones only give their count of steps.
        inputs: Names of the input's columns, where they may change from slot to slot.
        fields: What the network reads, by name and meaning, where it may not change.
    """
    arrays = {f"variable/{i}": v.numpy() for i, v in enumerate(variables)}
    for i in range(len(trained)):
        for j, moment in enumerate(row_moments(optimizers[0], i)):
            arrays[f"moment/{i}/{j}"] = moment.numpy()
    arrays["steps"] = np.asarray([int(optimizer.iterations) for optimizer in optimizers])
    arrays["inputs"] = np.asarray(list(inputs), np.str_)
    arrays["fixed"] = np.asarray(_fixed(optimizers, fields), np.str_)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_network(
    path: str,
    variables: Sequence[tf.Variable],
    trained: Sequence[tf.Variable],
    optimizers: Sequence[keras.optimizers.Optimizer],
    inputs: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> None:
    """Gives a network what `save_network` wrote.

    Where the inputs' names differ, the rows of the first kernel go by name: a new input starts
    at zero, so that at first it changes no prediction.

    Raises:
        SpecError: The network has another shape, other fields or other optimizers.
    """
    with np.load(path) as file:
        arrays = dict(file)
    # What is served has no optimizer. Equal shapes would let one optimizer's state, or a field's
    # rows of a kernel, pass for another's.
    fixed, now = [str(name) for name in arrays["fixed"]], _fixed(optimizers, fields)
    if optimizers and fixed != now:
        raise SpecError(
            f"{path} holds a network of {fixed}; now it is of {now}. Optimizers, and the fields "
            "of an update's network with their order and encoding, cannot change between slots; "
            "start anew without the previous slot."
        )
    former = [str(name) for name in arrays["inputs"]]
    kernel = next(iter(trained or variables), None)

    def fitted(variable: tf.Variable, value: np.ndarray) -> np.ndarray:
        if variable is kernel and list(inputs) != former and len(value) == len(former):
            return _by_name(value, former, inputs)
        return value

    pairs = [(v, v, arrays.get(f"variable/{i}")) for i, v in enumerate(variables)]
    for i, variable in enumerate(trained):
        for j, moment in enumerate(row_moments(optimizers[0], i)):
            pairs.append((variable, moment, arrays.get(f"moment/{i}/{j}")))
    for of, variable, value in pairs:
        value = None if value is None else fitted(of, value)
        if value is None or value.shape != tuple(variable.shape):
            held = "missing" if value is None else list(value.shape)
            raise SpecError(
                f"{path} holds a network of another shape: {variable.name} is {held} there and "
                f"{list(variable.shape)} now. Widths and optimizers cannot change between slots; "
                "start anew without the previous slot."
            )
        variable.assign(value)
    for optimizer, steps in zip(optimizers, arrays["steps"], strict=False):
        optimizer.iterations.assign(steps)


def scene_folder(folder: str, scene: str) -> str:
    """Where a scene's components and networks lie in a slot's folder."""
    return os.path.join(folder, "scenes", quote(scene, safe=""))


def component_path(folder: str, scene: str, owner: str, unit: Sequence[str]) -> str:
    """The file of a component."""
    return os.path.join(update_folder(folder, scene, unit), f"{owner}.npz")


def update_folder(folder: str, scene: str, unit: Sequence[str]) -> str:
    """Where the embedding update of a unit leaves its components and its network."""
    return os.path.join(scene_folder(folder, scene), f"update-{'-'.join(unit)}")


def target_folder(folder: str, scene: str, task: str) -> str:
    """Where the fine-tuning of a task leaves its network."""
    return os.path.join(scene_folder(folder, scene), f"fine_tune-{task}")


class Building:
    """A folder that appears whole or not at all.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "part")
        >>> with Building(path, {"fingerprint": "a"}) as folder:
        ...     _ = open(os.path.join(folder, "table"), "w").write("…")
        >>> sorted(os.listdir(path)), read_about(path)
        (['about.json', 'table'], {'fingerprint': 'a'})
    """

    def __init__(self, path: str, about: dict[str, Any]):
        self.path, self.about = path, about

    def __enter__(self) -> str:
        self.building = f"{self.path}.building"
        shutil.rmtree(self.building, ignore_errors=True)
        os.makedirs(self.building)
        return self.building

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            return
        write_json(os.path.join(self.building, ABOUT), self.about, indent=1, sort_keys=True)
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(self.building, self.path)


ABOUT = "about.json"


def read_about(path: str) -> dict[str, Any] | None:
    """What a finished folder says of itself; `None` where there is none."""
    about = os.path.join(path, ABOUT)
    if not os.path.exists(about):
        return None
    with open(about, encoding="utf-8") as file:
        return json.load(file)


def _fixed(optimizers, fields: Iterable[str]) -> list[str]:
    return [*(type(optimizer).__name__ for optimizer in optimizers), *fields]


def _by_name(value: np.ndarray, former: Sequence[str], inputs: Sequence[str]) -> np.ndarray:
    rows = {name: i for i, name in enumerate(former)}
    found = np.zeros((len(inputs), *value.shape[1:]), value.dtype)
    for i, name in enumerate(inputs):
        if name in rows:
            found[i] = value[rows[name]]
    return found
