"""Every setting that a part of a slot depends on is in what tells whether it is there."""

import dataclasses
import os

import pytest

from tests.doubles import mtms_rows
from tfmtl.mtms.part_training import Part
from tfmtl.mtms.slot_parts import Parts
from tfmtl.mtms.units import by_scene

EXPERIMENT = mtms_rows.experiment(targets=("cvr",))
PARTS = {
    "update": Part("update", "feed", ("ctr", "cvr", "ctcvr")),
    "fine_tune": Part("fine_tune", "feed", ("cvr",)),
}
TRAINING = {
    "training.batch_size": 17,
    "training.learning_rate": 0.03,
    "training.embedding_learning_rate": 0.07,
    "training.optimizer": "sgd",
    "training.embedding_optimizer": "rowwise_adagrad",
    "training.seed": 11,
    "model.l2": 0.125,
    "model.dim": 6,
}
OWN = {
    "update": {
        "training.epochs": 7,
        "mtms.update_units": (3,),
        "mtms.min_count": 2,
        "mtms.expire_after": 3,
    },
    "fine_tune": {
        "model.tower_dropout": 0.25,
        "model.tower_batch_norm": True,
        "mtms.fine_tune_epochs": 3,
        "mtms.fine_tune_units": (3,),
    },
}


def fingerprint(folder, experiment, part):
    """Of a part whose tables are the same whatever the settings."""
    os.makedirs(folder, exist_ok=True)
    parts = Parts(experiment, 1, str(folder), None, str(folder), None, 0)
    rows = mtms_rows.as_rows(mtms_rows.packed())
    for scene, own in by_scene(experiment.problem, experiment.mtms.scenes, rows).items():
        parts.note(scene, own)
    return parts._fingerprint(part, [], None)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [(kind, path, value) for kind in PARTS for path, value in {**TRAINING, **OWN[kind]}.items()],
)
def test_a_setting_that_a_part_depends_on_changes_its_fingerprint(tmp_path, kind, path, value):
    changed = EXPERIMENT.replace_path(path, value)
    assert changed != EXPERIMENT
    one, same, other = (
        fingerprint(tmp_path, experiment, PARTS[kind])
        for experiment in (EXPERIMENT, dataclasses.replace(EXPERIMENT), changed)
    )
    assert one == same != other


def test_what_a_part_does_not_depend_on_does_not(tmp_path):
    for kind, path, value in (
        ("fine_tune", "training.epochs", 7),
        ("update", "mtms.fine_tune_units", (3,)),
        ("update", "training.patience", 7),
    ):
        changed = EXPERIMENT.replace_path(path, value)
        one, other = (fingerprint(tmp_path, e, PARTS[kind]) for e in (EXPERIMENT, changed))
        assert one == other, path
