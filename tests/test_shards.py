"""Slow tests in shards: each in one, all in some, and about as much to do in each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import shards
from tests.shards import SECONDS, recorded, shard_of

ROOT = Path(__file__).parents[1]
FILES = {f"tests/test_{name}.py": float(seconds) for seconds, name in enumerate("abcdefghij", 1)}


@pytest.mark.parametrize("n", [1, 3, 7, 20])
def test_every_file_is_in_one_shard(n):
    dealt = shards.shards(FILES, n)
    assert len(dealt) == n
    assert sorted(file for files in dealt for file in files) == sorted(FILES)


def test_shards_have_about_as_much_to_do():
    loads = [sum(FILES[file] for file in files) for files in shards.shards(FILES, 3)]
    assert max(loads) - min(loads) <= 2


def test_the_order_of_files_changes_nothing():
    assert shards.shards(dict(reversed(FILES.items())), 3) == shards.shards(FILES, 3)


def test_a_test_without_a_record_is_expected_to_take_a_tenth_of_its_time_out(project):
    (project / "timeouts.py").write_text(
        "import pytest\nslow = pytest.mark.slow\n"
        "@slow\n@pytest.mark.timeout(1500)\ndef test_long(): pass\n"
        "@slow\ndef test_short(): pass\ndef test_quick(): pass\n"
    )
    (project / "show.py").write_text(
        "from tests.shards import expected\n"
        "def pytest_collection_finish(session):\n"
        "    print('expected', expected(session.config, session.items))\n"
    )
    text = run(project, "-p", "show", "--collect-only", "timeouts.py")
    assert "expected {'timeouts.py': 210.0}" in text


def test_the_record_is_of_files_that_are_there():
    assert [file for file in recorded() if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("text", ["0/7", "8/7", "3", "a/b", "-1/7", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(pytest.UsageError, match="give K/N with K from 1 to N"):
        shard_of(text)


def environment():
    return {**os.environ, "PYTHONPATH": f".:{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def run(folder, *arguments):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.shards",
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three files of a quick and a slow test each, and one of quick tests alone."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: minutes\n")
    both = "import pytest\ndef test_quick(): pass\n@pytest.mark.slow\ndef test_slow(): pass\n"
    for name in "abc":
        (folder / f"test_{name}.py").write_text(both)
    (folder / "test_0.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    return folder


def test_a_shard_adds_its_slow_tests_to_the_quick_ones(project):
    ran = [run(project, "-v", "--shard", f"{k}/3") for k in (1, 2, 3)]
    for k, text in enumerate(ran, 1):
        assert f"slow tests: shard {k} of 3" in text and "6 passed, 2 deselected" in text
    slow = [
        line.split(" ")[0] for text in ran for line in text.splitlines() if "::test_slow" in line
    ]
    assert sorted(slow) == [f"test_{name}.py::test_slow" for name in "abc"]


def test_the_slow_lane_is_split_as_all_tests_are(project):
    def slow(text):
        return {line.split(" ")[0] for line in text.splitlines() if "::test_slow" in line}

    shard = ("--shard", "2/3")
    assert slow(run(project, "-v", *shard)) == slow(run(project, "-v", "-m", "slow", *shard))


def test_files_with_slow_tests_come_first_under_two_workers_too(project):
    text = run(project, "-v", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    assert "8 passed" in text
    collected = [line for line in run(project, "--collect-only", "-q").splitlines() if "::" in line]
    # By name alone it would be the first.
    assert collected[-2:] == ["test_0.py::test_one", "test_0.py::test_two"]


def test_the_seconds_of_slow_tests_are_recorded_by_file(project, tmp_path, monkeypatch):
    code = (
        "import pathlib, sys, pytest, tests.shards as s;"
        f"s.SECONDS = pathlib.Path({str(tmp_path / 'seconds.json')!r});"
        "sys.exit(pytest.main(['-p', 'tests.shards', '-m', 'slow', '--record-seconds']))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment(), check=True)
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert {*seconds} == {"test_a.py", "test_b.py", "test_c.py"}
    assert all(0 <= value < 10 for value in seconds.values())
    assert SECONDS.parent == ROOT / "tests"
