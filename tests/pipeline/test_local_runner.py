"""The command line of `python -m pipeline.local_runner`."""

import argparse
import shlex

import pytest

from pipeline.local_runner import command, parser

# One command with every option at a value that is not its default.
EVERYTHING = [
    *("--config", "my config.py", "--data", "a b/*.csv", "--replay", "$log", "--output", "out 1"),
    *("--schema", "it's.pbtxt", "--no-tune", "--days", "2", "--epochs", "3", "--seed", "0"),
    *("--set", "model.dim=8", "--set", "split.shares=(.5, .2, .3)", "--workers", "2"),
    *("--source", "delimiter=;", "--transform", "stock", "--no-cache", "--verbose"),
]


def repeated(arguments):
    python, *rest = shlex.split(command(parser().parse_args(arguments)))
    assert [python, *rest[:2]] == ["python", "-m", "pipeline.local_runner"]
    return parser().parse_args(rest[2:])


def test_the_test_s_command_uses_every_option():
    parsed, defaults = parser().parse_args(EVERYTHING), parser().parse_args([])
    same = [name for name, value in vars(parsed).items() if value == getattr(defaults, name)]
    assert same == [], "Give each new option a value in EVERYTHING above."


@pytest.mark.parametrize("arguments", [EVERYTHING, [], ["--tune"], ["--data", "x.csv"]])
def test_the_printed_command_asks_for_the_same_run(arguments):
    expected = parser().parse_args(arguments)
    assert isinstance(expected, argparse.Namespace)
    assert repeated(arguments) == expected
