"""What a run goes on from, cut off or changed on disk: said in a line, and passed over."""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import searches
from kills import Kill
from worlds import experiment, packed

from tfmtl import durable
from tfmtl.experiment import Tuning
from tfmtl.meta import Meta
from tfmtl.training import train
from tfmtl.training.checkpoints import Run
from tfmtl.training.gradient_log import GradientLog
from tfmtl.training.search import search
from tfmtl.training.tune import ExperimentTuner
from tfmtl.transfer.runs import outcome_of

_, DATA = packed()
CONFIG = experiment(epochs=3, patience=9, checkpoint_every=4, monitor="loss")


def weights(trained):
    return [v.numpy() for v in trained.model.trainable_variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def last(folder: Path) -> Path:
    return max(folder.glob("at-*"))


def best_of(folder: Path) -> Path:
    epoch = json.loads((last(folder) / "state.json").read_text())["best_epoch"]
    return folder / f"best-{epoch:05d}.npz"


WAYS = {
    "cut weights": lambda folder: cut(next(last(folder).glob("weights.data-*"))),
    "changed weights": lambda folder: flip(next(last(folder).glob("weights.data-*"))),
    "cut index": lambda folder: cut(last(folder) / "weights.index"),
    "no index": lambda folder: (last(folder) / "weights.index").unlink(),
    "cut state": lambda folder: cut(last(folder) / "state.json"),
    "another number in the state": lambda folder: (last(folder) / "state.json").write_text(
        (last(folder) / "state.json").read_text().replace('"step": 4', '"step": 8')
    ),
    "cut seal": lambda folder: cut(last(folder) / durable.SEAL),
    "empty folder": lambda folder: empty(last(folder)),
    "a file in its place": lambda folder: (
        shutil.rmtree(last(folder)),
        (folder / "at-00001-000000004").write_text(""),
    ),
    "cut best weights": lambda folder: cut(best_of(folder)),
    "changed best weights": lambda folder: flip(best_of(folder)),
    "no best weights": lambda folder: best_of(folder).unlink(),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Checkpoints of a run that was killed in its second epoch, and what it would have ended at."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0, callbacks=(Kill(16),))
    assert [path.name for path in sorted(folder.glob("at-*"))] == [
        "at-00001-000000000",
        "at-00001-000000004",
    ]
    return folder, weights(train(CONFIG, DATA, verbose=0))


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_as_ever(
    killed, tmp_path, caplog, way
):
    former, whole = killed
    folder = tmp_path / "run"
    shutil.copytree(former, folder)
    WAYS[way](folder)
    with caplog.at_level(logging.INFO):
        trained = train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all("That checkpoint is passed over" in line and "\n" not in line for line in lines)
    resumed = [m for r in caplog.records if (m := r.getMessage()).startswith("Resumed")]
    if "best" in way:
        # Both refer to the same best weights.
        assert len(lines) == 2 and "the run starts anew" in lines[1] and not resumed
    else:
        assert len(lines) == 1 and "the run goes on from the one before" in lines[0]
        assert str(last(former).name) in lines[0]
        assert resumed == ["Resumed at epoch 1, step 0."]
    assert same(weights(trained), whole)
    # The same command does not say it again.
    caplog.clear()
    train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_without_any_whole_checkpoint_the_run_starts_anew(killed, tmp_path, caplog):
    former, whole = killed
    folder = tmp_path / "run"
    shutil.copytree(former, folder)
    for path in folder.glob("at-*"):
        cut(path / "weights.index")
    trained = train(CONFIG, DATA, checkpoint_dir=str(folder), verbose=0)
    assert "the run starts anew" in caplog.text
    assert same(weights(trained), whole)
    # What was damaged is gone, and does not count among those that are kept.
    for path in folder.glob("at-*"):
        durable.check_whole(str(path))


@pytest.mark.parametrize("stage", ["meta", "finetune"])
def test_a_damaged_checkpoint_of_either_stage_of_meta_training_is_passed_over(
    tmp_path, caplog, stage
):
    config = dataclasses.replace(
        experiment(epochs=1, patience=9, monitor="loss"),
        meta=Meta(tasks_per_step=2, task_rows=32, finetune_epochs=1),
    )
    folder = tmp_path / "run"
    whole = weights(train(config, DATA, checkpoint_dir=str(folder), verbose=0))
    cut(last(folder / stage) / "weights.index")
    again = weights(train(config, DATA, checkpoint_dir=str(folder), verbose=0))
    assert "That checkpoint is passed over" in caplog.text
    assert same(whole, again)


def test_a_damaged_checkpoint_of_a_search_is_passed_over(tmp_path, caplog, monkeypatch):
    config, data = searches.experiment(), searches.data()
    whole = search(config, data, verbose=0)
    save, saved = Run.save, []

    def killed_after_the_second(run):
        save(run)
        saved.append(run)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed_after_the_second)
        with pytest.raises(KeyboardInterrupt):
            search(config, data, directory=str(tmp_path), verbose=0)
    flip(next(last(tmp_path / "checkpoints").glob("weights.data-*")))
    found = search(config, data, directory=str(tmp_path), verbose=0)
    assert "the run goes on from the one before" in caplog.text
    assert found.architecture.line == whole.architecture.line
    assert repr(found.history[-1]["val_loss"]) == repr(whole.history[-1]["val_loss"])


def test_a_damaged_list_of_drawn_networks_is_said_and_drawn_anew(tmp_path, caplog):
    config = searches.experiment(searches.declared(algorithm="random", trials=1))
    data = searches.data()
    first = search(config, data, directory=str(tmp_path), verbose=0)
    cut(tmp_path / "trials.json")
    again = search(config, data, directory=str(tmp_path), verbose=0)
    assert "trials.json is damaged" in caplog.text and "The search starts anew" in caplog.text
    assert again.architecture.line == first.architecture.line


@pytest.mark.parametrize("what", ["oracle.json", "trial_*/trial.json", "trial_*/metrics.json"])
def test_a_damaged_file_of_keras_tuner_is_said_and_the_search_starts_anew(tmp_path, caplog, what):
    tuning = Tuning(space={"training.learning_rate": [1e-3]}, algorithm="grid", trials=1, epochs=1)
    config = dataclasses.replace(experiment(epochs=1), tuning=tuning)
    for _ in range(2):
        tuner = ExperimentTuner(config, directory=str(tmp_path), verbose=0)
        tuner.search(data=DATA)
        (trial,) = tuner.oracle.trials.values()
        assert tuner.metrics_of(trial)
        cut(next((tmp_path / "trials").glob(what)))
    assert "The search starts anew" in caplog.text


def test_a_gradient_log_that_was_cut_off_in_a_line_keeps_the_lines_before(tmp_path):
    path = tmp_path / "gradients.jsonl"
    rows = next(iter(DATA.train.batches(64)))

    def log():
        return GradientLog(rows, every=2, path=str(path))

    folder = str(tmp_path / "run")
    train(CONFIG, DATA, checkpoint_dir=folder, verbose=0, callbacks=(log(),))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines)[:-20])
    again = log()
    train(CONFIG, DATA, checkpoint_dir=folder, verbose=0, callbacks=(again,))
    assert [row["step"] for row in again.rows] == [json.loads(line)["step"] for line in lines[:-1]]


def test_a_result_of_a_transfer_report_that_was_cut_off_is_trained_anew(tmp_path, caplog):
    def outcome():
        return outcome_of("all", experiment(epochs=1), DATA, DATA.validation, directory=tmp_path)

    first = outcome()
    for name in ("result.json", "predictions.npz"):
        caplog.clear()
        cut(next(tmp_path.glob(f"*/{name}")))
        again = outcome()
        assert f"{name} is damaged" in caplog.text and "trained anew" in caplog.text
        assert repr(again.metrics) == repr(first.metrics)


# Files and folders that are whole or not there


def test_a_file_is_given_to_the_disk_before_it_gets_its_name_and_its_folder_after(
    tmp_path, monkeypatch
):
    events = watched(monkeypatch)
    with durable.whole_file(str(tmp_path / "state")) as file:
        file.write(b"all of it")
    assert events == ["fsync .state.building", "replace .state.building state", "fsync folder"]


def test_a_folder_is_given_to_the_disk_with_all_its_files_before_it_gets_its_name(
    tmp_path, monkeypatch
):
    path = tmp_path / "at-1"
    path.mkdir()
    events = watched(monkeypatch)
    with durable.whole_folder(str(path)) as building:
        for name in ("a", "b"):
            Path(building, name).write_text(name)
    named = events.index("rename .at-1.building at-1")
    assert {"fsync a", "fsync b"} <= set(events[:named])
    assert events[named:] == ["rename .at-1.building at-1", "fsync folder"]
    assert sorted(os.listdir(tmp_path)) == ["at-1"]


def watched(monkeypatch):
    """What is handed to the disk and renamed, in the order in which it is."""
    events, fsync = [], os.fsync

    def note_fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        name = "folder" if os.path.isdir(path) else os.path.basename(path)
        events.append(f"fsync {name}")
        fsync(handle)

    def noting(kind, real):
        def note(source, target, **options):
            events.append(f"{kind} {os.path.basename(source)} {os.path.basename(target)}")
            real(source, target, **options)

        return note

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", noting("replace", os.replace))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    return events


def test_a_file_that_cannot_be_written_to_its_end_leaves_the_former_one_and_nothing_else(tmp_path):
    path = tmp_path / "state"
    path.write_text("former")
    with pytest.raises(OSError), durable.whole_file(str(path)) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "former" and os.listdir(tmp_path) == ["state"]


def test_a_seal_tells_a_missing_file_another_size_and_other_content_apart(tmp_path):
    (tmp_path / "a").write_text("some text")
    durable.seal(str(tmp_path))
    durable.check_whole(str(tmp_path))
    for content, sentence in (
        ("some tex", "a is damaged: it has 8 of 9 bytes"),
        ("some tExt", "a is damaged: its content has changed"),
    ):
        (tmp_path / "a").write_text(content)
        with pytest.raises(durable.Damaged, match=sentence):
            durable.check_whole(str(tmp_path))
    (tmp_path / "a").unlink()
    with pytest.raises(durable.Damaged, match="a is missing"):
        durable.check_whole(str(tmp_path))
