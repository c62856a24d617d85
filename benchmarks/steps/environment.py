"""The peers' environments, and the processes that run in them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).parents[2]
COMPLETE = "installed.txt"
PACKAGES = {
    "rechub": ("torch-rechub==0.9.0", "torch==2.14.1"),
    "fuxi": ("fuxictr==2.3.10", "torch==2.14.1"),
    "deep": ("deepctr==0.9.4", "tensorflow==2.16.2", "tf_keras==2.16.0"),
}
"""What pip installs for each module of a peer."""


def python_of(module: str, folder: Path) -> str | None:
    """The interpreter that runs a module: this one, or that of an environment made for the peer.

    An environment that was interrupted is continued, and one that is complete is used as it is.

    Args:
        module: `ours`, or a peer's.
        folder: Where the environments are.

    Returns:
        Its path, or `None` if the packages cannot be installed.
    """
    if module not in PACKAGES:
        return sys.executable
    environment, packages = folder / module, PACKAGES[module]
    python, done = environment / "bin" / "python", environment / COMPLETE
    if done.exists() and done.read_text(encoding="utf-8").split() == list(packages):
        return str(python)
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
        # Progress belongs to stderr, because stdout has the results.
        subprocess.run(install, check=True, stdout=sys.stderr)
    except (subprocess.CalledProcessError, OSError):
        return None
    done.write_text("\n".join(packages), encoding="utf-8")
    return str(python)


class Worker:
    """A process that makes a network and runs its steps on demand; see `benchmarks.steps.worker`.

    Args:
        module: The module of `benchmarks.steps`.
        python: The interpreter.
        case: The fields of the case.

    Raises:
        RuntimeError: The process ended before its network was ready.
    """

    def __init__(self, module: str, python: str, case: dict[str, Any]) -> None:
        self.module = module
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        answers, theirs = os.pipe()
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.steps.{module}", json.dumps(case), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        os.close(theirs)
        self.answers = os.fdopen(answers, encoding="utf-8")
        self.versions: dict[str, str] = self._answer()

    def seconds(self, steps: int) -> list[float]:
        """Runs steps and returns the seconds of each."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        taken: list[float] = self._answer()
        return taken

    def _answer(self) -> Any:
        line = self.answers.readline()
        if not line:
            raise RuntimeError(f"benchmarks.steps.{self.module} ended without an answer.")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.answers.close()
