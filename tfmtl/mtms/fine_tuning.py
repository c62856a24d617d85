"""The fine-tuning of MTMS: one task's network on frozen tables of several components (fig. 2c)."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl import registry
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.layout import LABELS, WEIGHTS, layout_of
from tfmtl.features.rows import ArrayRows, label_moments
from tfmtl.model.heads import Heads
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms.embedding_update import declared
from tfmtl.mtms.frozen import ComponentTables, Concatenated, FrozenFields, Name
from tfmtl.mtms.passes import Step, compile_for_passes, seed_of, train_passes
from tfmtl.mtms.store import Component, component_path, load_network, save_network
from tfmtl.mtms.traced import (
    MOST_ROWS,
    Traced,
    TracedNetworks,
    can_share,
    first_row,
    settings_of,
)
from tfmtl.mtms.units import SceneRows, part_of, sides


def fine_tune(
    experiment: ExperimentConfig,
    scene: str,
    task: str,
    rows: SceneRows,
    tables: ComponentTables,
    components: Sequence[Name],
    *,
    slot: int,
    folder: str,
    previous: str | None = None,
    networks: TracedNetworks | None = None,
) -> list[dict[str, float]]:
    """Trains one task's network of one scene; no table changes.

    Args:
        experiment: Problem and settings, with `mtms`.
        scene: The scene.
        task: The task.
        rows: All training rows of the scene; those on which the task is observed are used.
        tables: Updated tables of at least the components.
        components: The components that the network reads.
        slot: The slot's number.
        folder: Folder in which `network.npz` is written.
        previous: Folder of the same scene and task in the slot before.
        networks: What parts before this one have traced; used if the tables are resizable.

    Returns:
        The mean training losses of each pass.
    """
    mtms, settings, problem = declared(experiment), experiment.training, experiment.problem
    index = problem.task_names.index(task)
    rows = rows.take(rows.weights[:, index] > 0)
    seed = seed_of(settings.seed, slot, "fine_tune", scene, task)
    keras.utils.set_random_seed(seed)
    fields = frozen_fields(experiment, scene, tables, components)
    packed = ArrayRows(
        {
            **sides(layout_of(problem), rows.ids, rows.numbers),
            LABELS: rows.labels[:, [index]],
            WEIGHTS: rows.weights[:, [index]],
        }
    )
    model, step = _settled(experiment, scene, task, fields, packed, networks)
    if previous is None:
        model.heads.adapt(*label_moments(packed))
    network = network_variables(model), model.dense_variables, [model.optimizer]
    if previous is not None:
        load_network(os.path.join(previous, "network.npz"), *network, fields.input_names)
    history = train_passes(
        model,
        packed,
        passes=mtms.fine_tune_epochs,
        batch_size=settings.batch_size,
        seed=seed,
        what=f"the fine-tuning of task {task!r} in scene {scene!r}",
        step=step,
    )
    save_network(os.path.join(folder, "network.npz"), *network, fields.input_names)
    return history


def _settled(
    experiment: ExperimentConfig,
    scene: str,
    task: str,
    fields: FrozenFields,
    rows: ArrayRows,
    networks: TracedNetworks | None,
) -> tuple[MultiTaskModel, Step]:
    """A compiled model with its starting values, and its step."""
    tf.config.experimental.enable_op_determinism()
    settings = experiment.training
    start = fine_tuned(experiment, scene, task, fields)
    start(first_row(rows))
    resizable = fields.component_tables.resizable
    if networks is None or not resizable or not can_share(start) or _rows(fields) > MOST_ROWS:
        compile_for_passes(start, settings)
        return start, Step(start)
    shape = (
        "fine_tune",
        start.problem.to_json(),
        experiment.model,
        declared(experiment).fine_tune_units,
        settings_of(settings),
        fields.shape,
    )
    traced = networks.get(repr(shape), lambda room: Traced(start, settings), {})
    if traced.model is not start:
        traced.restart(start)
        embedding: Any = traced.model.embedding
        embedding.read(fields)
    return traced.model, traced.step


def _rows(fields: FrozenFields) -> int:
    return int(tf.shape(fields.component_tables.keys)[0])


def fine_tuned(
    experiment: ExperimentConfig, scene: str, task: str, fields: FrozenFields
) -> MultiTaskModel:
    """The network of one task in one scene, on frozen fields."""
    mtms, model = declared(experiment), experiment.model
    part = part_of(experiment.problem, mtms.features_of(experiment.problem, scene), [task])
    return MultiTaskModel(
        part,
        embedding=fields,
        backbone=Concatenated([task]),
        heads=Heads(
            part,
            tower_units=tuple(mtms.fine_tune_units),
            dropout=model.tower_dropout,
            batch_norm=model.tower_batch_norm,
            name="heads",
        ),
        balancer=registry.build("balancer", {"name": "fixed"}, [task], []),
        l2=model.l2,
    )


def frozen_fields(
    experiment: ExperimentConfig, scene: str, tables: ComponentTables, components: Sequence[Name]
) -> FrozenFields:
    """The fields that the networks of a scene read."""
    problem = experiment.problem
    mtms = declared(experiment)
    part = part_of(problem, mtms.features_of(problem, scene), [problem.task_names[0]])
    return FrozenFields(problem, part, tables, components)


def network_variables(model: MultiTaskModel) -> list[tf.Variable]:
    """A fine-tuned network's variables, without the tables that it reads."""
    return [*model.backbone.variables, *model.heads.variables]


def component_tables(
    experiment: ExperimentConfig,
    folder: str,
    components: Sequence[Name],
    *,
    resizable: bool = False,
) -> ComponentTables:
    """Reads the tables of components from a slot's folder; see `ComponentTables`."""
    problem, mtms = experiment.problem, declared(experiment)
    by_name = {}
    for scene, owner in components:
        unit = mtms.unit_of(problem, owner)
        by_name[scene, owner] = Component.load(component_path(folder, scene, owner, unit))
    names = [s.feature.name for s in layout_of(problem).ids]
    return ComponentTables(by_name, names, resizable=resizable)
