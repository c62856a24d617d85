"""Rewrites goldens on purpose: `python -m tests.goldens --rewrite backbone/mmoe`."""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from .files import differences, load, path_of, save, stored_goldens
from .kinds import every_golden, made


def main(arguments: list[str]) -> str | None:
    """Runs the command; returns what is wrong, if anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__)
    parser.add_argument(
        "--rewrite",
        nargs="+",
        required=True,
        metavar="kind/name",
        help="goldens to make anew; each by its name, there is no word for all",
    )
    known = every_golden()
    wanted = parser.parse_args(arguments).rewrite
    unknown = [golden for golden in wanted if golden not in known]
    if unknown:
        stale = [golden for golden in unknown if golden in stored_goldens()]
        hint = "".join(f"\n{path_of(g)} has no part; delete the file by hand." for g in stale)
        return f"no such golden: {unknown}. There are {list(known)}.{hint}"
    for golden in wanted:
        arrays = made(golden)
        before = load(golden) if path_of(golden).exists() else None
        save(golden, arrays)
        print(f"{golden}: {_told(before, arrays)}")
    return None


def _told(before, arrays):
    size = f"{len(arrays)} arrays"
    if before is None:
        return f"new, {size}."
    changed = differences(before, arrays, exactly=True)
    if not changed:
        return f"nothing has changed, {size}."
    lines = "".join(f"\n  {key} {text}" for key, text in changed.items())
    return f"{len(changed)} of {size} have changed:{lines}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
