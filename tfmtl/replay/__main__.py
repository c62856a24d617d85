"""`python -m tfmtl.replay`: measures the scores in files on a replay log."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyarrow import csv as arrow_csv

from tfmtl.data.parquet import open_file
from tfmtl.data.sources import Source, files_of, format_of, same_format
from tfmtl.data.types import missing_column
from tfmtl.errors import DataError
from tfmtl.metrics.bootstrap import PairedInterval
from tfmtl.plain import finite
from tfmtl.replay.curve import draw
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.report import (
    Consistency,
    compare,
    consistency_report,
    format_consistency,
    table_metrics,
)
from tfmtl.replay.scores import Scores, join_scores
from tfmtl.text import LINE_BREAK, aligned, printable

HELP = """\
Measures early stages on replayed requests, whose retrieved ads were all ranked by the final
stage. For each K, the number of ads per request that reach the final stage:

  soft recall   final value of the K ads picked, over that of the best K; mean over requests
  hard recall   share of the best K ads that were picked; mean over requests
  micro         the same as a ratio of sums, in which requests count by their value
  TVD           how far early values are from final ones over the ads picked, relative to them;
                minds the scale, which recall does not
  whole         requests with K ads or fewer: their recall is 1 whatever the scores
  skipped       requests whose best K ads are worth nothing: they have no soft recall

Negative values count as 0 in soft recall. Equal values rank by rising ad. In brackets is the
bootstrap interval over requests.
"""

EXAMPLE = """\
files are Parquet, CSV or TSV, or folders of them:
  the log     request_id, ad_id, final_tv, and columns of the request to slice by
  scores      request_id, ad_id, early_tv; every row of the log needs one, in any order
  ids of CSV and TSV files are text, and so rank as text where values are equal

examples:
  python -m tfmtl.replay --log replay.parquet --scores scores.parquet --k 5 10 20 50
  python -m tfmtl.replay --log replay.parquet --scores old=a.csv new=b.csv --slice scene \\
      --plot recall.png
With several scores, each is also compared with the first on the same requests.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (ValueError, OSError, pa.ArrowException) as error:
        print(f"error: {printable(error, keep=LINE_BREAK)}", file=sys.stderr)
        return 1


def read_columns(path: str, ids: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    """Columns of a file, a folder or a pattern. Text files hold ids as text, numbers as float64.

    Raises:
        DataError: A file is missing or no table, or a column is missing.
    """
    source = Source()
    files = files_of(path, source)
    read = _read_parquet if same_format(files, source) == "parquet" else _read_text
    return pa.concat_tables([read(file, ids, numbers) for file in files])


def _read_parquet(path: str, ids: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    # A replay log carries the features of users and ads too; they stay in the file.
    file = open_file(path)
    _check_names(path, [*ids, *numbers], file.schema_arrow.names)
    return file.read(columns=[*ids, *numbers])


def _read_text(path: str, ids: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    types = dict.fromkeys(ids, pa.string()) | dict.fromkeys(numbers, pa.float64())
    parsing = arrow_csv.ParseOptions(delimiter=Source().separator(path))
    converting = arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    with pa.input_stream(path, compression=format_of(path)[1]) as stream:
        try:
            table = arrow_csv.read_csv(stream, parse_options=parsing, convert_options=converting)
        except pa.ArrowInvalid as error:
            raise DataError(f"file {path} cannot be read as delimited text: {error}") from None
    _check_names(path, list(types), table.column_names)
    return table.select(list(types))


def _check_names(path: str, wanted: Sequence[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise missing_column(name, path, known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfmtl.replay",
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--log", metavar="FILE", required=True, help="the replay log")
    add(
        "--scores",
        metavar="[NAME=]FILE",
        nargs="+",
        required=True,
        help="scores of one early stage each; the name is the file's where none is given",
    )
    add("--k", metavar="K", type=int, nargs="+", default=[5, 10, 20, 50], help="ads passed on")
    add("--slice", metavar="COLUMN", nargs="+", default=[], help="columns of the log to slice by")
    add("--json", action="store_true", help="prints JSON instead of a table")
    add("--plot", metavar="FILE", help="draws recall against K; PNG, PDF or SVG by its name")
    add("--request", metavar="COLUMN", default="request_id", help="of all files (%(default)s)")
    add("--ad", metavar="COLUMN", default="ad_id", help="of all files (%(default)s)")
    add("--final", metavar="COLUMN", default="final_tv", help="of the log (%(default)s)")
    add("--early", metavar="COLUMN", default="early_tv", help="of the scores (%(default)s)")
    add("--final-cqs", metavar="COLUMN", help="of the log; for the error of the quality score")
    add("--early-cqs", metavar="COLUMN", help="of the scores; goes with --final-cqs")
    add("--cqs-std", metavar="X", type=float, help="the score's standard deviation in training")
    add("--samples", metavar="N", type=int, default=1000, help="resamples (%(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="of the resamples (%(default)s)")
    add("--level", metavar="P", type=float, default=0.95, help="of the intervals (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    quality = (options.final_cqs, options.early_cqs, options.cqs_std)
    if any(part is not None for part in quality) and None in quality:
        raise DataError("--final-cqs, --early-cqs and --cqs-std go together; give all or none.")
    arms = _arms(options.scores)
    final = [options.final, *([options.final_cqs] if options.final_cqs else [])]
    ids = [options.request, options.ad]
    log = ReplayLog.from_table(
        read_columns(options.log, [*ids, *options.slice], final),
        request_id=options.request,
        ad_id=options.ad,
        final_value=options.final,
        final_cqs=options.final_cqs,
        slices=options.slice,
    )
    print(log, file=sys.stderr)
    scores = {name: _scores(log, name, path, options) for name, path in arms.items()}
    intervals = {"samples": options.samples, "seed": options.seed, "level": options.level}
    reports = {
        name: consistency_report(
            log,
            arm.early_value,
            options.k,
            early_cqs=arm.early_cqs,
            cqs_std=options.cqs_std,
            **intervals,
        )
        for name, arm in scores.items()
    }
    first, *others = scores
    differences = {
        name: compare(
            log, scores[first].early_value, scores[name].early_value, options.k, **intervals
        )
        for name in others
    }
    if options.plot:
        draw(reports).savefig(options.plot, dpi=150)
    show = _json if options.json else _text
    print(show(reports, first, differences))
    return 0


def _arms(given: Sequence[str]) -> dict[str, str]:
    arms: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or os.path.exists(text):
            name, path = os.path.splitext(os.path.basename(text.rstrip(os.sep)))[0], text
        if name in arms:
            raise DataError(
                f"two scores are called {name!r}: {arms[name]} and {path}. NAME=FILE names them."
            )
        arms[name] = path
    return arms


def _scores(log: ReplayLog, name: str, path: str, options: argparse.Namespace) -> Scores:
    numbers = [options.early, *([options.early_cqs] if options.early_cqs else [])]
    table = read_columns(path, [options.request, options.ad], numbers)
    try:
        scores = join_scores(
            log,
            table,
            request_id=options.request,
            ad_id=options.ad,
            early_value=options.early,
            early_cqs=options.early_cqs,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if scores.unused:
        print(f"{name}: {scores.unused:,} scores are of no row of the log.", file=sys.stderr)
    return scores


def _json(
    reports: Mapping[str, Consistency],
    first: str,
    differences: Mapping[str, Mapping[str, PairedInterval]],
) -> str:
    plain = {
        "arms": {name: report.to_json() for name, report in reports.items()},
        "compared_with": first,
        "differences": {
            name: {metric: dataclasses.asdict(pair) for metric, pair in pairs.items()}
            for name, pairs in differences.items()
        },
    }
    return json.dumps(finite(plain), indent=1, allow_nan=False)


def _text(
    reports: Mapping[str, Consistency],
    first: str,
    differences: Mapping[str, Mapping[str, PairedInterval]],
) -> str:
    blocks = [f"{name}\n{format_consistency(report)}" for name, report in reports.items()]
    for name, pairs in differences.items():
        lines = [["metric", "difference", "relative"]]
        for metric in table_metrics():
            for k in reports[first].ks:
                pair = pairs.get(f"{metric.name}@{k}")
                if pair is not None:
                    spec = f"+{metric.format}"
                    both = (format(pair.difference, spec), format(pair.relative, "+.2%"))
                    lines.append([f"{metric.name}@{k}", *both])
        blocks.append("\n".join([f"{name} against {first}", *aligned(lines)]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    sys.exit(main())
