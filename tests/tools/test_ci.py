"""What continuous integration runs: both stacks, each with a part of the slow tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = (
    '#!/bin/sh\necho "make $* CI=$CI"\n[ "$CI_FAILS" != "$ON" ] || { echo "1 failed"; exit 1; }\n'
)
SECOND = '#!/bin/sh\nON=debian13 exec "$@"\n'


@pytest.fixture
def checkout(tmp_path):
    """A repository with `.ci/run` and one commit, and a `make` that says how it was called."""
    folder = tmp_path / "project"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text(MAKE)
    (tmp_path / "bin/make").chmod(0o755)
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder, *arguments, **environ):
    subprocess.run(["git", *arguments], cwd=folder, check=True, env={**os.environ, **environ})


def commit(folder, day=0):
    """Makes a commit at noon of a day, counted from Thursday, 1 January 1970."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    date = f"@{day * 86400 + 43200} +0000"
    git(folder, *who, "commit", "-q", "--allow-empty", "-m", "One more", GIT_COMMITTER_DATE=date)


def second_stack(folder):
    tool = folder.parent / "shared/tools/debian13"
    tool.parent.mkdir(parents=True)
    tool.write_text(SECOND)
    tool.chmod(0o755)


def ci(folder, **environ):
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [folder / ".ci/run"],
        env={**os.environ, "PATH": path, "ON": "here", "CI_FAILS": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_a_public_checkout_runs_one_stack_and_says_so(checkout):
    code, lines = ci(checkout)
    assert code == 0 and "this stack alone" in lines[0]
    assert [line for line in lines if line.startswith("make")] == [
        "make --no-print-directory test SHARD=11/14 CI=true"
    ]


def test_the_second_stack_runs_after_the_first_with_another_part(checkout):
    second_stack(checkout)
    code, lines = ci(checkout)
    parts = [line.split("SHARD=")[1] for line in lines if line.startswith("make")]
    assert code == 0 and parts == ["11/14 CI=true", "12/14 CI=true"]
    # Nothing follows what the last stack printed: pytest's summary.
    assert lines[-1].startswith("make")


def parts_of(checkout, days):
    """The shards that each stack runs where every day has a commit."""
    here, there = [], []
    for day in days:
        commit(checkout, day)
        _, lines = ci(checkout)
        parts = [line.split("SHARD=")[1].split("/")[0] for line in lines if line[:4] == "make"]
        here.append(int(parts[0]))
        there.append(int(parts[1]))
    return here, there


def test_a_week_of_changes_runs_all_parts_and_two_weeks_run_them_on_both_stacks(checkout):
    second_stack(checkout)
    here, there = parts_of(checkout, range(20_000 - 20_005 % 7, 20_014 - 20_005 % 7))
    for week in (slice(0, 7), slice(7, 14)):
        assert sorted(here[week] + there[week]) == [*range(1, 15)]
    assert sorted(here) == sorted(there) == [*range(1, 15)]


def test_the_first_stack_that_fails_ends_the_run(checkout):
    second_stack(checkout)
    code, lines = ci(checkout, CI_FAILS="here")
    assert code != 0 and lines[-1] == "1 failed" and not any("Debian" in line for line in lines)
    code, lines = ci(checkout, CI_FAILS="debian13")
    assert code != 0 and lines[-1] == "1 failed" and any("Debian" in line for line in lines)


def test_a_shallow_clone_takes_a_part_too(checkout, tmp_path):
    commit(checkout)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{checkout}", str(shallow))
    shutil.copytree(checkout / ".ci", shallow / ".ci")
    code, lines = ci(shallow)
    (call,) = (line for line in lines if line.startswith("make"))
    assert code == 0 and call.split("SHARD=")[1].split()[0] in {f"{k}/14" for k in range(1, 15)}
