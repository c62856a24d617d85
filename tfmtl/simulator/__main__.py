"""`python -m tfmtl.simulator`: writes ads logs whose true probabilities are known."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfmtl.simulator.daily import write_daily_log
from tfmtl.simulator.early_stage_files import write_early_stage_logs
from tfmtl.simulator.impressions import write_impression_log
from tfmtl.simulator.raw_ali_ccp import write_ali_ccp
from tfmtl.simulator.raw_aliexpress import write_aliexpress
from tfmtl.simulator.raw_events import write_ijcai15, write_user_behavior
from tfmtl.text import LINE_BREAK, printable

EXAMPLES = """\
kinds:
  impressions   Shown ads, with clicks, conversions and quality events: PATH/*.parquet.
                With --daily the files are PATH/day-0/*.parquet, PATH/day-1/*.parquet and so
                on. A pipeline reads them as spans by the pattern PATH/day-{SPAN}/*.
  early_stage   150 retrieved ads per request go through an early stage, a final stage and an
                auction. PATH/log/*.parquet is the training log of an early stage. It holds
                impressions (row_type R1, R2) and samples of two kinds of candidates: those
                that the final stage did not show (R3), and those that the early stage dropped
                (R4). All rows have the final stage's predictions. Clicks are null where no ad
                was shown. PATH/replay/*.parquet holds all retrieved ads of later requests,
                ranked by the final stage. Recall is measured on it.
  ali_ccp, aliexpress, user_behavior, ijcai15
                Text files in the raw formats of these data sets, with their oddities. The
                pipeline's configurations of the same names read them.

In the first two, the columns true_* hold the probabilities that labels were drawn from. Do not
use them as features.

examples:
  python -m tfmtl.simulator --out ads_log --impressions 2000000
  python -m tfmtl.simulator --out daily_log --daily --days 30
  python -m tfmtl.simulator --kind early_stage --out early_stage_log --requests 40000
  python -m tfmtl.simulator --kind ali_ccp --out ali_ccp --rows 1000000
"""
RAW: Mapping[str, Callable[..., list[str]]] = {
    "ali_ccp": write_ali_ccp,
    "aliexpress": write_aliexpress,
    "user_behavior": write_user_behavior,
    "ijcai15": write_ijcai15,
}
# The flags that only one kind has, with their default values.
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
    if options.rows is not None and options.kind not in RAW:
        parser.error(f"--rows belongs to --kind {', '.join(RAW)}; this is --kind {options.kind}")
    kind_options: dict[str, Any] = {}
    for kind, defaults in DEFAULTS.items():
        for name, default in defaults.items():
            given = getattr(options, name)
            if kind == options.kind:
                kind_options[name] = default if given is None else given
            elif given is not None:
                flag = "--" + name.replace("_", "-")
                parser.error(f"{flag} belongs to --kind {kind}, but this is --kind {options.kind}")
    shared: dict[str, Any] = {
        "seed": options.seed,
        "days": options.days,
        "scenes": SCENES.get(options.kind, 2) if options.scenes is None else options.scenes,
        "progress": True,
    }
    try:
        if options.kind in RAW:
            rows = 200_000 if options.rows is None else options.rows
            files = RAW[options.kind](options.out, rows=rows, seed=options.seed)
            done = f"{rows:,} impressions written to {options.out} in {len(files)} files"
        elif options.kind == "impressions":
            daily = kind_options.pop("daily")
            write = write_daily_log if daily else write_impression_log
            write(options.out, **kind_options, **shared)
            folders = f" in {options.days} folders, one per day" if daily else ""
            done = f"{kind_options['impressions']:,} impressions written to {options.out}{folders}"
        else:
            log, replay = write_early_stage_logs(options.out, **kind_options, **shared)
            done = (
                f"{kind_options['requests']:,} requests written to {options.out}/log and "
                f"{kind_options['replay_requests']:,} to {options.out}/replay "
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
    add("--kind", choices=(*DEFAULTS, *RAW), default="impressions", help="impressions by default")
    add("--out", metavar="PATH", required=True, help="the folder to write; new or empty")
    add("--seed", metavar="N", type=int, default=0, help="seed of the world and of the log")
    add("--days", metavar="N", type=int, default=10, help="days in the log; 10 by default")
    add(
        "--scenes",
        type=int,
        choices=(1, 2),
        help="1: a feed; 2: a feed and a search; default: 2 for impressions, 1 for early_stage",
    )
    add = parser.add_argument_group("--kind impressions").add_argument
    add("--impressions", metavar="N", type=int, help="rows; 200,000 by default")
    add("--daily", action="store_true", default=None, help="write one folder per day")
    add = parser.add_argument_group("--kind early_stage").add_argument
    add("--requests", metavar="N", type=int, help="requests in the log; 20,000 by default")
    add("--replay-requests", metavar="N", type=int, help="requests in the replay; 2,000 by default")
    add("--keep-final", metavar="SHARE", type=float, help="share of R3 rows kept; 0.25 by default")
    add("--keep-early", metavar="SHARE", type=float, help="share of R4 rows kept; 0.06 by default")
    add = parser.add_argument_group("raw formats of data sets").add_argument
    add("--rows", metavar="N", type=int, help="impressions; 200,000 by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
