"""Trains the parts of a slot: one after another in this process, or several at a time in others.

A part is the embedding update of a unit of tasks in a scene, or the fine-tuning of a task in a
scene.
"""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.mtms.embedding_update import update_embeddings
from tfmtl.mtms.fine_tuning import component_tables, fine_tune
from tfmtl.mtms.frozen import Name
from tfmtl.mtms.store import Building, target_folder, update_folder
from tfmtl.mtms.traced import TracedNetworks
from tfmtl.mtms.units import SceneRows


@dataclasses.dataclass(frozen=True)
class Part:
    """A part that is trained by itself: the update of a unit's tables, or a task's fine-tuning."""

    kind: str
    scene: str
    tasks: tuple[str, ...]

    def folder(self, slot_folder: str) -> str:
        """The part's folder in a slot's folder."""
        if self.kind == "update":
            return update_folder(slot_folder, self.scene, self.tasks)
        return target_folder(slot_folder, self.scene, self.tasks[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A part to be trained, as plain data that another process can read."""

    part: Part
    experiment: str
    rows: str
    components: Sequence[Name]
    slot: int
    folder: str
    previous: str | None
    about: dict[str, Any]


@contextlib.contextmanager
def processes(workers: int) -> Iterator[concurrent.futures.Executor | None]:
    """A pool of processes that train parts at the same time; `None` to train in this process.

    One pool serves the whole slot, because each process first has to import TensorFlow.
    """
    if workers <= 1:
        yield None
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(threads,)
    )
    try:
        yield pool
    finally:
        # After an error, parts that have not begun are cancelled, so that it is reported at once.
        pool.shutdown(wait=True, cancel_futures=True)


def results(jobs: Sequence[Job], pool: concurrent.futures.Executor | None) -> Iterator[None]:
    """Trains parts and yields when one is done."""
    if pool is None:
        networks = TracedNetworks()
        for job in jobs:
            train_part(job, networks)
            yield
        return
    futures = [pool.submit(_train_in_pool, job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
        future.result()
        yield


def _begin(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


_networks = TracedNetworks()
"""Those of a process of the pool, which ends with the slot."""


def _train_in_pool(job: Job) -> None:
    train_part(job, _networks)


def train_part(job: Job, networks: TracedNetworks) -> None:
    """Trains one part; its folder appears when it is complete.

    Args:
        job: The part.
        networks: What parts before it have traced.
    """
    experiment = ExperimentConfig.from_json(job.experiment)
    part, rows = job.part, SceneRows.load(job.rows)
    about = dict(job.about)
    with Building(part.folder(job.folder), about) as folder:
        if part.kind == "update":
            about["losses"] = update_embeddings(
                experiment,
                part.scene,
                part.tasks,
                rows,
                slot=job.slot,
                folder=folder,
                previous=job.previous,
                networks=networks,
            )
        else:
            tables = component_tables(experiment, job.folder, job.components, resizable=True)
            about["losses"] = fine_tune(
                experiment,
                part.scene,
                part.tasks[0],
                rows,
                tables,
                job.components,
                slot=job.slot,
                folder=folder,
                previous=job.previous,
                networks=networks,
            )
