"""Components and networks on disk, and how a slot continues from those of the slot before."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.features import FIRST
from tfmtl.durable import read_arrays, read_json, seal, whole_file, whole_folder
from tfmtl.errors import SpecError
from tfmtl.plain import file_name, write_json

MOMENTS = ("_momentums", "_velocities", "_accumulators")


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """The tables of one component: one row for every id that occurred in its training rows.

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
        """The rows of a field."""
        index = self.features.index(feature)
        start = int(self.sizes[:index].sum())
        return slice(start, start + int(self.sizes[index]))

    def without(self, dropped: np.ndarray) -> "Component":
        """Returns the component without some rows, bool `[R]`; unknown and missing always stay."""
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
        with whole_file(path) as file:
            np.savez(file, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str) -> "Component":
        """Reads what `save` wrote.

        Raises:
            Damaged: The file is missing, cut off or changed.
        """
        arrays = read_arrays(path)
        values: dict[str, Any] = {f.name: arrays[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**values, "features": tuple(map(str, values["features"]))})


def row_moments(optimizer: keras.optimizers.Optimizer, index: int) -> list[tf.Variable]:
    """The optimizer's state of its variable number `index`, in the shape of that variable."""
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
        variables: All of the network's variables.
        trained: The variables that the first optimizer was built with.
        optimizers: The network's optimizers; of all but the first only the step count is kept.
        inputs: Names of the input's columns, if they may change from slot to slot.
        fields: Names and meanings of the fields that the network reads, if these may not change.
    """
    arrays = {f"variable/{i}": v.numpy() for i, v in enumerate(variables)}
    for i in range(len(trained)):
        for j, moment in enumerate(row_moments(optimizers[0], i)):
            arrays[f"moment/{i}/{j}"] = moment.numpy()
    arrays["steps"] = np.asarray([int(optimizer.iterations) for optimizer in optimizers])
    arrays["inputs"] = np.asarray(list(inputs), np.str_)
    arrays["fixed"] = np.asarray(_fixed(optimizers, fields), np.str_)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def load_network(
    path: str,
    variables: Sequence[tf.Variable],
    trained: Sequence[tf.Variable],
    optimizers: Sequence[keras.optimizers.Optimizer],
    inputs: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> None:
    """Assigns to a network what `save_network` wrote.

    If the names of the inputs differ, the rows of the first kernel are matched by name. The row of
    a new input is zero, so that at first it changes no prediction.

    Raises:
        SpecError: The network has another shape, other fields or other optimizers.
        Damaged: The file is missing, cut off or changed.
    """
    arrays = read_arrays(path)
    # Checked by name, because the state of another optimizer, or the kernel rows of another field,
    # may have the same shape. A served network has no optimizer.
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
    for owner, variable, value in pairs:
        value = None if value is None else fitted(owner, value)
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
    """The folder of a scene's components and networks in a slot's folder."""
    return os.path.join(folder, "scenes", file_name(scene))


def component_path(folder: str, scene: str, owner: str, unit: Sequence[str]) -> str:
    """The file of a component."""
    return os.path.join(update_folder(folder, scene, unit), f"{file_name(owner)}.npz")


def update_folder(folder: str, scene: str, unit: Sequence[str]) -> str:
    """The folder of the components and the network of a unit's embedding update."""
    return os.path.join(scene_folder(folder, scene), f"update-{'-'.join(map(_part, unit))}")


def target_folder(folder: str, scene: str, task: str) -> str:
    """The folder of a task's fine-tuned network."""
    return os.path.join(scene_folder(folder, scene), f"fine_tune-{file_name(task)}")


def _part(task: str) -> str:
    # Tasks are joined by a hyphen, which is thus none of theirs.
    return file_name(task).replace("-", "%2D")


class Building:
    """A folder that appears whole or not at all, sealed, and says of itself what it is.

    Args:
        path: The folder.
        about: What it says, as it is when the block ends.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "part")
        >>> with Building(path, {"fingerprint": "a"}) as folder:
        ...     with open(os.path.join(folder, "table"), "w") as file:
        ...         _ = file.write("…")
        >>> sorted(os.listdir(path)), read_about(path)
        (['about.json', 'seal.json', 'table'], {'fingerprint': 'a'})
    """

    def __init__(self, path: str, about: dict[str, Any]):
        self.path, self.about = path, about

    def __enter__(self) -> str:
        self._stack = contextlib.ExitStack()
        self.building = self._stack.enter_context(whole_folder(self.path))
        # Left in the reverse order: what it says is written before the folder gets its name.
        self._stack.push(self._finish)
        return self.building

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(self, kind, error, trace) -> None:
        if kind is None:
            write_json(os.path.join(self.building, ABOUT), self.about, indent=1, sort_keys=True)
            seal(self.building)


ABOUT = "about.json"


def read_about(path: str) -> dict[str, Any] | None:
    """What a finished folder says of itself; `None` where there is none.

    Raises:
        Damaged: It says nothing that can be read.
    """
    about = os.path.join(path, ABOUT)
    return read_json(about) if os.path.exists(about) else None


def _fixed(optimizers, fields: Iterable[str]) -> list[str]:
    return [*(type(optimizer).__name__ for optimizer in optimizers), *fields]


def _by_name(value: np.ndarray, former: Sequence[str], inputs: Sequence[str]) -> np.ndarray:
    rows = {name: i for i, name in enumerate(former)}
    by_name = np.zeros((len(inputs), *value.shape[1:]), value.dtype)
    for i, name in enumerate(inputs):
        if name in rows:
            by_name[i] = value[rows[name]]
    return by_name
