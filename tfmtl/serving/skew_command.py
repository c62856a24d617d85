"""The command line of `tfmtl skew`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tfmtl.data.readers import Source, open_table
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.features import Column
from tfmtl.errors import DataError
from tfmtl.serving.skew import skew
from tfmtl.text import LINE_BREAK, printable

HELP = """\
Replays logged requests through a served model, and the same rows as training reads them, and
compares raw values, features and predictions column by column. Exit status 1: a feature or a
prediction differs.
"""
EXAMPLE = """\
REQUESTS is a file of JSON lines: one row a line, or bodies of REST requests with "instances". ROWS
is CSV, TSV or Parquet, or a folder of such files, as training reads it.

example:
  tfmtl skew serving/ads/1 requests.jsonl log.csv --key request_id,ad_id --null NA
"""


def main(argv: Sequence[str] | None = None, *, prog: str = "tfmtl skew") -> int:
    """Runs the command; returns its exit status: 0 agreement, 1 skew, 2 an error."""
    options = _parser(prog).parse_args(argv)
    try:
        experiment = _experiment(options)
        problem = experiment.problem
        key = tuple(filter(None, options.key.split(",")))
        columns = problem.feature_columns()
        for name in key:
            columns.setdefault(name, Column(name=name, dtype="string"))
        source = Source(null_values=(*options.null, ""))
        batches = list(open_table(options.rows, columns, source))
        report = skew(
            options.model,
            _requests(options.requests),
            pa.Table.from_batches(batches),
            problem,
            key=key,
            tolerance=options.tolerance,
        )
    except (ValueError, OSError, pa.ArrowException) as error:
        print(f"error: {printable(error, keep=LINE_BREAK)}", file=sys.stderr)
        return 2
    print(report.describe())
    return int(report.skewed)


def _experiment(options: argparse.Namespace) -> ExperimentConfig:
    path = options.experiment or os.path.join(options.model, "assets.extra", "experiment.json")
    if not os.path.exists(path):
        raise DataError(f"{path} is not there; name the experiment's JSON by --experiment.")
    with open(path, encoding="utf-8") as file:
        return ExperimentConfig.from_json(file.read())


def _requests(path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: no JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: no JSON object.")
            rows += row["instances"] if isinstance(row.get("instances"), list) else [row]
    if not rows:
        raise DataError(f"{path} holds no requests.")
    return rows


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of the exported model")
    add("requests", metavar="REQUESTS", help="what was sent, JSON lines")
    add("rows", metavar="ROWS", help="the same rows, as training reads them")
    add("--key", default="", metavar="COLUMNS", help="columns that tell rows apart, with commas")
    add("--null", action="append", default=[], metavar="TEXT", help="text that is missing in ROWS")
    add(
        "--experiment",
        metavar="FILE",
        help="the experiment's JSON; by default assets.extra/experiment.json of MODEL",
    )
    add("--tolerance", type=float, default=1e-5, help="of numbers and predictions (%(default)s)")
    return parser
