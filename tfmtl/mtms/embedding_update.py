"""The embedding update of MTMS: one scene's tables, from those of the slot before (fig. 2b)."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.experiment import ExperimentConfig, Model
from tfmtl.declare.layout import layout_of
from tfmtl.declare.mtms import MTMS, meaning
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.features.rows import ArrayRows
from tfmtl.layers.tables import PAD_ROWS
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.passes import seed_of, settle, train_passes
from tfmtl.mtms.store import (
    Component,
    load_network,
    row_moments,
    save_network,
)
from tfmtl.mtms.units import Keys, SceneRows, joined_keys, keys_of, pack, part_of, places


def update_embeddings(
    experiment: ExperimentConfig,
    scene: str,
    unit: Sequence[str],
    rows: SceneRows,
    *,
    slot: int,
    folder: str,
    previous: str | None = None,
) -> list[dict[str, float]]:
    """Trains the components of a scene's tasks that one loss ties together.

    Nothing of another scene or unit is read. The result is a file a component and `network.npz`.

    Args:
        experiment: Problem and settings, with `mtms`.
        scene: Whose rows.
        unit: The tasks.
        rows: All rows of the scene to train on.
        slot: The slot's number.
        folder: Gets the files.
        previous: The folder that the slot before left for the same scene and unit.

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
    own = {
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
    keys = {
        slots.feature.name: joined_keys(*(ids.keys[slots.feature.name] for ids in own.values()))
        for slots in layout_of(part).ids
    }
    seed = seed_of(settings.seed, slot, "update", scene, *unit)
    keras.utils.set_random_seed(seed)
    model = MultiTaskModel.build_from(
        part, {name: len(ids) for name, ids in keys.items()}, network_of(experiment, unit)
    )
    packed = ArrayRows(pack(problem, part, rows, keys))
    settle(model, settings, packed, cold=previous is None)
    optimizers = model.optimizer, model.embedding_optimizer
    network = _variables(model), model.dense_variables, optimizers
    layout = layout_of(part)
    fields = [meaning(slots.feature) for slots in (*layout.ids, *layout.numbers)]
    tables = [
        Tables(owner, keys, model.tables[index], row_moments(optimizers[1], index))
        for index, owner in enumerate(own)
    ]
    if previous is not None:
        load_network(os.path.join(previous, "network.npz"), *network, fields=fields)
        for table in tables:
            former = own[table.owner].former
            if former is not None:
                table.take_over(former)
    history = train_passes(
        model,
        packed,
        passes=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        what=f"the embedding update of scene {scene!r}",
    )
    save_network(os.path.join(folder, "network.npz"), *network, fields=fields)
    for table in tables:
        ids = own[table.owner]
        component = table.component(ids.keys, ids.seen())
        component.save(os.path.join(folder, f"{table.owner}.npz"))
    return history


def network_of(experiment: ExperimentConfig, unit: Sequence[str]) -> Model:
    """The network of the update: a tower a task, on tables of its own or on shared ones."""
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
        # Eq. 2: the plain sum.
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
    path = os.path.join(previous, f"{owner}.npz")
    if not os.path.exists(path):
        raise SpecError(
            f"{previous} has no tables of {owner!r}: whether a scene's clicks and conversions are "
            "shared cannot change between slots; start anew without the previous slot."
        )
    return Component.load(path)


def _rows_of(problem: ProblemSpec, mtms: MTMS, unit, owner: str, rows: SceneRows) -> SceneRows:
    # Where clicks and conversions are trained apart, conversions learn from clicked rows.
    if len(unit) > 1 and mtms.losses == "cvr_click" and owner == unit[1]:
        return rows.take(rows.weights[:, problem.task_names.index(owner)] > 0)
    return rows


class _Ids:
    """The ids a component has a row for: those its own training rows have, and its former ones."""

    def __init__(
        self, problem, part, rows: SceneRows, mtms: MTMS, slot: int, former: Component | None
    ):
        self.former, self.slot = former, slot
        self.present = keys_of(problem, part, rows)
        if former is not None and mtms.expire_after is not None:
            # An id that is back after long is known still; only what no row has is dropped.
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
        found = {}
        for name, keys in self.keys.items():
            last = np.full(len(keys), self.slot, np.int32)
            absent = ~np.isin(keys, self.present[name])
            if self.former is not None and name in self.former.features:
                block = self.former.block(name)
                places_of = np.searchsorted(self.former.keys[block], keys[absent])
                last[absent] = self.former.seen[block][places_of]
            found[name] = last
        return found


class Tables:
    """One component's part of a model in training: its fused table and the optimizer's rows."""

    def __init__(self, owner: str, keys: Keys, table: tf.Variable, moments: list[tf.Variable]):
        self.owner, self.keys, self.variables = owner, keys, [table, *moments]
        sizes = [len(ids) for ids in keys.values()]
        starts = PAD_ROWS + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
        self.starts = dict(zip(keys, starts, strict=True))

    def take_over(self, former: Component) -> None:
        """Gives the rows of known ids what they had; new ids keep their fresh rows."""
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
