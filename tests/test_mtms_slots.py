"""A slot as a whole: what depends on what, what is trained again, and what stays bit for bit."""

import dataclasses
import hashlib
import os
import shutil

import numpy as np
import pytest
from mtms_rows import PROBLEM, as_rows, changed, experiment, of_scene, packed, scrambled

from tfmtl.errors import DataError, SpecError
from tfmtl.mtms.store import Building, scene_folder, target_folder
from tfmtl.mtms.units import by_scene
from tfmtl.training import alternating
from tfmtl.training.alternating import load_slot, read_slot, train_slot
from tfmtl.training.embedding_update import update_embeddings

FUNNEL = ("ctr", "cvr", "ctcvr")
EXPERIMENT = experiment(targets=("cvr",))


def files(folder, under="scenes"):
    """Every file below a slot's scenes: a hash of its bytes, and when it was written."""
    found = {}
    for path, _, names in os.walk(os.path.join(folder, under)):
        for name in names:
            whole = os.path.join(path, name)
            with open(whole, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(whole, folder)] = content, os.stat(whole).st_mtime_ns
    return found


def contents(folder, under="scenes"):
    return {name: content for name, (content, _) in files(folder, under).items()}


@pytest.fixture(scope="module")
def arrays():
    return packed()


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    """A slot of two scenes, and its components' files around every fine-tuning."""
    folder = str(tmp_path_factory.mktemp("slots") / "1")
    seen = []

    def fine_tune(*args, **kwargs):
        components = {n: v for n, v in files(folder).items() if "update-" in n}
        history = original(*args, **kwargs)
        seen.append((components, {n: v for n, v in files(folder).items() if "update-" in n}))
        return history

    original, alternating.fine_tune = alternating.fine_tune, fine_tune
    try:
        train_slot(EXPERIMENT, as_rows(arrays), slot=1, folder=folder, verbose=0)
    finally:
        alternating.fine_tune = original
    return folder, seen


@pytest.fixture
def slot(trained, tmp_path):
    """A copy of the slot, to be changed."""
    return shutil.copytree(trained[0], tmp_path / "1")


@pytest.fixture
def planned(monkeypatch):
    """Notes the parts that would be trained, and leaves empty ones."""
    parts = []

    def train(job):
        parts.append((job.part.kind, job.part.scene, "+".join(job.part.tasks)))
        with Building(job.part.folder(job.folder), job.about):
            pass

    monkeypatch.setattr(alternating, "_train", train)
    monkeypatch.setattr(alternating, "load_slot", lambda folder: None)
    return parts


def again(arrays, slot, config=EXPERIMENT, **more):
    return train_slot(config, as_rows(arrays), slot=1, folder=str(slot), verbose=0, **more)


def test_fine_tuning_leaves_every_component_as_it_was(trained):
    _, seen = trained
    assert len(seen) == 2
    for before, after in seen:
        assert len([name for name in before if name.endswith("/cvr.npz")]) == 2
        assert before == after


def test_a_scenes_components_do_not_depend_on_the_rows_of_another(trained, arrays, tmp_path):
    other = scrambled(arrays, of_scene(arrays, EXPERIMENT, "search"))
    assert any(not np.array_equal(other[name], arrays[name]) for name in arrays)
    rows = by_scene(PROBLEM, ["search", "feed"], as_rows(other))["feed"]
    update_embeddings(EXPERIMENT, "feed", FUNNEL, rows, slot=1, folder=str(tmp_path))
    of_slot = contents(trained[0], "scenes/feed/update-ctr-cvr-ctcvr")
    alone = {os.path.basename(n): c for n, c in contents(tmp_path, ".").items()}
    assert set(alone) == {"ctr.npz", "cvr.npz", "network.npz"}
    assert alone == {os.path.basename(n): c for n, c in of_slot.items() if not n.endswith(".json")}


def test_a_run_that_was_killed_ends_as_one_that_was_not(trained, arrays, tmp_path, monkeypatch):
    original, calls = alternating.fine_tune, []

    def dies(*args, folder, **kwargs):
        calls.append(folder)
        open(os.path.join(folder, "network.npz"), "w").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(alternating, "fine_tune", dies)
    with pytest.raises(KeyboardInterrupt):
        again(arrays, tmp_path / "1")
    written = files(tmp_path / "1", "scenes")
    assert not any("fine_tune" in name and ".building" not in name for name in written)
    with pytest.raises(DataError, match="holds no finished slot"):
        load_slot(str(tmp_path / "1"))
    monkeypatch.setattr(alternating, "fine_tune", original)
    again(arrays, tmp_path / "1")
    assert len(calls) == 1 and contents(tmp_path / "1") == contents(trained[0])
    kept = {name: v for name, v in written.items() if "update-" in name}
    assert kept.items() <= files(tmp_path / "1").items()
    assert sorted(os.listdir(tmp_path / "1")) == ["scenes", "slot.json"]


def test_a_third_scene_changes_no_file_of_the_others_and_is_predicted(slot, arrays):
    before = files(slot)
    model = again(arrays, slot, changed(EXPERIMENT, scenes=("video", "feed", "search")))
    after = files(slot)
    assert before.items() <= after.items()
    assert {name.split("/")[1] for name in set(after) - set(before)} == {"video"}
    assert set(model.networks) == {"feed", "search", "video"}
    # Those that were there go on with what they read; the new one reads all.
    assert {
        scene: len(
            {tuple(name.split("/")[:2]) for name in n["cvr"].embedding.input_names if "/" in name}
        )
        for scene, n in model.networks.items()
    } == {"feed": 4, "search": 4, "video": 6}


def test_the_day_after_depends_on_the_day_before(slot, tmp_path):
    tomorrow = packed(seed=1)
    alone = experiment(scenes=("feed",), targets=("cvr",))
    found = {}
    for name, previous in (("warm", str(slot)), ("cold", None)):
        model = train_slot(
            alone,
            as_rows(tomorrow),
            slot=2,
            folder=str(tmp_path / name),
            previous=previous,
            verbose=0,
        )
        found[name] = model.evaluate(as_rows(tomorrow).batches(64))["cvr/log_loss@click"]
    assert np.isfinite(found["cold"]) and abs(found["warm"] - found["cold"]) > 1e-4


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


UPDATE, CVR = ("update", "ctr+cvr+ctcvr"), ("fine_tune", "cvr")


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
    from worlds import CQS

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
    from tfmtl.problem import numerical

    problem = dataclasses.replace(PROBLEM, features=(numerical("age"), *PROBLEM.features))
    again(packed(problem=problem), slot, dataclasses.replace(EXPERIMENT, problem=problem))
    assert planned == []


def test_while_parts_are_replaced_there_is_no_finished_slot(slot, arrays, monkeypatch):
    def dies(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(alternating, "_train", dies)
    assert read_slot(str(slot))["slot"] == 1
    with pytest.raises(KeyboardInterrupt):
        again(arrays, slot, changed(EXPERIMENT, fine_tune_units=(5,)))
    with pytest.raises(DataError, match="no finished slot; train_slot"):
        read_slot(str(slot))


def test_a_part_without_its_last_file_is_trained_again(slot, arrays, planned):
    os.remove(os.path.join(target_folder(str(slot), "feed", "cvr"), "about.json"))
    again(arrays, slot)
    assert planned == parts(("feed", CVR))


def test_a_slot_starts_from_one_before_it(slot, arrays, tmp_path):
    rows = as_rows(arrays)
    with pytest.raises(SpecError, match="holds slot 1, which is not before slot 1"):
        train_slot(EXPERIMENT, rows, slot=1, folder=str(tmp_path / "x"), previous=str(slot))
    with pytest.raises(DataError, match="holds no finished slot; train_slot"):
        train_slot(EXPERIMENT, rows, slot=2, folder=str(tmp_path / "x"), previous=str(tmp_path))
    with pytest.raises(SpecError, match="ExperimentConfig.mtms=MTMS"):
        train_slot(
            dataclasses.replace(EXPERIMENT, mtms=None), rows, slot=1, folder=str(tmp_path / "x")
        )
    assert not os.path.exists(tmp_path / "x")


@pytest.mark.slow
def test_processes_at_the_same_time_train_what_one_does(trained, arrays, tmp_path):
    again(arrays, tmp_path / "1", workers=2)
    ours, theirs = contents(tmp_path / "1"), contents(trained[0])
    assert set(ours) == set(theirs)
    for name in ours:
        if name.endswith(".npz"):
            with np.load(tmp_path / "1" / name) as a, np.load(f"{trained[0]}/{name}") as b:
                for key in a:
                    if a[key].dtype.kind == "f":
                        np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-6)
                    else:
                        np.testing.assert_array_equal(a[key], b[key])
