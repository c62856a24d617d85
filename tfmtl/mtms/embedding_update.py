"""The embedding update of MTMS: trains a scene's tables from those of the slot before (fig. 2b)."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.experiment import ExperimentConfig, Model
from tfmtl.declare.layout import layout_of
from tfmtl.declare.mtms import MTMS, meaning
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.features.rows import ArrayRows, label_moments
from tfmtl.layers.tables import PAD_ROWS
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.passes import Step, compile_for_passes, seed_of, train_passes
from tfmtl.mtms.store import (
    Component,
    load_network,
    row_moments,
    save_network,
)
from tfmtl.mtms.traced import (
    MOST_ROWS,
    Traced,
    TracedNetworks,
    can_share,
    first_row,
    settings_of,
)
from tfmtl.mtms.units import Keys, SceneRows, joined_keys, keys_of, pack, part_of, places
from tfmtl.plain import file_name


def update_embeddings(
    experiment: ExperimentConfig,
    scene: str,
    unit: Sequence[str],
    rows: SceneRows,
    *,
    slot: int,
    folder: str,
    previous: str | None = None,
    networks: TracedNetworks | None = None,
) -> list[dict[str, float]]:
    """Trains the components of a unit: tasks of one scene with a common loss.

    It reads nothing of other scenes or units. It writes one file per component and `network.npz`.

    Args:
        experiment: Problem and settings, with `mtms`.
        scene: The scene.
        unit: The tasks.
        rows: All training rows of the scene.
        slot: The slot's number.
        folder: Folder in which the files are written.
        previous: Folder of the same scene and unit in the slot before.
        networks: What parts before this one have traced.

    Returns:
        The mean training losses of each pass.

    Raises:
        SpecError: The slot before had other fields, tables, widths or optimizers.
    """
    mtms, settings = declared(experiment), experiment.training
    problem = experiment.problem
    if len(unit) == 1:
        rows = rows.take(rows.weights[:, problem.task_names.index(unit[0])] > 0)
    part = part_of(problem, mtms.features_of(problem, scene), unit)
    ids_by_owner = _ids_by_owner(problem, mtms, part, unit, rows, slot, previous)
    keys = {
        slots.feature.name: joined_keys(
            *(ids.keys[slots.feature.name] for ids in ids_by_owner.values())
        )
        for slots in layout_of(part).ids
    }
    seed = seed_of(settings.seed, slot, "update", scene, *unit)
    keras.utils.set_random_seed(seed)
    packed = ArrayRows(pack(problem, part, rows, keys))
    model, sizes, step = _settled(experiment, part, unit, keys, packed, networks)
    if previous is None:
        model.heads.adapt(*label_moments(packed))
    optimizers = model.optimizer, model.embedding_optimizer
    network = _variables(model), model.dense_variables, optimizers
    layout = layout_of(part)
    fields = [meaning(slots.feature) for slots in (*layout.ids, *layout.numbers)]
    tables = [
        Tables(owner, keys, model.tables[index], row_moments(optimizers[1], index), sizes)
        for index, owner in enumerate(ids_by_owner)
    ]
    if previous is not None:
        load_network(os.path.join(previous, "network.npz"), *network, fields=fields)
        for table in tables:
            former = ids_by_owner[table.owner].former
            if former is not None:
                table.take_over(former)
    history = train_passes(
        model,
        packed,
        passes=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        what=f"the embedding update of scene {scene!r}",
        step=step,
    )
    save_network(os.path.join(folder, "network.npz"), *network, fields=fields)
    for table in tables:
        ids = ids_by_owner[table.owner]
        component = table.component(ids.keys, ids.seen())
        component.save(os.path.join(folder, f"{file_name(table.owner)}.npz"))
    return history


def _settled(
    experiment: ExperimentConfig,
    part: ProblemSpec,
    unit: Sequence[str],
    keys: Keys,
    rows: ArrayRows,
    networks: TracedNetworks | None,
) -> tuple[MultiTaskModel, dict[str, int], Step]:
    """A compiled model with its starting values, its tables' rows by feature, and its step."""
    tf.config.experimental.enable_op_determinism()
    settings, network = experiment.training, network_of(experiment, unit)
    sizes = {name: len(ids) for name, ids in keys.items()}
    start = MultiTaskModel.build_from(part, sizes, network)
    start(first_row(rows))
    if networks is None or not can_share(start) or sum(sizes.values()) > MOST_ROWS:
        compile_for_passes(start, settings)
        return start, sizes, Step(start)

    def make(room: dict[str, int]) -> Traced:
        model = MultiTaskModel.build_from(part, room, network)
        model(first_row(rows))
        return Traced(model, settings, room)

    shape = ("update", part.to_json(), network, settings_of(settings))
    traced = networks.get(repr(shape), make, sizes)
    room = traced.room
    traced.restart(start)
    for ours, theirs in zip(traced.model.tables, start.tables, strict=True):
        Tables("", keys, ours, [], room).copy(Tables("", keys, theirs, [], sizes))
    return traced.model, room, traced.step


def network_of(experiment: ExperimentConfig, unit: Sequence[str]) -> Model:
    """The network of the update: one tower per task, on separate tables or on shared ones."""
    mtms, model = declared(experiment), experiment.model
    funnel = len(unit) > 1
    backbone = (
        {"name": "esmm", "units": mtms.update_units}
        if funnel and mtms.shared
        else {"name": "single_task", "bottom_units": mtms.update_units}
    )
    return dataclasses.replace(
        model,
        backbone=backbone,
        tower_units=(),
        conv_semantics=mtms.losses if funnel else "ctcvr_direct",
        # The plain sum of eq. 2.
        balancer={"name": "fixed", "reduction": "sum"},
        terms=(),
    )


def declared(experiment: ExperimentConfig) -> MTMS:
    """The experiment's settings of MTMS.

    Raises:
        SpecError: It has none.
    """
    if experiment.mtms is None:
        raise SpecError(
            f"experiment {experiment.name!r} is trained once, not slot by slot; "
            "ExperimentConfig(mtms=MTMS(scenes=…)) declares the latter."
        )
    return experiment.mtms


def _former(previous: str, owner: str) -> Component:
    path = os.path.join(previous, f"{file_name(owner)}.npz")
    if not os.path.exists(path):
        raise SpecError(
            f"{previous} has no tables of {owner!r}: whether a scene's clicks and conversions are "
            "shared cannot change between slots; start anew without the previous slot."
        )
    return Component.load(path)


def _rows_of(
    problem: ProblemSpec, mtms: MTMS, unit: Sequence[str], owner: str, rows: SceneRows
) -> SceneRows:
    # If clicks and conversions are trained apart, conversions learn from clicked rows only.
    if len(unit) > 1 and mtms.losses == "cvr_click" and owner == unit[1]:
        return rows.take(rows.weights[:, problem.task_names.index(owner)] > 0)
    return rows


def _ids_by_owner(
    problem: ProblemSpec,
    mtms: MTMS,
    part: ProblemSpec,
    unit: Sequence[str],
    rows: SceneRows,
    slot: int,
    previous: str | None,
) -> "dict[str, _Ids]":
    """The ids of each component of a unit, by the task that owns it."""
    return {
        owner: _Ids(
            problem,
            part,
            _rows_of(problem, mtms, unit, owner, rows),
            mtms,
            slot,
            None if previous is None else _former(previous, owner),
        )
        for owner in mtms.owners(unit)
    }


class _Ids:
    """The ids for which a component has a row: those of its training rows and its former ones."""

    def __init__(
        self, problem, part, rows: SceneRows, mtms: MTMS, slot: int, former: Component | None
    ):
        self.former, self.slot = former, slot
        self.present = keys_of(problem, part, rows)
        if former is not None and mtms.expire_after is not None:
            # An id that is in the rows again keeps its table row, even after a long absence.
            absent = np.concatenate(
                [
                    ~np.isin(former.keys[former.block(name)], self.present.get(name, ()))
                    for name in former.features
                ]
            )
            self.former = former.without(absent & (slot - former.seen >= mtms.expire_after))
        self.keys: Keys = keys_of(problem, part, rows, mtms.min_count)
        if self.former is not None:
            for name in self.former.features:
                if name in self.keys:
                    old = self.former.keys[self.former.block(name)]
                    self.keys[name] = joined_keys(self.keys[name], old)

    def seen(self) -> dict[str, np.ndarray]:
        """The last slot that had each id, by feature."""
        by_feature = {}
        for name, keys in self.keys.items():
            last = np.full(len(keys), self.slot, np.int32)
            absent = ~np.isin(keys, self.present[name])
            if self.former is not None and name in self.former.features:
                block = self.former.block(name)
                places_of = np.searchsorted(self.former.keys[block], keys[absent])
                last[absent] = self.former.seen[block][places_of]
            by_feature[name] = last
        return by_feature


class Tables:
    """One component's part of a model in training: its fused table and the optimizer's rows."""

    def __init__(
        self,
        owner: str,
        keys: Keys,
        table: tf.Variable,
        moments: list[tf.Variable],
        sizes: Mapping[str, int],
    ):
        self.owner, self.keys, self.variables = owner, keys, [table, *moments]
        counts = [sizes[name] for name in keys]
        starts = PAD_ROWS + np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)
        self.starts = dict(zip(keys, starts, strict=True))

    def copy(self, other: "Tables") -> None:
        """Assigns the values of another table with the same ids, which may have other places."""
        rows = [
            np.concatenate([t._rows(n, ids) for n, ids in t.keys.items()]) for t in (self, other)
        ]
        array = np.zeros(self.variables[0].shape, np.float32)
        array[rows[0]] = other.variables[0].numpy()[rows[1]]
        self.variables[0].assign(array)

    def take_over(self, former: Component) -> None:
        """Assigns the former values to rows of known ids; those of new ids keep their start."""
        rows = [self._rows(name, former.keys[former.block(name)]) for name in former.features]
        at = np.concatenate(rows)
        for variable, values in zip(self.variables, [former.table, *former.moments], strict=True):
            array = variable.numpy()
            array[at] = values
            variable.assign(array)

    def component(self, keys: Keys, seen: dict[str, np.ndarray]) -> Component:
        """The rows of some of the ids, as a component."""
        at = np.concatenate([self._rows(name, ids) for name, ids in keys.items()])
        table, *moments = (variable.numpy()[at] for variable in self.variables)
        return Component(
            tuple(keys),
            np.asarray([len(ids) for ids in keys.values()]),
            np.concatenate(list(keys.values())),
            np.concatenate([seen[name] for name in keys]),
            table,
            np.stack(moments) if moments else np.zeros([0, *table.shape], table.dtype),
        )

    def _rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self.starts[name] + places(self.keys[name], ids)


def _variables(model: MultiTaskModel) -> list[tf.Variable]:
    """All variables but the tables."""
    tables = {id(table) for table in model.tables}
    parts = [*model.embeddings, model.backbone, model.heads]
    return [v for part in parts for v in part.variables if id(v) not in tables]
