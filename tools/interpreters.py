"""Which Python of this machine can carry the project, and why the newer ones cannot.

Standard library alone, and no syntax newer than Python 3.8: this runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Stack:
    """A set of versions that install together.

    Attributes:
        pythons: The Python minor versions it has wheels for.
        tfx: Its TFX.
        tensorflow: Its TensorFlow.
        glibc: The oldest glibc its wheels load on.
    """

    pythons: tuple[tuple[int, int], ...]
    tfx: str
    tensorflow: str
    glibc: tuple[int, int]


STACKS = (
    # The wheels of ml-metadata 1.21 and of TFDV 1.21 are manylinux_2_39.
    Stack(((3, 11), (3, 12), (3, 13)), tfx="1.21", tensorflow="2.21", glibc=(2, 39)),
    Stack(((3, 10),), tfx="1.16", tensorflow="2.16", glibc=(2, 28)),
)


@dataclass(frozen=True)
class Interpreter:
    """What a Python said of itself when asked.

    Attributes:
        path: The executable, with symbolic links resolved.
        version: Major, minor and micro version.
        implementation: `cpython`, `pypy`, ...
        system: `Linux`, `Darwin` or `Windows`.
        machine: The processor architecture it was built for.
        glibc: The C library's version, or None where it is not glibc.
        free_threaded: Whether it was built without the GIL, for which the stack has no wheels.
        lacks: What it lacks of `venv`, `headers` and `compiler`.
    """

    path: str
    version: tuple[int, ...]
    implementation: str = "cpython"
    system: str = "Linux"
    machine: str = "x86_64"
    glibc: tuple[int, ...] | None = None
    free_threaded: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        return dotted(self.version[:2])

    def __str__(self) -> str:
        return f"Python {dotted(self.version)} ({self.path})"


PROBE = """
import importlib.util as u, json, os, platform, sys, sysconfig
try:
    glibc = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
except (AttributeError, ValueError, OSError, IndexError):
    glibc = None
include = sysconfig.get_paths()["include"]
print(json.dumps(dict(
    path=os.path.realpath(sys.executable),
    version=sys.version_info[:3],
    implementation=sys.implementation.name,
    system=platform.system(),
    machine=platform.machine() if sys.maxsize > 2**32 else "32-bit " + platform.machine(),
    glibc=glibc and [int(n) for n in glibc.split(".")[:2]],
    free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    lacks=(["venv"] if not (u.find_spec("venv") and u.find_spec("ensurepip")) else [])
        + (["headers"] if not os.path.exists(os.path.join(include, "Python.h")) else []),
)))
"""
PARTS = {
    "venv": ("its venv module", "python{minor}-venv"),
    "headers": ("its C headers", "python{minor}-dev"),
    "compiler": ("a C++ compiler", "g++"),
}


def dotted(version: Iterable[int]) -> str:
    """Returns `(3, 10)` as `3.10`."""
    return ".".join(map(str, version))


def stack_of(version: Sequence[int]) -> Stack | None:
    """Returns the stack for a Python version, or None where there is none."""
    return next((s for s in STACKS if tuple(version[:2]) in s.pythons), None)


def candidates(environ: Mapping[str, str], home: Path) -> list[str]:
    """Lists the executables that may be a Python, each file once, without running any."""
    folders = [Path(p) for p in environ.get("PATH", "").split(os.pathsep) if p]
    # A pyenv shim fails unless its version is activated; the Pythons behind it are beside it.
    pyenvs = [p.parent for p in folders if p.name == "shims"]
    folders = [p for p in folders if p.name != "shims"]
    folders += [Path("/usr/bin"), Path("/usr/local/bin")]
    pyenvs += [Path(environ["PYENV_ROOT"])] if environ.get("PYENV_ROOT") else []
    pyenvs += [home / ".pyenv"]
    condas = [home / name for name in ("miniconda3", "miniforge3", "mambaforge", "anaconda3")]
    condas += [Path("/opt/conda")]
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    for root, pattern in [
        *((pyenv, "versions/*/bin") for pyenv in pyenvs),
        *((conda, "bin") for conda in condas),
        *((conda, "envs/*/bin") for conda in condas),
        (uv, "*/bin"),
    ]:
        folders += sorted(root.glob(pattern)) if root.is_dir() else []
    found: dict[str, None] = {}
    for folder in folders:
        try:
            files = sorted(folder.iterdir())
        except OSError:
            continue
        for file in files:
            if re.fullmatch(r"python(3(\.\d+t?)?)?", file.name) and os.access(file, os.X_OK):
                found[os.path.realpath(file)] = None
    return list(found)


def probe(path: str) -> Interpreter | None:
    """Asks an executable what it is; None where it does not answer as a Python 3 does."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
        )
        said = json.loads(answer.stdout.decode())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    # pyfarmhash, which TFDV needs, comes as source alone.
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    said["lacks"] = tuple(said["lacks"] + ([] if compiler else ["compiler"]))
    said["version"] = tuple(said["version"])
    said["glibc"] = tuple(said["glibc"]) if said["glibc"] else None
    return Interpreter(**said)


def probe_all(paths: Iterable[str]) -> list[Interpreter]:
    """Probes every executable; those that do not answer are left out."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return [found for found in pool.map(probe, paths) if found]


def why_not(python: Interpreter) -> str | None:
    """Returns why the project cannot be installed for this Python, or None where it can."""
    stack = stack_of(python.version)
    if python.system != "Linux" or python.machine not in ("x86_64", "AMD64"):
        return f"TFX has no wheels for {python.system} on {python.machine}"
    if python.implementation != "cpython":
        return f"TFX has wheels for CPython alone, and this is {python.implementation}"
    if stack is None:
        return f"no TFX has wheels for Python {python.minor}"
    if python.free_threaded:
        return "TFX has no wheels for free-threaded Python"
    if python.glibc is None:
        return "TFX's wheels need glibc, and this Python was built for another C library"
    if python.glibc < stack.glibc:
        need, have = dotted(stack.glibc), dotted(python.glibc)
        return f"TFX {stack.tfx} needs glibc >= {need}, and this machine has {have}"
    if python.lacks:
        return "it lacks " + " and ".join(PARTS[part][0] for part in python.lacks)
    return None


@dataclass(frozen=True)
class Choice:
    """The Python taken, if any, and the refused ones that are newer, with the reason.

    Attributes:
        taken: The newest Python the project installs for, or None.
        refused: Newer Pythons and why each was passed over, newest first.
    """

    taken: Interpreter | None
    refused: tuple[tuple[Interpreter, str], ...]


def choose(pythons: Iterable[Interpreter]) -> Choice:
    """Takes the newest Python whose stack this machine can install."""
    refused = []
    for python in sorted(pythons, key=lambda p: p.version, reverse=True):
        reason = why_not(python)
        if reason is None:
            return Choice(python, tuple(refused))
        refused.append((python, reason))
    return Choice(None, tuple(refused))


def advice(pythons: Sequence[Interpreter]) -> str:
    """Says in one sentence what to install, where no Python fits."""
    newest_first = sorted(pythons, key=lambda p: p.version, reverse=True)
    wheels = [p for p in newest_first if p.system == "Linux" and p.machine in ("x86_64", "AMD64")]
    if newest_first and not wheels:
        here = f"{newest_first[0].system} on {newest_first[0].machine}"
        return (
            "tfmtl needs Linux on x86-64, because TFX publishes its wheels for nothing else that "
            f"fits, and this is {here}: use a Linux x86-64 machine or container."
        )
    glibc = max((p.glibc for p in wheels if p.glibc), default=None)
    fitting = [s for s in STACKS if glibc and glibc >= s.glibc]
    if not fitting:
        have = f"glibc {dotted(glibc)}" if glibc else "no glibc"
        return (
            f"tfmtl needs glibc >= {dotted(STACKS[-1].glibc)} and this machine has {have}: "
            "use Debian 12, Ubuntu 22.04 or newer, or a container of one."
        )
    for python in wheels:
        alone = Interpreter(**{**python.__dict__, "lacks": ()})
        if python.lacks and why_not(alone) is None:
            parts = " and ".join(PARTS[part][0] for part in python.lacks)
            debs = " ".join(PARTS[part][1].format(minor=python.minor) for part in python.lacks)
            return (
                f"Python {python.minor} would do but lacks {parts}: install that "
                f"(on Debian and Ubuntu `apt install {debs}`) and run this again."
            )
    minor = dotted(fitting[0].pythons[-1])
    return (
        f"No Python here fits: install CPython {minor}, the newest that TFX {fitting[0].tfx} and "
        f"glibc {dotted(glibc)} allow (for example `pyenv install {minor}` or "
        f"`uv python install {minor}`), and run this again."
    )
