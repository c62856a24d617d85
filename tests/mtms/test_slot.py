"""A slot as a whole: what depends on what, what is trained again, and what stays bit for bit."""

import dataclasses
import os
import shutil

import numpy as np
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
from tfmtl.errors import DataError, SpecError
from tfmtl.mtms import part_training
from tfmtl.mtms.embedding_update import update_embeddings
from tfmtl.mtms.slot import load_slot, train_slot
from tfmtl.mtms.units import by_scene

FUNNEL = ("ctr", "cvr", "ctcvr")
EXPERIMENT = experiment(targets=("cvr",))


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

    original, part_training.fine_tune = part_training.fine_tune, fine_tune
    try:
        train_slot(EXPERIMENT, as_rows(arrays), slot=1, folder=folder, verbose=0)
    finally:
        part_training.fine_tune = original
    return folder, seen


@pytest.fixture
def slot(trained, tmp_path):
    """A copy of the slot, to be changed."""
    return shutil.copytree(trained[0], tmp_path / "1")


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
    original, calls = part_training.fine_tune, []

    def dies(*args, folder, **kwargs):
        calls.append(folder)
        open(os.path.join(folder, "network.npz"), "w").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(part_training, "fine_tune", dies)
    with pytest.raises(KeyboardInterrupt):
        again(arrays, tmp_path / "1")
    written = files(tmp_path / "1", "scenes")
    assert not any("fine_tune" in name and ".building" not in name for name in written)
    with pytest.raises(DataError, match="holds no finished slot"):
        load_slot(str(tmp_path / "1"))
    monkeypatch.setattr(part_training, "fine_tune", original)
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
