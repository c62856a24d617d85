"""The alternating update of MTMS: a slot's tables, then its fine-tuned networks (§III-C).

A slot is a folder:

    slot.json                                    written last
    scenes/<scene>/update-<tasks>/<task>.npz     a component: its ids and their rows
    scenes/<scene>/update-<tasks>/network.npz    the update's network, not served
    scenes/<scene>/fine_tune-<task>/network.npz  a fine-tuned network

Each part is trained by itself, with a seed that follows from its own names, and appears complete
or not at all. Finished parts of the same rows and settings are not trained again: a run that was
killed continues, and with a new scene or task all others stay bit for bit the same.
"""

import json
import os
import shutil
from typing import Any

import tensorflow as tf
from absl import logging

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged, check_whole, read_json
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import Rows
from tfmtl.mtms.embedding_update import declared
from tfmtl.mtms.fine_tuning import component_tables, fine_tuned, frozen_fields, network_variables
from tfmtl.mtms.frozen import Name
from tfmtl.mtms.model import MTMSModel
from tfmtl.mtms.part_training import Part, processes
from tfmtl.mtms.slot_parts import Parts
from tfmtl.mtms.store import load_network, read_about, target_folder
from tfmtl.mtms.units import by_scene
from tfmtl.plain import write_json

SLOT = "slot.json"


def train_slot(
    experiment: ExperimentConfig,
    rows: Rows,
    *,
    slot: int,
    folder: str,
    previous: str | None = None,
    workers: int = 1,
    verbose: int = 1,
) -> MTMSModel:
    """Trains a slot and returns its model.

    Args:
        experiment: Problem and settings, with `mtms`.
        rows: The packed rows of the slot's window.
        slot: The slot's number, such as its day.
        folder: Folder of the slot; its finished parts are kept.
        previous: Folder of the slot to start from: tables, networks and their optimizers'
            state. Without it all of them start anew.
        workers: Number of processes that train parts at the same time; with 1 this process does. A
            script that asks for more must have the guard `if __name__ == "__main__":`.
        verbose: 1 shows a progress bar, 0 nothing.

    Raises:
        SpecError: The experiment has no `mtms`, `previous` is not an earlier slot, or its networks
            have another shape or other features; `folder` is that of `previous`, or holds another
            slot or a slot of another experiment.
        DataError: No row belongs to one of the scenes.
        FloatingPointError: A training loss is no longer finite.
    """
    mtms = declared(experiment)
    _check_previous(slot, previous)
    _check_folder(experiment.name, slot, folder, previous)
    os.makedirs(folder, exist_ok=True)
    problem = experiment.problem
    of_scenes = by_scene(problem, mtms.scenes, rows)
    # The slot does not count as finished while parts are replaced.
    if os.path.exists(os.path.join(folder, SLOT)):
        os.remove(os.path.join(folder, SLOT))
    work = os.path.join(folder, "rows")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    units, targets = mtms.units(problem), mtms.target_tasks(problem)
    with processes(workers) as pool:
        parts = Parts(experiment, slot, folder, previous, work, pool, verbose)
        for scene, scene_rows in of_scenes.items():
            parts.note(scene, scene_rows)
        parts.finish("embedding update", [Part("update", s, u) for s in of_scenes for u in units])
        tuned = [Part("fine_tune", s, (t,)) for s in of_scenes for t in targets]
        parts.finish("fine-tuning", tuned)
    shutil.rmtree(work)
    plain = {
        "slot": slot,
        "rows": {scene: len(scene_rows) for scene, scene_rows in of_scenes.items()},
        "experiment": experiment.to_json(),
    }
    write_json(os.path.join(folder, SLOT), plain, indent=1, sort_keys=True)
    return load_slot(folder)


def load_slot(folder: str) -> MTMSModel:
    """Returns the model of a finished slot.

    Raises:
        DataError: There is no finished slot.
    """
    plain = read_slot(folder)
    experiment = ExperimentConfig.from_json(plain["experiment"])
    mtms = declared(experiment)
    read: dict[tuple[str, str], list[Name]] = {}
    for scene in mtms.scenes:
        for task in mtms.target_tasks(experiment.problem):
            check_whole(target_folder(folder, scene, task), sealed=False)
            about = read_about(target_folder(folder, scene, task))
            if about is not None:
                read[scene, task] = [(s, owner) for s, owner in about["components"]]
    needed = dict.fromkeys(name for names in read.values() for name in names)
    if not needed:
        raise DataError(f"{folder} has no fine-tuned network; did any scene have labelled rows?")
    tables = component_tables(experiment, folder, list(needed))
    networks: dict[str, dict[str, Any]] = {}
    for (scene, task), components in read.items():
        fields = frozen_fields(experiment, scene, tables, components)
        model = fine_tuned(experiment, scene, task, fields)
        model.heads(model.backbone(tf.zeros([1, fields.width])))
        path = os.path.join(target_folder(folder, scene, task), "network.npz")
        load_network(path, network_variables(model), (), (), fields.input_names)
        networks.setdefault(scene, {})[task] = model
    return MTMSModel(experiment.problem, mtms.scenes, networks, tables)


def read_slot(folder: str) -> dict[str, Any]:
    """Returns the contents of `slot.json`: `slot`, `rows` by scene, `experiment`.

    Raises:
        DataError: The slot is not finished.
    """
    path = os.path.join(folder, SLOT)
    if not os.path.exists(path):
        raise DataError(
            f"{folder} holds no finished slot; train_slot(…, folder={folder!r}) makes one."
        )
    return read_json(path)


def _check_previous(slot: int, previous: str | None) -> None:
    if previous is None:
        return
    number = read_slot(previous)["slot"]
    if number >= slot:
        raise SpecError(
            f"previous={previous!r} holds slot {number}, which is not before slot {slot}."
        )


def _check_folder(name: str, slot: int, folder: str, previous: str | None) -> None:
    if previous is not None and os.path.realpath(previous) == os.path.realpath(folder):
        raise SpecError(
            f"folder={folder!r} is that of the previous slot, which would be lost; give slot "
            f"{slot} a folder of its own."
        )
    if not os.path.exists(os.path.join(folder, SLOT)):
        return
    try:
        there = read_slot(folder)
    except Damaged as damage:
        logging.warning("%s. The slot is finished anew; parts of it that are whole stay.", damage)
        return
    number, other = there["slot"], json.loads(there["experiment"])["name"]
    if (number, other) != (slot, name):
        raise SpecError(
            f"folder={folder!r} holds slot {number} of experiment {other!r}, which would be lost; "
            f"give slot {slot} of {name!r} a folder of its own."
        )
