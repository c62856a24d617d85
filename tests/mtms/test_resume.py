"""Which parts of a slot are trained again, and what is left where a scene has no rows.

Nothing is trained here: a part leaves a file that says what it was made of.
"""

import dataclasses
import os
import shutil

import pytest

from tests.doubles.mtms_rows import (
    PROBLEM,
    as_rows,
    changed,
    contents,
    experiment,
    files,
    of_scene,
    packed,
    scrambled,
)
from tests.doubles.worlds import CQS
from tfmtl.declare.problem import numerical
from tfmtl.errors import DataError, SpecError
from tfmtl.mtms import part_training
from tfmtl.mtms import slot as alternating
from tfmtl.mtms.slot import read_slot, train_slot
from tfmtl.mtms.store import Building, scene_folder, target_folder
from tfmtl.plain import write_json

EXPERIMENT = experiment(targets=("cvr",))
UPDATE, CVR = ("update", "ctr+cvr+ctcvr"), ("fine_tune", "cvr")


@pytest.fixture(scope="module")
def arrays():
    return packed()


@pytest.fixture
def planned(monkeypatch):
    """Notes the parts that would be trained."""
    parts = []

    def train(job, networks):
        parts.append((job.part.kind, job.part.scene, "+".join(job.part.tasks)))
        with Building(job.part.folder(job.folder), job.about) as folder:
            write_json(os.path.join(folder, "network"), job.about)

    monkeypatch.setattr(part_training, "train_part", train)
    monkeypatch.setattr(alternating, "load_slot", lambda folder: None)
    return parts


@pytest.fixture
def slot(arrays, tmp_path, planned):
    """A finished slot of two scenes."""
    folder = str(tmp_path / "1")
    again(arrays, folder)
    assert planned == parts(("feed", UPDATE), ("search", UPDATE), ("feed", CVR), ("search", CVR))
    planned.clear()
    return folder


def again(arrays, slot, config=EXPERIMENT):
    train_slot(config, as_rows(arrays), slot=1, folder=slot, verbose=0)


def parts(*wanted):
    return [(kind, scene, tasks) for scene, (kind, tasks) in wanted]


def test_what_is_there_is_not_trained_again(slot, arrays, planned):
    before = files(slot)
    again(arrays, slot)
    assert planned == [] and files(slot) == before


def test_changed_rows_of_a_scene_train_its_parts_and_the_networks_that_read_it(
    slot, arrays, planned
):
    other = scrambled(arrays, of_scene(arrays, EXPERIMENT, "search"))
    again(other, slot)
    assert planned == parts(("search", UPDATE), ("feed", CVR), ("search", CVR))


def test_networks_that_do_not_read_a_scene_are_not_trained_for_its_rows(slot, arrays, planned):
    own = changed(EXPERIMENT, contributors={"search": ("feed",)})
    again(arrays, slot, own)
    # The networks of feed read less than before.
    assert planned == parts(("feed", CVR))
    planned.clear()
    other = scrambled(arrays, of_scene(arrays, EXPERIMENT, "search"))
    again(other, slot, own)
    assert planned == parts(("search", UPDATE), ("search", CVR))


def test_contributors_that_are_added_are_read_at_once(slot, arrays, planned):
    own = changed(EXPERIMENT, aggregate=False)
    again(arrays, slot, own)
    planned.clear()
    again(arrays, slot, EXPERIMENT)
    assert planned == parts(("feed", CVR), ("search", CVR))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fine_tune_units": (5,)}, parts(("feed", CVR), ("search", CVR))),
        ({"fine_tune_epochs": 2}, parts(("feed", CVR), ("search", CVR))),
        ({"window": 2, "history": 9}, []),
        (
            {"fields": {**EXPERIMENT.mtms.fields, "search": ("user", "ad")}},
            parts(("search", UPDATE), ("feed", CVR), ("search", CVR)),
        ),
    ]
    + [
        (change, parts(("feed", UPDATE), ("search", UPDATE), ("feed", CVR), ("search", CVR)))
        for change in ({"losses": "esmm"}, {"update_units": (5,)}, {"min_count": 2})
    ],
)
def test_a_setting_trains_what_it_is_about(slot, arrays, planned, changes, expected):
    again(arrays, slot, changed(EXPERIMENT, **changes))
    assert planned == expected


def test_a_task_that_is_added_trains_nothing_of_the_others(slot, arrays, planned):
    problem = dataclasses.replace(PROBLEM, tasks=(CQS, *PROBLEM.tasks))
    more = packed(problem=problem)
    before = files(slot)
    config = changed(dataclasses.replace(EXPERIMENT, problem=problem), targets=("cvr", "cqs"))
    again(more, slot, config)
    assert planned == parts(
        ("feed", ("update", "cqs")),
        ("search", ("update", "cqs")),
        ("feed", ("fine_tune", "cqs")),
        ("search", ("fine_tune", "cqs")),
    )
    assert before.items() <= files(slot).items()


def test_a_feature_that_a_scene_does_not_have_trains_nothing_of_it(slot, planned):
    problem = dataclasses.replace(PROBLEM, features=(numerical("age"), *PROBLEM.features))
    again(packed(problem=problem), slot, dataclasses.replace(EXPERIMENT, problem=problem))
    assert planned == []


def test_while_parts_are_replaced_there_is_no_finished_slot(slot, arrays, monkeypatch):
    def dies(job, networks):
        raise KeyboardInterrupt

    monkeypatch.setattr(part_training, "train_part", dies)
    assert read_slot(str(slot))["slot"] == 1
    with pytest.raises(KeyboardInterrupt):
        again(arrays, slot, changed(EXPERIMENT, fine_tune_units=(5,)))
    with pytest.raises(DataError, match="no finished slot; train_slot"):
        read_slot(str(slot))


def test_a_slot_is_not_trained_over_another(slot, arrays, planned):
    before = files(slot)
    rows = as_rows(arrays)
    with pytest.raises(SpecError, match="previous slot, which would be lost; give slot 2 a folder"):
        train_slot(EXPERIMENT, rows, slot=2, folder=f"{slot}/", previous=slot, verbose=0)
    with pytest.raises(SpecError, match="holds slot 1 of experiment 'tiny', which would be lost"):
        train_slot(EXPERIMENT, rows, slot=2, folder=slot, verbose=0)
    other = dataclasses.replace(EXPERIMENT, name="other")
    with pytest.raises(SpecError, match="give slot 1 of 'other' a folder of its own"):
        again(arrays, slot, other)
    assert planned == [] and files(slot) == before and read_slot(slot)["slot"] == 1


def test_a_part_without_its_last_file_is_trained_again(slot, arrays, planned):
    os.remove(os.path.join(target_folder(str(slot), "feed", "cvr"), "about.json"))
    again(arrays, slot)
    assert planned == parts(("feed", CVR))


def test_without_rows_a_scene_keeps_what_it_had(slot, arrays, tmp_path, planned):
    own = of_scene(arrays, EXPERIMENT, "feed")
    feed = {name: values[own] for name, values in arrays.items()}
    later = str(tmp_path / "2")
    train_slot(EXPERIMENT, as_rows(feed), slot=2, folder=later, previous=str(slot), verbose=0)
    assert {scene for _, scene, _ in planned} == {"feed"}
    assert contents(later, "scenes/search") == contents(slot, "scenes/search")
    # The same slot, of rows without the scene and with nothing before: nothing is left of it.
    again(feed, slot)
    assert os.listdir(scene_folder(str(slot), "search")) == []


def test_a_copy_that_was_cut_short_is_not_taken_for_the_whole(
    slot, arrays, tmp_path, planned, monkeypatch
):
    own = of_scene(arrays, EXPERIMENT, "feed")
    feed = {name: values[own] for name, values in arrays.items()}
    later, original = str(tmp_path / "2"), shutil.copytree

    def cut_short(source, target, **kwargs):
        os.makedirs(target, exist_ok=True)
        shutil.copy(os.path.join(source, "about.json"), target)
        raise KeyboardInterrupt

    def run():
        train_slot(EXPERIMENT, as_rows(feed), slot=2, folder=later, previous=str(slot), verbose=0)

    monkeypatch.setattr(shutil, "copytree", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(shutil, "copytree", original)
    run()
    assert contents(later, "scenes/search") == contents(slot, "scenes/search")
