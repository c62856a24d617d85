"""Runs the days in order: each new day once, and an interrupted run from where it stopped."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import report
from pipeline.config import Config
from pipeline.daily import CODE as DAILY_CODE
from pipeline.daily import Day, Place, create_daily_pipeline, create_reading_pipeline
from pipeline.days import Log, known_days
from pipeline.days_report import DoneDay
from pipeline.fingerprint import code_hash
from pipeline.pipeline import CODE
from pipeline.runner import Runner
from tfmtl.data.readers import Source
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.durable import Damaged, read_json
from tfmtl.errors import DataError
from tfmtl.plain import write_json


def run_days(
    config: Config,
    experiment: ExperimentConfig,
    path: str,
    place: Place,
    *,
    days: int | None = None,
) -> list[DoneDay]:
    """Runs the pipeline for every new day that is not done, and returns all days.

    A day is skipped if its record shows a run with the same settings, code and earlier days.
    `tfx pipeline create` reads a definition without running it. It gets the pipeline of the next
    day, and nothing is returned.

    Args:
        config: Says how to read files and how days are named.
        experiment: The experiment to run.
        path: The log's folder, or a pattern with placeholders.
        place: Folders and settings of the runs.
        days: How many new days, from the first; all new days by default.

    Raises:
        DataError: A day is missing, or there are fewer days than requested.
    """
    log = Log(path, config.spans)
    folder = os.path.join(place.pipeline_root, "days")
    known = known_days(log, os.path.join(folder, "known.json"))
    plan = planned(experiment, log, known, days)
    keys = keys_of(experiment, config.source, place.schema_path, known, plan)
    done = {day.span: _recorded(folder, day.span, keys[day.span], place) for day in plan}
    # All days after the first one to run must run as well, because each starts from the last model.
    start = next((i for i, day in enumerate(plan) if done[day.span] is None), len(plan))
    if _only_read(config, experiment, log, [*plan[start:], plan[-1]][0], place):
        return []
    for day in plan[:start]:
        print(f"\n{log.name(day.span)}: done before", flush=True)
    for day in plan[start:]:
        blessed = any(past.blessed for s, past in done.items() if s < day.span and past)
        wide = day if blessed else with_history(day, experiment, min(known))
        done[day.span] = _run(config, experiment, log, wide, place, first=day is plan[0])
        _record(folder, day.span, keys[day.span], done[day.span])
    return [day for day in done.values() if day is not None]


def planned(
    experiment: ExperimentConfig, log: Log, known: Mapping[int, str], days: int | None
) -> list[Day]:
    """The new days and their windows.

    Raises:
        DataError: There are fewer new days than requested, or none.
    """
    assert experiment.mtms is not None
    first = min(known) + experiment.mtms.first_window
    new = max(known) - first + 1
    if new < (1 if days is None else days):
        raise DataError(
            f"{log.pattern!r} has {len(known)} days, {log.name(min(known))} to "
            f"{log.name(max(known))}. The first {experiment.mtms.first_window} are the history "
            f"that the first slot is trained on, so {max(new, 0)} can be new"
            + (f", not {days}." if days is not None else "; at least one is needed.")
        )
    spans = range(first, first + (new if days is None else days))
    window = experiment.mtms.window
    return [
        Day(span=s, first=min(known) if s == first else max(s - window, min(known))) for s in spans
    ]


def with_history(day: Day, experiment: ExperimentConfig, first: int) -> Day:
    """The day with the whole history as its window, because no earlier slot was blessed.

    Args:
        day: The new day and its window.
        experiment: Gives the length of the history.
        first: The first day of the log.
    """
    assert experiment.mtms is not None
    history = max(day.span - experiment.mtms.first_window, first)
    return dataclasses.replace(day, first=min(day.first, history))


def keys_of(
    experiment: ExperimentConfig,
    source: Source | None,
    schema_path: str | None,
    known: Mapping[int, str],
    plan: Sequence[Day],
) -> dict[int, str]:
    """A hash per day of all that its result depends on: settings, code and all days up to it."""
    schema = Path(schema_path).read_text(encoding="utf-8") if schema_path else ""
    read_as = json.dumps((source or Source()).to_json(), sort_keys=True)
    settings = [experiment.to_json(), read_as, schema, code_hash([*CODE, *DAILY_CODE])]
    digest = hashlib.sha256("\n".join(settings).encode())
    spans = {day.span for day in plan}
    keys = {}
    for span, fingerprint in known.items():
        digest.update(f"{span} {fingerprint}\n".encode())
        if span in spans:
            keys[span] = digest.hexdigest()[:16]
    return keys


def _only_read(
    config: Config, experiment: ExperimentConfig, log: Log, day: Day, place: Place
) -> bool:
    pipeline = create_daily_pipeline(
        experiment=experiment, source=config.source, log=log, day=day, place=place
    )
    return Runner.only_reads(pipeline)


def _run(
    config: Config, experiment: ExperimentConfig, log: Log, day: Day, place: Place, *, first: bool
) -> DoneDay:
    missing = [s for s in (range(day.first, day.span) if first else ()) if s not in log.spans]
    missing += [s for s in (day.span,) if s not in log.spans]
    if missing:
        raise DataError(
            f"{log.name(day.span)} must run again, because settings, code or an earlier day "
            f"changed, but {log.name(missing[0])} is no longer in {log.pattern!r}. Put it back, "
            "or begin with the existing days in another --output."
        )
    names = f"{log.name(day.first)} to {log.name(day.slot)}"
    names = log.name(day.slot) if day.first == day.slot else names
    print(f"\n{log.name(day.span)}: tested on it, trained on {names}", flush=True)
    started = time.monotonic()
    os.makedirs(os.path.join(place.pipeline_root, "days"), exist_ok=True)
    _record(os.path.join(place.pipeline_root, "days"), day.span, "", None)
    for span in range(day.first, day.span) if first else ():
        print(f"Reading {log.name(span)}", flush=True)
        reading = create_reading_pipeline(
            experiment=experiment, source=config.source, log=log, span=span, place=place
        )
        Runner().run(reading)
    runner = Runner()
    runner.run(
        create_daily_pipeline(
            experiment=experiment, source=config.source, log=log, day=day, place=place
        )
    )
    outcome = report.outcome_of(place.metadata_path, runner.executions, experiment)
    print(report.verdict_of(outcome), flush=True)
    return DoneDay(
        name=log.name(day.span),
        trained_on=names,
        metrics=outcome.metrics,
        blessed=outcome.verdict["blessed"],
        pushed=outcome.pushed,
        model=outcome.model,
        request=outcome.request,
        seconds=time.monotonic() - started,
    )


def _recorded(folder: str, span: int, key: str, place: Place) -> DoneDay | None:
    path = os.path.join(folder, f"{span}.json")
    if not place.enable_cache or not os.path.exists(path):
        return None
    try:
        plain: dict[str, Any] = read_json(path)
    except Damaged as damage:
        print(f"{damage}. The day is run again.", flush=True)
        return None
    if plain.pop("key") != key or not os.path.exists(place.metadata_path):
        return None
    done = DoneDay.from_plain(plain)
    return done if os.path.isdir(done.model) else None


def _record(folder: str, span: int, key: str, done: DoneDay | None) -> None:
    path = os.path.join(folder, f"{span}.json")
    if done is None:
        # The next run replaces the latest artifacts. Without a record, the day runs again.
        if os.path.exists(path):
            os.remove(path)
        return
    write_json(path, {"key": key, **done.to_plain()}, indent=1)
