"""Files and folders that are whole or not there."""

import os
from pathlib import Path

import pytest

from tfmtl import durable


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
