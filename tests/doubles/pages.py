"""Runs the commands of a documentation page."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def followed(arguments, folder):
    """Runs a command as a reader of the page would; returns its output."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MPLBACKEND": "Agg",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
