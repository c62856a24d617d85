"""Remakes requirements/python3.*.txt from setup.py, one lock per Python minor version.

    .venv/bin/python tools/lock.py [--upgrade]

Without `--upgrade`, pins that still fit stay. No index address is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import bootstrap
import installer
import interpreters

HEADER = "# Every version that goes into Python {minor}'s environment; `make lock` remakes this.\n"


def main() -> int:
    """Resolves every lock and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    python = Path(sys.executable)
    uv = installer.find_uv(python, fetch=True)
    if uv is None:
        print("Locks need uv: install it (`pip install uv`) and run this again.", file=sys.stderr)
        return 1
    # A lock must not depend on the wheels one machine happens to keep beside the main index.
    environ = installer.environment_for_uv(python, extras=False)
    for stack in interpreters.STACKS:
        for version in stack.pythons:
            minor = interpreters.dotted(version)
            lock = bootstrap.lock_of(minor)
            # uv knows some glibc versions by name, 2.40 and not 2.39 among them.
            glibc = "2_28" if stack.glibc <= (2, 28) else "2_40"
            compile_ = [uv, "pip", "compile", "setup.py", "--all-extras", "--quiet"]
            compile_ += ["--no-header", "--no-annotate", "--no-emit-index-url", *upgrade]
            compile_ += ["--python-version", minor, "--output-file", str(lock)]
            compile_ += ["--python-platform", f"x86_64-manylinux_{glibc}"]
            done = subprocess.run(
                compile_, cwd=str(bootstrap.ROOT), env=environ, stdout=subprocess.DEVNULL
            )
            if done.returncode:
                return done.returncode
            lock.write_text(HEADER.format(minor=minor) + lock.read_text())
            print(f"{lock.relative_to(bootstrap.ROOT)}: {len(lock.read_text().splitlines()) - 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
