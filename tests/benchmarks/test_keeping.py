"""Kept figures: found again by the content of the data, the code and the settings alone."""

import json
import os

import pytest

from benchmarks import keeping
from benchmarks.keeping import content_hash, kept

CODE = ("tfmtl/text.py",)


@pytest.fixture(autouse=True)
def forgotten():
    content_hash.cache_clear()
    yield
    content_hash.cache_clear()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "rows.csv").write_text("a,1\n")
    (folder / "deep" / "more.csv").write_text("b,2\n")
    return folder


def asked(tmp_path, data, value, *, settings=None, name="arm-seed0"):
    content_hash.cache_clear()
    return kept(
        str(tmp_path / "keep"),
        "paper",
        CODE,
        name,
        lambda: value,
        settings=settings or {"rate": 1},
        path=str(data),
    )


def test_the_same_data_code_and_settings_give_the_first_figures_again(tmp_path, data):
    assert asked(tmp_path, data, [1.5]) == [1.5]
    assert asked(tmp_path, data, [2.5]) == [1.5]


def test_other_content_of_the_same_size_name_and_time_is_other_data(tmp_path, data):
    asked(tmp_path, data, 1)
    file = data / "deep" / "more.csv"
    times = os.stat(file)
    file.write_text("b,3\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert asked(tmp_path, data, 2) == 2
    file.write_text("b,2\n")
    assert asked(tmp_path, data, 3) == 1


def test_a_folder_that_was_moved_is_the_same_data(tmp_path, data):
    asked(tmp_path, data, 1)
    data.rename(tmp_path / "elsewhere")
    assert asked(tmp_path, tmp_path / "elsewhere", 2) == 1


def test_a_file_more_or_another_name_is_other_data(tmp_path, data):
    asked(tmp_path, data, 1)
    (data / "rows.csv").rename(data / "lines.csv")
    assert asked(tmp_path, data, 2) == 2


def test_other_settings_and_other_code_are_other_figures(tmp_path, data, monkeypatch):
    asked(tmp_path, data, 1)
    assert asked(tmp_path, data, 2, settings={"rate": 2}) == 2
    assert asked(tmp_path, data, 3, name="arm-seed1") == 3
    monkeypatch.setattr(keeping, "_hash_of", lambda code: "edited")
    assert asked(tmp_path, data, 4) == 4


def test_half_a_file_is_measured_again(tmp_path, data):
    asked(tmp_path, data, 1)
    (file,) = (tmp_path / "keep").iterdir()
    file.write_text(file.read_text()[:10])
    assert asked(tmp_path, data, 2) == 2
    assert json.loads(file.read_text())["figures"] == 2


def test_without_a_folder_nothing_is_kept(tmp_path, data):
    assert kept(None, "paper", CODE, "arm", lambda: 1) == 1
    assert not (tmp_path / "keep").exists()


def test_a_dry_run_asks_for_the_same_name_code_and_data(tmp_path, data, monkeypatch):
    def known(name="arm-seed0"):
        content_hash.cache_clear()
        return keeping.is_kept(str(tmp_path / "keep"), "paper", CODE, name, str(data))

    assert not known()
    asked(tmp_path, data, 1)
    assert known() and not known("arm-seed")
    (data / "rows.csv").write_text("c,1\n")
    assert not known()
    (data / "rows.csv").write_text("a,1\n")
    monkeypatch.setattr(keeping, "_hash_of", lambda code: "edited")
    assert not known()
