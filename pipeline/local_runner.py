"""Runs the pipeline on this machine: from raw rows to a pushed SavedModel.

As a command:

    python -m pipeline.local_runner --config simulated_ads
    python -m pipeline.local_runner --config hillstrom --data path/to/hillstrom
    python -m pipeline.local_runner --config my_config.py --data rows.csv
    python -m pipeline.local_runner --config mtms --days 5

As the pipeline file of TFX's own command, with settings from the environment variables
TFMTL_CONFIG, TFMTL_DATA, TFMTL_REPLAY and TFMTL_OUTPUT:

    tfx pipeline create --engine local --pipeline_path pipeline/local_runner.py
    tfx run create --engine local --pipeline_name simulated_ads

A second run takes every component with unchanged inputs, settings and code from the cache. A run
that was interrupted continues where it stopped. Tuner and Trainer continue from their last
checkpoint. A configuration with `mtms` runs once per new day of a log that has one folder per day.
Days that are done are skipped.
"""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    # TFX runs this file as a script. Python then looks for modules beside it, and would import
    # pipeline.py instead of this package.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline import console
from pipeline.explain import explained, explanation
from tfmtl.text import LINE_BREAK, printable

if TYPE_CHECKING:
    from pipeline.config import Config
    from tfmtl.declare.experiment import ExperimentConfig

DEFAULT_CONFIG = "simulated_ads"
DEFAULT_TRANSFORM = "sharded"
SWITCHES = ("no_cache", "verbose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 if there is an error in the data or the configuration."""
    options = parser().parse_args(arguments)
    if not options.verbose:
        console.quiet()
    try:
        run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from here.", file=sys.stderr)
        return 130
    except SystemExit as error:
        # With status 0, too: a run that was ended must not pass for one that succeeded.
        sentence = f"the run was ended from within, by SystemExit({error.code!r})."
        print(f"\nerror: {sentence}", file=sys.stderr)
        return 1
    except Exception as error:
        # For a user's mistake one sentence is enough; for a bug, the whole traceback is needed.
        message = None if options.verbose else explanation(error)
        if message is None:
            raise
        print(f"\nerror: {printable(message, keep=LINE_BREAK)}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.local_runner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="docs/your_data.md shows all steps from your CSV file to a pushed model.",
    )
    _add_places(parser)
    _add_changes(parser)
    add = parser.add_argument
    add(
        "--source",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="replaces the value of a field of the configuration's Source, for example "
        "reader.country=US or last_line=drop; repeatable",
    )
    add("--no-cache", action="store_true", help="run every component again")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes for Beam, and for training a slot with many scenes; with "
        "300,000 rows on two cores, one process is faster (default: 1)",
    )
    add(
        "--transform",
        choices=("sharded", "stock"),
        default=DEFAULT_TRANSFORM,
        help="the component that fits the preprocessing: ours, or TFX's own, which gives the same "
        "and takes many times as long (default: sharded)",
    )
    add("--verbose", action="store_true", help="show all log messages of TensorFlow, TFX and Beam")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--config",
        default=os.environ.get("TFMTL_CONFIG") or DEFAULT_CONFIG,
        metavar="NAME|FILE.py",
        help="the name of a file in pipeline/configs, or the path of your own file "
        f"(default: $TFMTL_CONFIG, else {DEFAULT_CONFIG})",
    )
    add(
        "--data",
        default=os.environ.get("TFMTL_DATA") or None,
        metavar="PATH",
        help="CSV, TSV (also compressed) or Parquet: a file, a folder of files, or a pattern in "
        "quotes; for a configuration that trains day by day, a folder with one folder per day "
        "(default: $TFMTL_DATA, else what the configuration names or generates)",
    )
    add(
        "--replay",
        default=os.environ.get("TFMTL_REPLAY") or None,
        metavar="PATH",
        help="the replay log, for a configuration that declares `replay`: a file, a folder of "
        "files, or a pattern (default: $TFMTL_REPLAY, else what the configuration names or "
        "generates)",
    )
    add(
        "--output",
        default=os.environ.get("TFMTL_OUTPUT") or None,
        metavar="DIR",
        help="folder for artifacts, metadata and pushed models (default: $TFMTL_OUTPUT, else "
        "output/NAME of the experiment)",
    )
    add(
        "--schema",
        metavar="FILE",
        help="a schema (schema.pbtxt) to validate the data against, instead of inferring one",
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tune",
        action=argparse.BooleanOptionalAction,
        help="run the search that the configuration declares, of settings or of a network, before "
        "training (default: run it if one is declared)",
    )
    add(
        "--days",
        type=_count,
        metavar="N",
        help="for a configuration that trains day by day: only the first N new days (default: all)",
    )
    add("--epochs", type=int, metavar="N", help="replaces training.epochs")
    add("--seed", type=int, metavar="N", help="replaces training.seed")
    add(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="replaces the value of any field, for example model.backbone.num_experts=4; "
        "repeatable",
    )


def run(options: argparse.Namespace) -> None:
    """Loads the configuration, runs the pipeline and prints the results.

    Raises:
        SpecError: The configuration is wrong.
        DataError: The data are wrong or missing.
    """
    # Imported here: --help and a mistyped name do not have to wait for TensorFlow and TFX.
    from pipeline.config import check, check_slots, load
    from pipeline.data import data_of, replay_of
    from pipeline.lock import alone
    from pipeline.preflight import (
        SERVING,
        check_metadata,
        check_output,
        check_records,
        check_schema,
    )
    from tfmtl.errors import SpecError

    config = with_source(load(options.config), options)
    experiment = with_options(config.experiment, options)
    check_slots(experiment)
    if options.days is not None and experiment.mtms is None:
        raise SpecError(
            f"--days {options.days}: {options.config} trains one model on all its rows. --days "
            "needs an experiment with split=whole() and mtms=MTMS(…), such as --config mtms."
        )
    if options.schema is not None:
        check_schema(options.schema)
    output = os.path.abspath(options.output or os.path.join("output", experiment.name))
    check_output(output)
    with alone(output), explained(output):
        check_metadata(output)
        check_records(output)
        data = data_of(config, options, output)
        replay = replay_of(config, experiment, options, output)
        check(experiment)
        from components.pusher import sweep

        if not options.verbose:
            console.keep_our_messages()
        for path in sweep(os.path.join(output, SERVING, experiment.name)):
            print(f"Removed {path}: a version without a model, which a killed run left.")
        if experiment.mtms is not None:
            _run_days(config, experiment, data, output, options)
            return
        _run_once(config, experiment, data, replay, output, options)


def _run_once(
    config: "Config",
    experiment: "ExperimentConfig",
    data: str,
    replay: str | None,
    output: str,
    options: argparse.Namespace,
) -> None:
    from pipeline import report
    from pipeline.pipeline import beam_arguments, create_pipeline
    from pipeline.preflight import ARTIFACTS, METADATA, SERVING
    from pipeline.runner import Runner

    metadata_path = os.path.join(output, METADATA)
    pipeline = create_pipeline(
        experiment=experiment,
        source=config.source,
        data_path=data,
        replay_path=replay,
        pipeline_root=os.path.join(output, ARTIFACTS),
        serving_dir=os.path.join(output, SERVING),
        metadata_path=metadata_path,
        schema_path=options.schema,
        enable_cache=not options.no_cache,
        beam_args=beam_arguments(options.workers),
        transform=options.transform,
    )
    runner = Runner()
    runner.run(pipeline)
    # `tfx pipeline create` reads this file without running the pipeline.
    if runner.executions:
        outcome = report.outcome_of(metadata_path, runner.executions, experiment)
        print(report.report(outcome, experiment, command(options)))


def _run_days(
    config: "Config",
    experiment: "ExperimentConfig",
    data: str,
    output: str,
    options: argparse.Namespace,
) -> None:
    from components.evaluator import write_figure
    from pipeline import days_report
    from pipeline.daily import Place
    from pipeline.pipeline import beam_arguments
    from pipeline.preflight import ARTIFACTS, METADATA, SERVING
    from pipeline.slots import run_days

    place = Place(
        pipeline_root=os.path.join(output, ARTIFACTS),
        serving_dir=os.path.join(output, SERVING),
        metadata_path=os.path.join(output, METADATA),
        schema_path=options.schema,
        enable_cache=not options.no_cache,
        beam_args=beam_arguments(options.workers),
        workers=options.workers,
        transform=options.transform,
    )
    done = run_days(config, experiment, data, place, days=options.days)
    if not done:
        return
    print(f"\n{days_report.table(done, experiment.problem)}")
    figure = days_report.draw(done, experiment.problem)
    if figure is not None:
        path = os.path.join(output, days_report.CURVES_FILE)
        write_figure(figure, path)
        print(f"Its curves are   {path}")
    print(days_report.next_commands(done, experiment.name))


def with_options(experiment: "ExperimentConfig", options: argparse.Namespace) -> "ExperimentConfig":
    """The experiment with the changes of the command line."""
    from tfmtl.errors import SpecError

    if options.tune and experiment.tuning is None and experiment.search is None:
        raise SpecError(
            f"--tune: {options.config} declares no search. Give its experiment "
            "tuning=Tuning(space={'training.learning_rate': {'min': 1e-4, 'max': 1e-2, "
            "'sampling': 'log'}}), or search=AutoMTL()."
        )
    if options.tune is False:
        experiment = dataclasses.replace(experiment, tuning=None, search=None)
    for name in ("epochs", "seed"):
        value = getattr(options, name)
        if value is not None:
            experiment = experiment.replace_path(f"training.{name}", value)
    for setting in options.set:
        path, equals, text = setting.partition("=")
        if not equals:
            raise SpecError(
                f"--set {setting}: PATH=VALUE would be right, for example training.epochs=3."
            )
        experiment = experiment.replace_path(path, _value(text))
    return experiment


def with_source(config: "Config", options: argparse.Namespace) -> "Config":
    """The configuration with its source changed as the command line says.

    Raises:
        SpecError: A path names no field of the source, or the value is refused.
    """
    from tfmtl.data.readers import Source
    from tfmtl.declare.paths import replaced
    from tfmtl.errors import SpecError

    source = config.source or Source()
    for setting in options.source:
        path, equals, text = setting.partition("=")
        if not equals:
            raise SpecError(
                f"--source {setting}: PATH=VALUE would be right, for example delimiter=';'."
            )
        source = replaced(source, path, _value(text))
    return dataclasses.replace(config, source=source) if options.source else config


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} days; 1 or more would be right")
    return number


def _value(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def command(options: argparse.Namespace) -> str:
    """The command that repeats a run, with everything the given one asks for."""
    parts = ["python -m pipeline.local_runner --config", shlex.quote(options.config)]
    for name in ("data", "replay", "output", "schema", "days", "epochs", "seed"):
        if getattr(options, name) is not None:
            parts += [f"--{name}", shlex.quote(str(getattr(options, name)))]
    if options.tune is not None:
        parts.append("--tune" if options.tune else "--no-tune")
    for name in ("set", "source"):
        for setting in getattr(options, name):
            parts += [f"--{name}", shlex.quote(setting)]
    if options.transform != DEFAULT_TRANSFORM:
        parts += ["--transform", options.transform]
    if options.workers != 1:
        parts += ["--workers", str(options.workers)]
    parts += [f"--{name.replace('_', '-')}" for name in SWITCHES if getattr(options, name)]
    return " ".join(parts)


if __name__ == "__main__":
    # TFX's command runs this file in its own process; with status 0, SystemExit is not an error.
    sys.exit(main())
