"""Rows of one scene as a separate problem, and the ids that its tables hold."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfmtl.declare.features import FIRST, MISSING, UNKNOWN, Feature, TargetEncoding, numerical
from tfmtl.declare.layout import LABELS, WEIGHTS, Layout, layout_of
from tfmtl.declare.mtms import scene_feature
from tfmtl.declare.problem import ProblemSpec, Task
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import READ_ROWS, Rows, numpy_batches

Keys = dict[str, np.ndarray]
"""Per feature the sorted ids that have a table row, int32 `[rows]`; unknown and missing first."""


@dataclasses.dataclass(frozen=True, eq=False)
class SceneRows:
    """`N` rows of one scene, packed by the layout of the whole problem.

    Attributes:
        ids: int32 `[N, ids of all sides]`.
        numbers: float32 `[N, numbers of all sides]`.
        labels: float32 `[N, tasks]`.
        weights: float32 `[N, tasks]`; 0 if a task is not observed.
    """

    ids: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "SceneRows":
        """Returns some of the rows, by mask or index."""
        return SceneRows(self.ids[rows], self.numbers[rows], self.labels[rows], self.weights[rows])

    def save(self, path: str) -> None:
        """Writes the rows to an `.npz` file."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str) -> "SceneRows":
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def scene_ids(problem: ProblemSpec, scenes: Sequence[str]) -> list[int]:
    """Ids of scenes in the packed rows.

    Raises:
        SpecError: Two scenes have one id.
    """
    feature = scene_feature(problem)
    size = feature.encoding["size"]
    hashed = tf.strings.to_hash_bucket_fast(list(scenes), size)
    ids = [int(i) + FIRST for i in hashed]
    for i, name in enumerate(scenes):
        if ids[i] in ids[:i]:
            other = scenes[ids.index(ids[i])]
            raise SpecError(
                f"mtms: scenes {other!r} and {name!r} have one hash in size={size}; give "
                f"feature {feature.name!r} a larger size."
            )
    return ids


def scene_column(problem: ProblemSpec) -> int:
    """The column of the scene's id among the ids of all sides."""
    name = scene_feature(problem).name
    return next(s.start for s in layout_of(problem).ids if s.feature.name == name)


def by_scene(problem: ProblemSpec, scenes: Sequence[str], rows: Rows) -> dict[str, SceneRows]:
    """The rows of each scene; rows of other scenes are left out.

    Raises:
        DataError: No row belongs to one of the scenes.
    """
    layout, column = layout_of(problem), scene_column(problem)
    ids = scene_ids(problem, scenes)
    parts: dict[str, list[SceneRows]] = {scene: [] for scene in scenes}
    for packed in numpy_batches(rows, READ_ROWS):
        batch = SceneRows(
            side_by_side(packed, "ids", layout, np.int32),
            side_by_side(packed, "numbers", layout, np.float32),
            packed[LABELS],
            packed[WEIGHTS],
        )
        for scene, number in zip(scenes, ids, strict=True):
            parts[scene].append(batch.take(batch.ids[:, column] == number))
    rows_by_scene = {scene: _joined(part) for scene, part in parts.items() if part}
    if not any(len(r) for r in rows_by_scene.values()):
        raise DataError(
            f"no row is of a scene that mtms names; scenes are {list(scenes)}. Is "
            f"{problem.scene!r} the column that holds them?"
        )
    return rows_by_scene


def side_by_side(packed: Mapping[str, np.ndarray], what: str, layout: Layout, dtype) -> np.ndarray:
    """The packed ids or numbers of all sides as one array `[rows, columns]`."""
    columns = layout.id_columns if what == "ids" else layout.number_columns
    parts = [np.asarray(packed[f"{what}_{side}"], dtype) for side in layout.sides if columns[side]]
    if not parts:
        return np.zeros([len(packed[LABELS]), 0], dtype)
    return np.concatenate(parts, axis=1)


def part_of(problem: ProblemSpec, features: Sequence[Feature], tasks: Sequence[str]) -> ProblemSpec:
    """A problem of some features and tasks, for rows that are already packed.

    The rows' weights already say on which rows a task is observed.
    """
    # A problem must serve a task. Which tasks are really served, the whole problem says.
    chosen = [dataclasses.replace(problem.task(name), served=True) for name in tasks]
    if len(chosen) == 1:
        chosen = [alone(chosen[0])]
    return dataclasses.replace(
        problem,
        features=tuple(map(_encoded, features)),
        tasks=tuple(chosen),
        drop_if=None,
        scene=None,
        request_id=None,
        user_id=None,
        time=None,
    )


def alone(task: Task) -> Task:
    """The task without its reference to the labels of other tasks."""
    return dataclasses.replace(task, observed_if=None, labelled_if=None)


def pack(
    problem: ProblemSpec, part: ProblemSpec, rows: SceneRows, keys: Keys
) -> dict[str, np.ndarray]:
    """Rows as packed tensors of the part; ids become positions in the keys of their feature."""
    layout = layout_of(part)
    id_columns, number_columns = columns_of(problem, part)
    ids, numbers = rows.ids[:, id_columns], rows.numbers[:, number_columns]
    local = np.empty_like(ids)
    for slots in layout.ids:
        columns = slice(slots.start, slots.start + slots.width)
        local[:, columns] = places(keys[slots.feature.name], ids[:, columns])
    tasks = [problem.task_names.index(name) for name in part.task_names]
    labels = {LABELS: rows.labels[:, tasks], WEIGHTS: rows.weights[:, tasks]}
    return {**labels, **sides(layout, local, numbers)}


def sides(layout: Layout, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Ids and numbers of all sides, `[rows, columns]`, as packed tensors; see `side_by_side`."""
    packed = {}
    for what, array, widths in (
        ("ids", ids, layout.id_columns),
        ("numbers", numbers, layout.number_columns),
    ):
        at = 0
        for side in layout.sides:
            if widths[side]:
                packed[f"{what}_{side}"] = array[:, at : at + widths[side]]
            at += widths[side]
    return packed


def columns_of(problem: ProblemSpec, part: ProblemSpec) -> tuple[list[int], list[int]]:
    """The columns of the part's ids and numbers among those of the whole problem."""
    whole, of_part = layout_of(problem), layout_of(part)
    starts = {s.feature.name: s.start for s in whole.ids}
    ids = [starts[s.feature.name] + i for s in of_part.ids for i in range(s.width)]
    number_starts = {s.feature.name: s.start for s in whole.numbers}
    numbers = [0] * of_part.number_width
    for s in of_part.numbers:
        for i in range(s.width):
            numbers[s.start + i] = number_starts[s.feature.name] + i
    for s in of_part.ids:
        start = of_part.weights.get(s.feature.name)
        if start is not None:
            for i in range(s.width):
                numbers[start + i] = whole.weights[s.feature.name] + i
    return ids, numbers


def digest(problem: ProblemSpec, part: ProblemSpec, rows: SceneRows) -> str:
    """A hash of the columns that a part reads; other features and tasks do not change it."""
    ids, numbers = columns_of(problem, part)
    tasks = [problem.task_names.index(name) for name in part.task_names]
    total = hashlib.blake2b(digest_size=16)
    for array, columns in (
        (rows.ids, ids),
        (rows.numbers, numbers),
        (rows.labels, tasks),
        (rows.weights, tasks),
    ):
        total.update(array[:, columns].tobytes())
    return total.hexdigest()


def keys_of(problem: ProblemSpec, part: ProblemSpec, rows: SceneRows, min_count: int = 1) -> Keys:
    """Ids that occur in at least `min_count` places of the rows, by feature."""
    columns, _ = columns_of(problem, part)
    keys = {}
    for slots in layout_of(part).ids:
        of_feature = columns[slots.start : slots.start + slots.width]
        ids, counts = np.unique(rows.ids[:, of_feature], return_counts=True)
        frequent = ids[(ids >= FIRST) & (counts >= min_count)]
        keys[slots.feature.name] = joined_keys(frequent.astype(np.int32))
    return keys


def joined_keys(*parts: np.ndarray) -> np.ndarray:
    """Sorted ids of all parts, with `unknown` and `missing`, which every table has."""
    return np.unique(np.concatenate([np.asarray([UNKNOWN, MISSING], np.int32), *parts]))


def places(keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position of each id in the keys, int32; an id without one becomes `unknown`.

    Padding (ids below 0) stays as it is.
    """
    nearest = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    known = keys[nearest] == ids
    return np.where(ids < 0, ids, np.where(known, nearest, UNKNOWN)).astype(np.int32)


def _joined(parts: Sequence[SceneRows]) -> SceneRows:
    names = [field.name for field in dataclasses.fields(SceneRows)]
    return SceneRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _encoded(feature: Feature) -> Feature:
    # In packed rows a target encoding is one number, also if its task is not in the part. Its
    # column gets a new name, because another feature may read the original one as text.
    if isinstance(feature, TargetEncoding):
        return numerical(feature.name, column=f"encoded {feature.name}", side=feature.side)
    return feature
