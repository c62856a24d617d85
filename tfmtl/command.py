"""The command `tfmtl`: one table of subcommands, each loaded when it is called."""

import importlib
import sys
from collections.abc import Mapping, Sequence

from tfmtl._version import __version__

SUBCOMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": (
        "tfmtl.serving.server.command",
        "serve an exported model, for a laptop and for tests",
    ),
    "skew": ("tfmtl.serving.skew_command", "replay logged requests and compare column by column"),
}
"""The module whose `main(argv, prog=…)` runs a subcommand, and a line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"tfmtl {__version__}")
        return 0
    if name not in SUBCOMMANDS:
        print(f"error: tfmtl has no subcommand {name!r}.\n\n{_help()}", file=sys.stderr)
        return 2
    status: int = importlib.import_module(SUBCOMMANDS[name][0]).main(rest, prog=f"tfmtl {name}")
    return status


def _help() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in SUBCOMMANDS.items()]
    return "\n".join(
        ["usage: tfmtl SUBCOMMAND …", "", *lines, "", "`tfmtl SUBCOMMAND --help` explains each."]
    )
