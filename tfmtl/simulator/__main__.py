"""`python -m tfmtl.simulator`: writes ads logs whose true probabilities are known."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.simulator.daily import write_daily_log
from tfmtl.simulator.early_stage import write_early_stage_logs
from tfmtl.simulator.impressions import write_impression_log
from tfmtl.text import LINE_BREAK, printable

EXAMPLES = """\
kinds:
  impressions   Ads that were shown, with clicks, conversions and quality: PATH/*.parquet, or
                with --daily PATH/day-0/*.parquet, PATH/day-1/*.parquet and so on, which a
                pipeline reads as spans by the pattern PATH/day-{SPAN}/*.
  early_stage   150 retrieved ads a request go through an early stage, a final stage and an
                auction. PATH/log/*.parquet holds what an early stage learns from: impressions
                (row_type R1, R2), and samples of the ads that were not shown (R3) or that the
                early stage did not pass on (R4), with the final stage's predictions; clicks
                are null where no ad was shown. PATH/replay/*.parquet holds all retrieved ads of
                later requests, ranked by the final stage: what recall is measured on.

In both, columns true_* hold the probabilities that labels were drawn from. They are no features.

examples:
  python -m tfmtl.simulator --out ads_log --impressions 2000000
  python -m tfmtl.simulator --out daily_log --daily --days 30
  python -m tfmtl.simulator --kind early_stage --out early_stage_log --requests 40000
"""
# Flags that one kind alone has, and their values where they are not given.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "impressions": {"impressions": 200_000, "daily": False},
    "early_stage": {
        "requests": 20_000,
        "replay_requests": 2_000,
        "keep_final": 0.25,
        "keep_early": 0.06,
    },
}
SCENES = {"impressions": 2, "early_stage": 1}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    own: dict[str, Any] = {}
    for kind, defaults in DEFAULTS.items():
        for name, default in defaults.items():
            given = getattr(options, name)
            if kind == options.kind:
                own[name] = default if given is None else given
            elif given is not None:
                flag = "--" + name.replace("_", "-")
                parser.error(f"{flag} is of --kind {kind}, but this is --kind {options.kind}")
    shared: dict[str, Any] = {
        "seed": options.seed,
        "days": options.days,
        "scenes": SCENES[options.kind] if options.scenes is None else options.scenes,
        "progress": True,
    }
    try:
        if options.kind == "impressions":
            daily = own.pop("daily")
            (write_daily_log if daily else write_impression_log)(options.out, **own, **shared)
            folders = f", {options.days} folders of a day each" if daily else ""
            done = f"{own['impressions']:,} impressions written to {options.out}{folders}"
        else:
            log, replay = write_early_stage_logs(options.out, **own, **shared)
            done = (
                f"{own['requests']:,} requests written to {options.out}/log and "
                f"{own['replay_requests']:,} to {options.out}/replay "
                f"({len(log)} and {len(replay)} files)"
            )
    except (ValueError, OSError) as error:
        print(f"error: {printable(error, keep=LINE_BREAK)}", file=sys.stderr)
        return 1
    print(done)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfmtl.simulator",
        description="Writes logs of a simulated ads world as Parquet files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kind", choices=tuple(DEFAULTS), default="impressions", help="impressions by default")
    add("--out", metavar="PATH", required=True, help="folder, new or empty")
    add("--seed", metavar="N", type=int, default=0, help="of world and log")
    add("--days", metavar="N", type=int, default=10, help="days the log spans; 10 by default")
    add(
        "--scenes",
        type=int,
        choices=(1, 2),
        help="1 for a feed, 2 for a search too; by default 2 for impressions, 1 for early_stage",
    )
    add = parser.add_argument_group("--kind impressions").add_argument
    add("--impressions", metavar="N", type=int, help="rows; 200,000 by default")
    add("--daily", action="store_true", default=None, help="a folder for each day")
    add = parser.add_argument_group("--kind early_stage").add_argument
    add("--requests", metavar="N", type=int, help="of the log; 20,000 by default")
    add("--replay-requests", metavar="N", type=int, help="of the replay; 2,000 by default")
    add("--keep-final", metavar="SHARE", type=float, help="of R3 rows; 0.25 by default")
    add("--keep-early", metavar="SHARE", type=float, help="of R4 rows; 0.06 by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
