"""The terminal output of a run: one line per component, and the messages of this project."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from absl import logging as absl_logging

from tfmtl.text import LINE_BREAK, printable

WIDTH = 22
OURS = tuple(str(Path(__file__).resolve().parents[1] / p) for p in ("tfmtl", "components"))
# Printed at the end of a run from the artifacts, so that a cached run prints it too.
PRINTED_LATER = "evaluator.py"


class Steps:
    """Prints `Trainer   31.4 s`: the name when a step starts, the rest when it ends.

    If the step prints something itself (a progress bar), its name stays on a separate line and is
    repeated at the end.
    """

    def __init__(self) -> None:
        self._open: str | None = None
        self._started = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches what other code prints to stdout and stderr."""
        out, err = sys.stdout, sys.stderr
        self._out = out
        with (
            contextlib.redirect_stdout(_Watched(out, self._interrupt)),  # type: ignore[type-var]
            contextlib.redirect_stderr(_Watched(err, self._interrupt)),  # type: ignore[type-var]
        ):
            yield

    def start(self, name: str) -> None:
        """Begins a step's line."""
        self._open, self._started = name, time.monotonic()
        self._name = name
        self._out.write(f"{name:<{WIDTH}}")
        self._out.flush()

    def finish(self, how: str | None = None) -> None:
        """Ends the line with the seconds that the step took, or with the text `how`."""
        how = how or f"{time.monotonic() - self._started:.1f} s"
        name = "" if self._open else f"{self._name:<{WIDTH}}"
        self._open = None
        self._out.write(f"{name}{how}\n")
        self._out.flush()

    def _interrupt(self) -> None:
        if self._open is not None:
            self._open = None
            self._out.write("\n")
            self._out.flush()


class _ToStdout(logging.StreamHandler):
    """Writes to the current `sys.stdout`, so that `Steps` sees the output."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stdout


class _Watched:
    """A stream that calls a function before each write."""

    def __init__(self, stream, before):
        self._stream, self._before = stream, before

    def write(self, text: str) -> int:
        if text:
            self._before()
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def quiet() -> None:
    """Silences TensorFlow, TFX and Beam. Call it before the first import of TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Beam's worker processes inherit this variable.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")


def keep_our_messages() -> None:
    """Drops log messages of other packages. Call it after the imports: some add handlers."""
    handler = _ToStdout()
    handler.setFormatter(_Printable("%(message)s"))
    handler.addFilter(_is_ours)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("absl", "tensorflow", "apache_beam"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.INFO)
    # Otherwise code that restores absl's stored verbosity would silence our messages.
    absl_logging.set_verbosity(absl_logging.INFO)
    warnings.simplefilter("ignore")


class _Printable(logging.Formatter):
    """Escapes what a value from the data could do to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep=LINE_BREAK)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.pathname.startswith(OURS) and not record.pathname.endswith(PRINTED_LATER)
