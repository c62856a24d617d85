"""Commands that pages name, held against what is there, without being run."""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import warnings
from unittest import mock

from tests.doubles.pages import ROOT

INLINE = re.compile(r"`(python\s+-m\s[^`…]+|make\s[^`…]+)`")
# What the shell and the system have; the project's own are `make`, `python`, `tfmtl` and `tfx`.
SYSTEM = {".", "cd", "export", "git", "docker", "curl", "pip", "source"}


class Parsed(Exception):
    """A command line was understood."""


def commands(text: str) -> list[list[str]]:
    """Takes shell text apart into commands, each a list of words.

    Raises:
        ValueError: A quote without its end.
    """
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def inline_commands(text: str) -> list[list[str]]:
    """Returns the `python -m …` and `make …` commands among a page's prose."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    return [shlex.split(" ".join(command.split())) for command in INLINE.findall(prose)]


def fault(words: list[str], files: set[str]) -> str | None:
    """Says what is wrong with a command, None where nothing is.

    Args:
        words: The command.
        files: Names of files that the page has its reader write.
    """
    if words[0].endswith(("python", "python3")) and words[1] == "-m":
        return module_fault(words[2], words[3:])
    if words[0].endswith(("python", "python3")):
        there = words[1] in files or (ROOT / words[1]).exists()
        return None if there else f"no file {words[1]}"
    if words[0] == "tfmtl":
        return module_fault("tfmtl", words[1:])
    if words[0] == "make":
        return make_fault(words[1:])
    if words[0] == "tfx":
        paths = [
            after for word, after in zip(words, words[1:], strict=False) if word[-5:] == "_path"
        ]
        return next((f"no file {path}" for path in paths if not (ROOT / path).exists()), None)
    return None if words[0] in SYSTEM else f"{words[0]!r} is no command that these tests know"


def module_fault(module: str, arguments: list[str]) -> str | None:
    """Lets a module's own parser read the arguments, and stops it before it does anything."""
    with contextlib.suppress(ModuleNotFoundError):
        if module == "pytest" or importlib.util.find_spec(module) is None:
            return None if module == "pytest" else f"no module {module}"
        return _parsed(module, arguments)
    return f"no module {module}"


def _parsed(module: str, arguments: list[str]) -> str | None:
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        original(parser, args, namespace)
        raise Parsed

    errors = io.StringIO()
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", [module, *arguments]),
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        mock.patch.dict(os.environ),
    ):
        # runpy minds that the module was imported before; here that is no matter.
        warnings.simplefilter("ignore")
        try:
            runpy.run_module(module, run_name="__main__")
        except Parsed:
            return None
        except SystemExit as stop:
            helped = "--help" in arguments and not stop.code
            return None if helped else errors.getvalue().strip().splitlines()[-1]
    return f"{module} has no command line"


def make_fault(words: list[str]) -> str | None:
    """Holds targets and variables against the Makefile."""
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        known = rf"\b{name}\b" if is_variable else rf"^{name}:"
        if not word.startswith("-") and not re.search(known, text, re.M):
            return f"the Makefile has no {'variable' if is_variable else 'target'} {name}"
    return None
