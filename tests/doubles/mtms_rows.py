"""Rows of three scenes with every kind of feature that MTMS supports, for tests of slots."""

import dataclasses
import hashlib
import os

import numpy as np

from tests.doubles.worlds import CTCVR, CTR, CVR, rows
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.features import MISSING, UNKNOWN
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import ProblemSpec, categorical, numerical, target_encoding
from tfmtl.declare.split import by_hash
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.mtms.store import Component
from tfmtl.mtms.units import scene_column, scene_ids

SIZE = 2**30
SCENES = ("feed", "search")
# Sides are mixed, so that the order of the packed columns differs from the declaration's.
PROBLEM = ProblemSpec(
    features=(
        categorical("query", encoding="hash", size=SIZE),
        categorical("user", side="user", encoding="hash", size=SIZE),
        categorical(
            "tags", side="ad", encoding="hash", size=SIZE, max_values=3, weights="tag_weights"
        ),
        categorical("ad", side="ad", encoding="hash", size=SIZE),
        categorical("slot", encoding="identity", size=3),
        categorical("scene", encoding="hash", size=2**20),
        numerical("price", side="ad", encoding="log", indicator=True),
        numerical("hour"),
        target_encoding("ad", side="ad", task="ctr"),
    ),
    tasks=(CTR, CVR, CTCVR),
    scene="scene",
    request_id="request",
)
FIELDS = {
    "feed": ("user", "tags", "ad", "slot", "price", "ad_ctr"),
    "search": ("query", "user", "tags", "ad", "price", "hour", "ad_ctr"),
}
DIM = 4


def raw(count=400, seed=0, scenes=("feed", "search", "video")):
    """Raw columns; all scenes have about equally many rows."""
    columns = rows(count, seed)
    columns["scene"] = np.random.default_rng(seed + 50).choice(list(scenes), count)
    return columns


def packed(count=400, seed=0, problem=PROBLEM, **more):
    """Packed arrays."""
    tensors = Preprocessor(problem).fit(raw(count, seed, **more))
    return {name: value.numpy() for name, value in tensors.items()}


def as_rows(arrays):
    """Packed arrays as training rows."""
    return ArrayRows(dict(arrays))


def experiment(problem=PROBLEM, model=None, training=None, **mtms):
    """A tiny experiment; `mtms` are arguments of its `MTMS`."""
    settings = {
        "scenes": SCENES,
        "fields": {s: FIELDS[s] for s in mtms.get("scenes", SCENES) if s in FIELDS},
        "update_units": (4,),
        "fine_tune_units": (4,),
        "fine_tune_epochs": 1,
    }
    return ExperimentConfig(
        name="tiny",
        problem=problem,
        split=by_hash("request"),
        model=Model(**{"dim": DIM} | (model or {})),
        training=Training(**{"epochs": 1, "batch_size": 32} | (training or {})),
        mtms=MTMS(**settings | mtms),
    )


def of_scene(arrays, experiment, scene):
    """Whether each packed row belongs to a scene."""
    problem = experiment.problem
    ids = np.concatenate([arrays[f"ids_{s}"] for s in ("user", "ad", "context")], axis=1)
    return ids[:, scene_column(problem)] == scene_ids(problem, [scene])[0]


def scrambled(arrays, rows, seed=3):
    """Packed arrays in which the rows of a mask have other ids, numbers and labels."""
    rng = np.random.default_rng(seed)
    changed_arrays = {name: value.copy() for name, value in arrays.items()}
    where = np.flatnonzero(rows)
    order = rng.permutation(where)
    # `ids_context` is not changed, because one of its columns is the scene.
    for name in ("ids_user", "ids_ad", "numbers_user", "numbers_ad", "numbers_context"):
        if name in changed_arrays:
            changed_arrays[name][where] = arrays[name][order]
    changed_arrays[LABELS][where] = arrays[LABELS][order]
    changed_arrays[WEIGHTS][where] = arrays[WEIGHTS][order]
    return changed_arrays


def changed(experiment, **mtms):
    """An experiment with other settings of MTMS."""
    return dataclasses.replace(experiment, mtms=dataclasses.replace(experiment.mtms, **mtms))


def component(rng, keys):
    """A component with random rows for unknown, missing and other ids, by field."""
    keys = {f: np.concatenate([[UNKNOWN, MISSING], np.unique(i)]) for f, i in keys.items()}
    rows = sum(map(len, keys.values()))
    return Component(
        tuple(keys),
        np.asarray([len(ids) for ids in keys.values()]),
        np.concatenate(list(keys.values())).astype(np.int32),
        np.zeros(rows, np.int32),
        rng.normal(size=(rows, DIM)).astype(np.float32),
        np.zeros((2, rows, DIM), np.float32),
    )


def files(folder, under="scenes"):
    """Every file below a slot's scenes: a hash of its bytes, and the time it was written."""
    stamps = {}
    for path, _, names in os.walk(os.path.join(folder, under)):
        for name in names:
            whole = os.path.join(path, name)
            with open(whole, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            stamps[os.path.relpath(whole, folder)] = content, os.stat(whole).st_mtime_ns
    return stamps


def contents(folder, under="scenes"):
    """The hashes of `files`, without the times."""
    return {name: content for name, (content, _) in files(folder, under).items()}
