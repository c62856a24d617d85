"""Makes the project's environment with the newest Python that this machine can install it for.

    python3 tools/bootstrap.py [--python PATH]

The environment is `.venv/`, or the folder $UV_PROJECT_ENVIRONMENT names. A stamp inside it says
what it was made from; while that holds, a further run does nothing. Standard library alone, any
Python from 3.8.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import installer
import interpreters

ROOT = Path(__file__).resolve().parents[1]
STAMP = "tfmtl-setup.json"


class SetUpError(Exception):
    """What stops the set-up, in one sentence for the user."""


def environment_folder() -> Path:
    """Returns where the environment lies or shall lie."""
    return ROOT / (os.environ.get("UV_PROJECT_ENVIRONMENT") or ".venv")


def lock_of(minor: str) -> Path:
    """Returns the requirements file for a Python minor version such as `3.10`."""
    return ROOT / "requirements" / f"python{minor}.txt"


def stamp_for(base: str, minor: str) -> dict[str, str]:
    """Returns what a finished environment was made from."""
    digest = hashlib.sha256()
    for path in (lock_of(minor), ROOT / "setup.py"):
        digest.update(path.read_bytes() if path.exists() else b"")
    return {"base": base, "python": minor, "project": str(ROOT), "inputs": digest.hexdigest()}


def read_stamp(folder: Path) -> dict[str, str]:
    """Returns the stamp of an environment, empty where it has none."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def works(folder: Path) -> bool:
    """Whether the environment's Python exists and still leads to the one it was made from."""
    python = folder / "bin/python"
    return os.access(python, os.X_OK) and os.path.realpath(python) == read_stamp(folder).get("base")


def is_finished(folder: Path, asked: str | None) -> bool:
    """Whether there is nothing to do: the environment matches its inputs, and the Python asked."""
    stamp = read_stamp(folder)
    if not works(folder) or (asked and os.path.realpath(asked) != stamp["base"]):
        return False
    return stamp == stamp_for(stamp["base"], stamp.get("python", ""))


def take_interpreter(asked: str | None) -> interpreters.Interpreter:
    """Finds the Pythons, says which one is taken and why no newer one, and returns it."""
    if asked:
        paths = [shutil.which(asked) or asked]
    else:
        paths = interpreters.candidates(os.environ, Path.home())
        paths += [] if os.path.realpath(sys.executable) in paths else [sys.executable]
    found = interpreters.probe_all(paths)
    if asked and not found:
        raise SetUpError(f"{asked} does not run as a Python 3: name an executable that does.")
    choice = interpreters.choose(found)
    if asked and choice.taken is None:
        raise SetUpError(f"{found[0]} cannot be taken: {interpreters.why_not(found[0])}.")
    for python, reason in choice.refused:
        print(f"  not {python}: {reason}")
    if choice.taken is None:
        raise SetUpError(interpreters.advice(found))
    stack = interpreters.stack_of(choice.taken.version)
    assert stack is not None  # choose() takes none without.
    print(f"Taking {choice.taken} with TFX {stack.tfx} and TensorFlow {stack.tensorflow}.")
    return choice.taken


def clear(folder: Path) -> None:
    """Removes an environment that cannot be used any more.

    Raises:
        SetUpError: If the folder is not plainly an environment of this project.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    ours = read_stamp(folder) or folder == ROOT / ".venv"
    if not ours:
        raise SetUpError(
            f"{folder} holds something this set-up did not make: "
            "empty it, or let UV_PROJECT_ENVIRONMENT name another folder."
        )
    print(f"Removing {folder}: it is unfinished, or was made by another Python.")
    shutil.rmtree(folder)


def make(folder: Path, python: interpreters.Interpreter) -> None:
    """Makes the environment, or brings a finished one up to its lock."""
    finished = {"base": python.path, "python": python.minor, "project": str(ROOT)}
    stamp = read_stamp(folder)
    # "inputs" is written last: an environment without it was left half-made.
    if not (works(folder) and {**stamp, **finished} == stamp and stamp.get("inputs")):
        clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STAMP).write_text(json.dumps({"python": python.minor}))
        subprocess.run([python.path, "-m", "venv", str(folder)], check=True)
    stamp = stamp_for(python.path, python.minor)
    (folder / STAMP).write_text(json.dumps({**stamp, "inputs": ""}))
    installer.install(folder / "bin/python", lock_of(python.minor), ROOT)
    (folder / STAMP).write_text(json.dumps(stamp))


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets a second set-up of the same checkout wait for the first."""
    try:
        import fcntl
    except ImportError:  # Windows, which is refused further on.
        yield
        return
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def set_up(asked: str | None) -> None:
    """Sets the environment up, unless that is done already."""
    folder = environment_folder()
    if is_finished(folder, asked):
        return
    with one_at_a_time():
        if is_finished(folder, asked):
            return
        started = time.monotonic()
        python = take_interpreter(asked)
        print(f"Installing {lock_of(python.minor).relative_to(ROOT)} into {folder} ...", flush=True)
        make(folder, python)
        print(f"Set up in {time.monotonic() - started:.0f} s.", flush=True)


def main() -> int:
    """Runs the set-up; whatever stops it is said in a sentence, not in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", metavar="PATH", help="take this Python and look for no other")
    asked = parser.parse_args().python
    try:
        set_up(asked)
    except SetUpError as error:
        print(error, file=sys.stderr)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        print(f"The set-up stopped: `{command}` failed; the reason is above.", file=sys.stderr)
    except OSError as error:
        print(f"The set-up stopped: {error}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("The set-up was interrupted; the next run starts it afresh.", file=sys.stderr)
        return 130
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
