"""What a run prints at its end: metrics, blessing, where the model is, and what to do next."""

import dataclasses
import glob
import json
import os
import shlex
import textwrap
import time
from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import tensorflow as tf
from ml_metadata import proto as mlmd_proto
from ml_metadata.metadata_store import metadata_store

from components.consistency_evaluator import CURVE_FILE, NAME, read_consistency
from components.consistency_verdict import REFUSED
from components.evaluator import METRICS_FILE, VERDICT_FILE
from components.pusher import is_whole, newest_version
from pipeline.searched import lines_of
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.features.raw import ABSENT, dense_columns, example_spec
from tfmtl.metrics.metric import metric_of
from tfmtl.metrics.sliced import SlicedMetrics, format_table, slice_name
from tfmtl.plain import write_json
from tfmtl.replay.report import Consistency
from tfmtl.text import aligned, printable

EXAMPLE_GEN = "ArrowExampleGen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made.

    Args:
        metrics: Metrics on the test split.
        verdict: Whether the model was blessed and why, as `Verdict.to_json` gives it; of both
            evaluators together, where there are two.
        evaluation: Folder with the metrics.
        model: Folder of the trained SavedModel.
        pushed: Folder of the pushed SavedModel; `None` where the model was not blessed.
        anomalies: Columns that ExampleValidator finds anomalous, by split.
        searched: The results of a search, in words.
        request: A request to the served model, as a JSON file.
        consistency: Recall on the replay log, where there is one and total values are finite.
        replayed: Folder with it; `None` without a replay log.
    """

    metrics: SlicedMetrics
    verdict: dict
    evaluation: str
    model: str
    pushed: str | None
    anomalies: dict[str, list[str]]
    searched: list[str]
    request: str
    consistency: Consistency | None = None
    replayed: str | None = None


def outcome_of(
    metadata_path: str, executions: dict[str, int], experiment: ExperimentConfig
) -> Outcome:
    """Reads what a run's executions put out, whether made now or taken from the cache.

    Args:
        metadata_path: SQLite file of ML Metadata, in the folder of the run's outputs.
        executions: Execution by component.
        experiment: What was run.
    """
    config = mlmd_proto.ConnectionConfig()
    config.sqlite.filename_uri = metadata_path
    store = metadata_store.MetadataStore(config)

    def output(component: str, key: str):
        events = store.get_events_by_execution_ids([executions[component]])
        ids = [
            e.artifact_id
            for e in events
            if e.type == mlmd_proto.Event.OUTPUT and e.path.steps[0].key == key
        ]
        return store.get_artifacts_by_id(ids)[0]

    evaluation = output("RankingEvaluator", "evaluation").uri
    with open(os.path.join(evaluation, METRICS_FILE), encoding="utf-8") as file:
        metrics = SlicedMetrics.from_json(file.read())
    verdict, replayed = _verdict_in(evaluation), None
    if NAME in executions:
        replayed = output(NAME, "evaluation").uri
        verdict = both(verdict, _verdict_in(replayed))
    pushed = output("Pusher", "pushed_model").custom_properties["pushed_destination"].string_value
    searched: list[str] = []
    if "Tuner" in executions:
        folder = output("Tuner", "best_hyperparameters").uri
        with open(os.path.join(folder, "best_hyperparameters.txt"), encoding="utf-8") as file:
            values = json.load(file)["values"]
        searched = lines_of(values, os.path.dirname(metadata_path))
    return Outcome(
        metrics=metrics,
        verdict=verdict,
        evaluation=evaluation,
        model=os.path.join(output("Trainer", "model").uri, "Format-Serving"),
        pushed=pushed if verdict["blessed"] else None,
        anomalies=_anomalies(output("ExampleValidator", "anomalies").uri),
        searched=searched,
        request=write_request(
            output(EXAMPLE_GEN, "examples").uri,
            experiment,
            os.path.join(os.path.dirname(metadata_path), "request.json"),
        ),
        consistency=read_consistency(replayed) if replayed else None,
        replayed=replayed,
    )


def both(ranking: dict, consistency: dict) -> dict:
    """The verdicts of RankingEvaluator and ConsistencyEvaluator as one."""
    new = [reason for reason in consistency["reasons"] if reason["metric"] != REFUSED]
    repeated = len(consistency["reasons"]) - len(new)
    return {
        "blessed": ranking["blessed"] and consistency["blessed"],
        "reasons": [*ranking["reasons"], *new],
        "notes": [*dict.fromkeys([*ranking["notes"], *consistency["notes"]])],
        "checks": ranking["checks"] + consistency["checks"] - repeated,
    }


def _verdict_in(folder: str) -> dict:
    with open(os.path.join(folder, VERDICT_FILE), encoding="utf-8") as file:
        return json.load(file)


def report(outcome: Outcome, experiment: ExperimentConfig, command: str) -> str:
    """The end of a run in words.

    Args:
        outcome: What it made.
        experiment: What was run.
        command: The command that repeats the run.
    """
    scene = experiment.problem.scene
    # Without a scene `columns` must still name something, or every slice is shown.
    table = format_table(outcome.metrics, experiment.problem, columns=(scene or "",))
    parts = ["", table, ""]
    if outcome.consistency is not None:
        parts += [*_recall_table(outcome.consistency, scene), ""]
    parts += [_verdict(outcome), *_notes(outcome), "", "Next:"]
    return "\n".join([*parts, *_next_commands(outcome, experiment, command)])


def _recall_table(consistency: Consistency, scene: str | None) -> Iterator[str]:
    metrics = [metric_of(name) for name in ("soft_recall", "hard_recall", "tvd")]
    lines = [["replayed requests", "K", *(metric.heading for metric in metrics)]]
    for key, part in consistency.slices.items():
        everything = part.requests == consistency.overall.requests
        if key and (everything or [column for column, _ in key] != [scene]):
            continue
        name = f"{slice_name(key)} ({part.requests:,})"
        for k in consistency.ks:
            cells = [format(part.metrics[f"{m.name}@{k}"], m.format) for m in metrics]
            lines.append([name, f"{k}", *cells])
            name = ""
    yield from aligned(lines)
    yield f"In brackets, the {consistency.level:.0%} bootstrap interval over requests."
    also = consistency.also
    if "macs_per_request" in also:
        ads = round(consistency.overall.rows / consistency.overall.requests)
        cached = also.get("macs_per_request_cached")
        yield (
            f"A request of {ads:,} ads takes {also['macs_per_request']:,.0f} multiply-adds"
            + (f", {cached:,.0f} with cached ads" if cached is not None else "")
            + f", and {also['ms_per_request_by_pairs']:.1f} ms here, pair by pair."
        )


def verdict_of(outcome: Outcome) -> str:
    """Whether the model was blessed and why, and what was odd about the data, in words."""
    lines = _anomaly_lines(outcome)
    return "\n".join([_verdict(outcome), *lines])


def _verdict(outcome: Outcome) -> str:
    verdict = outcome.verdict
    if verdict["blessed"]:
        lines = [f"Blessed: all {verdict['checks']} checks hold.", *verdict["notes"]]
        return "\n".join([*lines, f"Pushed to   {outcome.pushed}"])
    reasons = verdict["reasons"]
    lines = [f"Not blessed: {len(reasons)} of {verdict['checks']} checks fail."]
    lines += [f"- {reason['sentence']}." for reason in reasons]
    where = "evaluation=Evaluation(…)" + (" and replay=Replay(…)" if outcome.replayed else "")
    lines += [*verdict["notes"], f"Not pushed. The bounds are in {where}."]
    return "\n".join([*lines, f"The model is in   {outcome.model}"])


def _notes(outcome: Outcome) -> list[str]:
    lines = [f"All slices are in   {outcome.evaluation}"]
    if outcome.replayed is not None:
        lines.append(f"Recall by slice is in   {outcome.replayed}")
        if outcome.consistency is not None:
            lines.append(f"Its curve is   {os.path.join(outcome.replayed, CURVE_FILE)}")
    lines += outcome.searched
    lines += _anomaly_lines(outcome)
    if outcome.pushed is not None:
        lines += _version_lines(outcome.pushed)
    return lines


def _version_lines(pushed: str) -> list[str]:
    folder, version = os.path.split(pushed)
    if not is_whole(pushed):
        return [f"Note: {pushed} is not there any more. --no-cache pushes this model again."]
    served = newest_version(folder)
    if served is None or served == version:
        return []
    lines = f"Note: version {served}, of another run, is newer than this one and is served."
    # A version is the second of its push, so that none that is pushed now comes after it.
    if int(served) > time.time():
        path = shlex.quote(os.path.join(folder, served))
        return [
            f"{lines} Its number is later than now, so that every push would be older: remove it, "
            f"as by rm -r {path}"
        ]
    return [f"{lines} --no-cache pushes this one again."]


def _anomaly_lines(outcome: Outcome) -> list[str]:
    lines = []
    for split, columns in outcome.anomalies.items():
        listed = printable(textwrap.shorten(", ".join(columns), 70, placeholder=" …"))
        lines.append(f"ExampleValidator: split {split!r} is unlike the schema in {listed}")
    return lines


def _next_commands(outcome: Outcome, experiment: ExperimentConfig, command: str) -> list[str]:
    if outcome.pushed is None:
        show = f"saved_model_cli show --dir {shlex.quote(outcome.model)} --all"
        verdicts = [
            shlex.quote(os.path.join(folder, VERDICT_FILE))
            for folder in (outcome.evaluation, outcome.replayed)
            if folder is not None
        ]
        return [
            f"  {show}",
            *(f"  python -m json.tool {verdict}" for verdict in verdicts),
            f"  {command}    # once the bounds or the model are changed",
        ]
    return serving_commands(outcome.pushed, outcome.request, experiment.name)


def serving_commands(pushed: str, request: str, name: str) -> list[str]:
    """Commands that look at a pushed model, serve it, and ask it.

    Args:
        pushed: Folder of the version.
        request: A request, as `write_request` writes it.
        name: Name of the served model.
    """
    folder, inside = os.path.dirname(os.path.abspath(pushed)), f"/models/{name}"
    mount = ("-v", f"{folder}:{inside}")
    if ":" in folder:
        # Docker takes a colon for the end of the path; here commas are what is between fields.
        fields = ("type=bind", f"source={folder}", f"target={inside}")
        quoted = ('"' + field.replace('"', '""') + '"' for field in fields)
        mount = ("--mount", ",".join(quoted))
    docker = ("docker", "run", "-p", "8501:8501", "-e", f"MODEL_NAME={name}", *mount)
    url = f"http://localhost:8501/v1/models/{quote(name)}:predict"
    return [
        f"  saved_model_cli show --dir {shlex.quote(pushed)} --all",
        f"  {shlex.join((*docker, 'tensorflow/serving'))}",
        f"  {shlex.join(('curl', '-d', f'@{request}', url))}",
    ]


def write_request(examples: str, experiment: ExperimentConfig, path: str) -> str:
    """Writes a request to TensorFlow Serving's REST interface, with a row of the last split.

    Args:
        examples: Folder of ExampleGen's examples.
        experiment: Names the columns.
        path: JSON file to write; returned.
    """
    split = f"Split-{experiment.split.names[-1]}"
    (file, *_) = sorted(glob.glob(os.path.join(glob.escape(examples), split, "*")))
    compression = "GZIP" if file.endswith(".gz") else ""
    record = next(iter(tf.data.TFRecordDataset(file, compression_type=compression)))
    columns = experiment.problem.feature_columns()
    row = tf.io.parse_example([record.numpy()], example_spec(columns))
    instance = {name: _plain(v[0].numpy()) for name, v in dense_columns(columns, row).items()}
    for name, column in columns.items():
        # An empty list of a sequence is given as one missing value, so that it has a type.
        if column.whole and not instance[name]:
            instance[name] = [ABSENT[column.dtype]]
    write_json(path, {"signature_name": "predict", "instances": [instance]}, indent=1)
    return path


def _plain(value):
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value.item()


def _anomalies(uri: str) -> dict[str, list[str]]:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    anomalies = {}
    for folder in sorted(glob.glob(os.path.join(glob.escape(uri), "Split-*"))):
        message = anomalies_pb2.Anomalies()
        with open(os.path.join(folder, "SchemaDiff.pb"), "rb") as file:
            message.ParseFromString(file.read())
        if message.anomaly_info:
            anomalies[os.path.basename(folder).split("-", 1)[1]] = sorted(message.anomaly_info)
    return anomalies
