"""`python -m tfmtl.simulator`: writes an ads log whose true probabilities are known."""

import argparse
import sys
from collections.abc import Sequence

from tfmtl.simulator.impressions import write_impression_log


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tfmtl.simulator",
        description="Writes a log of ad impressions, with clicks, conversions, quality and the "
        "true probabilities of them all, as Parquet files.",
    )
    parser.add_argument("--out", metavar="PATH", required=True, help="folder, new or empty")
    parser.add_argument("--impressions", metavar="N", type=int, default=200_000, help="rows")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of world and log")
    parser.add_argument("--days", metavar="N", type=int, default=10, help="days the log spans")
    parser.add_argument("--scenes", type=int, choices=(1, 2), default=2, help="feed, and search")
    options = parser.parse_args(argv)
    try:
        write_impression_log(
            options.out,
            impressions=options.impressions,
            seed=options.seed,
            days=options.days,
            scenes=options.scenes,
            progress=True,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.impressions:,} impressions written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
