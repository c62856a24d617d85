"""`python -m tfmtl.automtl`: prints the result of a search and draws it again."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.outputs import write_pictures, write_tables
from tfmtl.errors import SpecError

HELP = """\
Prints the network that a search found, and writes its pictures and tables again: the network, the
number of blocks that are skips, the experts that the tasks choose, and the difference between
gradients on training and validation rows, per epoch.
"""

EXAMPLE = """\
DIRECTORY is where tfmtl.search(experiment, data, directory=DIRECTORY) or Found.save(DIRECTORY)
wrote: architecture.json and, if there is one, history.json. For the picture of the network an
architecture.json is enough, also one that is written by hand.

examples:
  python -m tfmtl.automtl search
  python -m tfmtl.automtl search --out pictures
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tfmtl.automtl",
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIRECTORY", help="folder of a search")
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder of the pictures and tables; DIRECTORY if not given"
    )
    options = parser.parse_args(argv)
    path = os.path.join(options.directory, "architecture.json")
    try:
        with open(path, encoding="utf-8") as file:
            architecture = Architecture.from_json(file.read())
    except FileNotFoundError:
        parser.error(f"{path} is not there; is {options.directory!r} a search's directory?")
    except SpecError as error:
        parser.error(f"{path}: {error}")
    print(architecture)
    spent = _read(options.directory, "budget.json") or {}
    if spent:
        numbers = (f"{value:,.0f} {name.replace('_', ' ')}" for name, value in spent.items())
        print("spent       ", ", ".join(numbers))
    history = _read(options.directory, "history.json") or []
    folder = options.out or options.directory
    tables, pictures = write_tables(folder, history), write_pictures(folder, architecture, history)
    for written in (*tables, *pictures):
        print(f"wrote {written}")
    return 0


def _read(directory: str, name: str) -> Any:
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


if __name__ == "__main__":
    sys.exit(main())
