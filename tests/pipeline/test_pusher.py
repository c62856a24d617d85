"""Versions of a served model: whole, or not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tfx.components.pusher import executor as tfx_executor
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.pusher import PUSHING, Executor, newest_version, sweep

ROOT = Path(__file__).parents[2]


def model_in(folder: Path) -> standard_artifacts.Model:
    saved = folder / "Format-Serving"
    (saved / "variables").mkdir(parents=True)
    (saved / "saved_model.pb").write_text("graph")
    (saved / "variables/variables.index").write_text("index")
    model = standard_artifacts.Model()
    model.uri = str(folder)
    return model


def push(tmp_path, name="model", blessed=1):
    """Pushes a model; returns the artifact that tells of it."""
    folder = tmp_path / name
    model = model_in(folder) if not folder.exists() else standard_artifacts.Model()
    model.uri = str(folder)
    blessing = standard_artifacts.ModelBlessing()
    blessing.set_int_custom_property("blessed", blessed)
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(tmp_path / f"pushed-{time.monotonic_ns()}")
    os.makedirs(pushed.uri)
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(
            base_directory=str(tmp_path / "serving/shop")
        )
    )
    Executor().Do(
        {"model": [model], "model_blessing": [blessing]},
        {"pushed_model": [pushed]},
        {"push_destination": proto_utils.proto_to_json(destination)},
    )
    return pushed


def test_a_version_holds_the_model_and_nothing_is_left_beside_it(tmp_path):
    pushed = push(tmp_path)
    (version,) = (tmp_path / "serving/shop").iterdir()
    assert {str(p.relative_to(version)) for p in version.rglob("*") if p.is_file()} == {
        "saved_model.pb",
        "variables/variables.index",
    }
    assert pushed.get_string_custom_property("pushed_destination") == str(version)
    assert pushed.get_string_custom_property("pushed_version") == version.name
    assert abs(int(version.name) - time.time()) < 60


def test_until_a_version_is_whole_there_is_no_folder_of_its_name(tmp_path, monkeypatch):
    seen = []
    copy = tfx_executor.io_utils.copy_dir

    def watched(*arguments, **options):
        seen.extend(p.name for p in (tmp_path / "serving/shop").glob("[0-9]*"))
        copy(*arguments, **options)
        seen.extend(p.name for p in (tmp_path / "serving/shop").glob("[0-9]*"))

    monkeypatch.setattr(tfx_executor.io_utils, "copy_dir", watched)
    push(tmp_path)
    assert seen == []


def test_two_models_pushed_within_a_second_are_two_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(tfx_executor.time, "time", lambda: 1_700_000_000.0)
    first, second = push(tmp_path, "one"), push(tmp_path, "two")
    assert first.get_string_custom_property("pushed_version") == "1700000000"
    assert second.get_string_custom_property("pushed_version") == "1700000001"


def test_a_model_that_is_not_blessed_is_not_pushed(tmp_path):
    pushed = push(tmp_path, blessed=0)
    assert pushed.get_string_custom_property("pushed_destination") == ""
    assert not [*tmp_path.glob("serving/shop/[0-9]*")]


KILLED = """
import sys, time
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pathlib import Path
from tfx.components.pusher import executor
import test_pusher

copy = executor.io_utils.copy_dir
def slow(*arguments, **options):
    copy(*arguments, **options)
    Path(sys.argv[1], "copied").touch()
    time.sleep(600)
executor.io_utils.copy_dir = slow
test_pusher.push(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_while_it_copies_it_leaves_no_version_and_the_next_run_sweeps(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(ROOT), str(Path(__file__).parent)],
        cwd=ROOT,
    )
    while not (tmp_path / "copied").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = tmp_path / "serving/shop"
    assert [p.name for p in folder.iterdir()] == [PUSHING] and newest_version(str(folder)) is None
    assert sweep(str(folder)) == [] and [*folder.iterdir()] == []


def test_versions_without_a_model_are_swept_and_told_and_all_others_stay(tmp_path):
    good, half = tmp_path / "1700000000", tmp_path / "1700000001"
    for folder in (good, half, tmp_path / "notes", tmp_path / PUSHING / "1700000002"):
        (folder / "variables").mkdir(parents=True)
    (good / "saved_model.pb").write_text("graph")
    (tmp_path / "1700000003").write_text("a file of somebody's")
    assert newest_version(str(tmp_path)) == "1700000000"
    assert sweep(str(tmp_path)) == [str(half)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1700000000", "1700000003", "notes"]
    assert sweep(str(tmp_path)) == [] and sweep(str(tmp_path / "nowhere")) == []
