"""The parts of a slot: what each depends on, and which of them have to be trained.

A part's `about.json` holds a hash of everything that it was trained on. `part_training` trains it.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from tqdm import tqdm

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged, check_whole, remove
from tfmtl.mtms.embedding_update import declared, network_of
from tfmtl.mtms.frozen import Name
from tfmtl.mtms.part_training import Job, Part, results
from tfmtl.mtms.store import Building, read_about, update_folder
from tfmtl.mtms.units import SceneRows, digest, part_of


class Parts:
    """A slot in training: which of its parts are finished, and which have to be trained."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        slot: int,
        folder: str,
        previous: str | None,
        work: str,
        pool: concurrent.futures.Executor | None,
        verbose: int,
    ):
        self.experiment, self.mtms = experiment, declared(experiment)
        self.slot, self.folder, self.previous, self.work = slot, folder, previous, work
        self.pool, self.verbose = pool, verbose
        self.rows: dict[str, str] = {}
        self.of_scenes: dict[str, SceneRows] = {}
        self.observed: dict[str, list[int]] = {}
        units = self.mtms.units(experiment.problem)
        self.declared: list[Name] = [
            (scene, owner)
            for scene in self.mtms.scenes
            for unit in units
            for owner in self.mtms.owners(unit)
        ]

    def note(self, scene: str, rows: SceneRows) -> None:
        """Writes a scene's rows to a file from which its parts are trained."""
        self.rows[scene] = os.path.join(self.work, f"{len(self.rows)}.npz")
        rows.save(self.rows[scene])
        self.of_scenes[scene] = rows
        self.observed[scene] = [int(count) for count in (rows.weights > 0).sum(axis=0)]

    def finish(self, what: str, parts: Sequence[Part]) -> None:
        """Trains the parts that are not finished."""
        jobs = [job for part in parts if (job := self._job(part)) is not None]
        bar = tqdm(
            total=len(parts),
            initial=len(parts) - len(jobs),
            desc=f"slot {self.slot}: {what}",
            unit=" parts",
            disable=None if self.verbose else True,
        )
        with bar:
            for _ in results(jobs, self.pool):
                bar.update()

    def _job(self, part: Part) -> Job | None:
        path = part.folder(self.folder)
        former = None if self.previous is None else part.folder(self.previous)
        former_about = None if former is None else _former(former)
        if former_about is None:
            former = None
        wanted = self._components(part)
        finished = _finished(path)
        if finished is not None:
            recorded, known = (
                [(scene, owner) for scene, owner in finished[names]]
                for names in ("components", "declared")
            )
            # A component that was declared after this part was trained is read from the next slot
            # on; it does not make the part train again.
            if set(recorded) == set(wanted) & set(known):
                if finished["fingerprint"] == self._fingerprint(part, recorded, former_about):
                    return None
        problem = self.experiment.problem
        if not any(
            self.observed[part.scene][problem.task_names.index(task)] for task in part.tasks
        ):
            self._keep(part, path, former)
            return None
        about = {
            "fingerprint": self._fingerprint(part, wanted, former_about),
            "slot": self.slot,
            "components": wanted,
            "declared": self.declared,
        }
        return Job(
            part,
            self.experiment.to_json(),
            self.rows[part.scene],
            wanted,
            self.slot,
            self.folder,
            former,
            about,
        )

    def _keep(self, part: Part, path: str, former: str | None) -> None:
        about = None if former is None else read_about(former)
        # A network is kept only if all tables that it reads are still there.
        if about is None or not all(
            read_about(self._update_of(*name)) for name in about["components"]
        ):
            former = None
        logging.warning(
            "Slot %d has no row of scene %r to train %s on; %s.",
            self.slot,
            part.scene,
            " and ".join(part.tasks),
            "it has none yet" if former is None else "that of the slot before is kept",
        )
        if former is None or about is None:
            # An earlier run of this slot on other rows may have trained the part.
            remove(path)
        elif read_about(path) != about:
            with Building(path, about) as building:
                shutil.copytree(former, building, dirs_exist_ok=True)

    def _components(self, part: Part) -> list[Name]:
        """Components that a fine-tuned network reads: those that were trained in any slot."""
        if part.kind == "update":
            return []
        problem = self.experiment.problem
        return [
            (scene, owner)
            for scene, owner in self.mtms.inputs_of(problem, part.scene, part.tasks[0])
            if read_about(self._update_of(scene, owner)) is not None
        ]

    def _update_of(self, scene: str, owner: str) -> str:
        unit = self.mtms.unit_of(self.experiment.problem, owner)
        return update_folder(self.folder, scene, unit)

    def _fingerprint(
        self, part: Part, components: Sequence[Name], former: Mapping[str, Any] | None
    ) -> str:
        """A hash of everything that a part depends on, and of nothing else."""
        problem, model = self.experiment.problem, self.experiment.model
        features = self.mtms.features_of(problem, part.scene)
        training, mtms = self.experiment.training, self.mtms
        used = {
            name: getattr(training, name)
            for name in (
                "batch_size",
                "learning_rate",
                "embedding_learning_rate",
                "optimizer",
                "embedding_optimizer",
                "seed",
            )
        }
        if part.kind == "update":
            network = dataclasses.asdict(network_of(self.experiment, part.tasks))
            used |= {
                "epochs": training.epochs,
                "shared": mtms.shared,
                "min_count": mtms.min_count,
                "expire_after": mtms.expire_after,
            }
        else:
            network = {
                name: getattr(model, name)
                for name in ("dim", "tower_dropout", "tower_batch_norm", "l2")
            }
            used |= {"epochs": mtms.fine_tune_epochs, "units": mtms.fine_tune_units}
        of_part = part_of(problem, features, part.tasks)
        plain = {
            "problem": of_part.to_json(),
            "network": network,
            "training": used,
            "slot": self.slot,
            "rows": digest(problem, of_part, self.of_scenes[part.scene]),
            "former": former and former["fingerprint"],
            "components": components,
            "tables": [
                (read_about(self._update_of(*name)) or {})["fingerprint"] for name in components
            ],
        }
        text = json.dumps(plain, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _finished(path: str) -> dict[str, Any] | None:
    """What `about.json` of a finished part holds; a damaged part is removed and trained again."""
    try:
        check_whole(path, sealed=False)
        return read_about(path)
    except Damaged as damage:
        logging.warning("%s. That part is trained anew.", damage)
        remove(path)
        return None


def _former(path: str) -> dict[str, Any] | None:
    """What a part of the slot before says of itself.

    Raises:
        Damaged: It is not as it was written.
    """
    try:
        check_whole(path, sealed=False)
        return read_about(path)
    except Damaged as damage:
        raise Damaged(
            f"{damage}. It is of the slot before: train that slot again in an empty folder, or "
            "this one from another previous slot, or from none."
        ) from damage
