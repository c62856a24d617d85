"""ReplayGen: reads a replay log from files and checks it before training starts.

TFX's Importer does not read an imported folder before another component uses it, hours later.
A missing value, or a K larger than every request, should stop a run in its first minute, so this
component reads and checks the log at once. Its artifact is a copy, which does not change during the
run. The features are encoded once, as the model reads them, for every model that is scored on the
log. Caching depends on a hash of the files' content; TFX's ExampleGen drivers use size and time.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tqdm import tqdm

from components.example_shards import Encoder
from tfmtl.data.fingerprint import fingerprint
from tfmtl.data.parquet import open_file
from tfmtl.data.readers import Source, open_table
from tfmtl.data.sources import files_of
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Replay, Training
from tfmtl.declare.features import Column
from tfmtl.declare.total_value import ACTIONS, TotalValue
from tfmtl.errors import DataError, SpecError
from tfmtl.replay import log as replay
from tfmtl.replay.columns import column
from tfmtl.replay.recall import checked_ks

LOG_FILE = "log.parquet"
EXAMPLES_FILE = "examples.tfrecord"
FINGERPRINT = "input_fingerprint"


class ReplayLog(types.Artifact):
    """A checked replay log: `LOG_FILE`, and `EXAMPLES_FILE` with its rows' features in order."""

    TYPE_NAME = "ReplayLog"


class ReplayGenSpec(ComponentSpec):
    """Outputs and parameters of `ReplayGen`."""

    PARAMETERS = {
        "path": ExecutionParameter(type=str),
        "experiment": ExecutionParameter(type=str),
        "source": ExecutionParameter(type=str),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {"replay": ChannelParameter(type=ReplayLog)}


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Adds a hash of the files to the properties that the component's caching depends on."""

    def __init__(self, metadata_handle: metadata.Metadata):
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Returns the parameters together with the hash."""
        given = execution_info.exec_properties
        source = Source(**json.loads(given["source"]))
        properties = {**given, FINGERPRINT: fingerprint(given["path"], source)}
        output = driver_output_pb2.DriverOutput()
        for name, value in properties.items():
            if value is not None:
                data_types_utils.set_metadata_value(output.exec_properties[name], value)
        return output


class Executor(base_executor.BaseExecutor):
    """Reads, checks and encodes the replay log."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the log and the features of its rows.

        Raises:
            DataError: The files do not hold a replay log that fits the experiment.
        """
        made = artifact_utils.get_single_instance(output_dict["replay"])
        experiment = ExperimentConfig.from_json(exec_properties["experiment"])
        source = Source(**json.loads(exec_properties["source"]))
        log = write_replay(exec_properties["path"], made.uri, experiment, source)
        made.set_string_custom_property(FINGERPRINT, exec_properties.get(FINGERPRINT, ""))
        logging.info("%s", log)


class ReplayGen(base_component.BaseComponent):
    """Reads a replay log of Parquet, CSV or TSV files.

    Args:
        path: A file, a folder or a pattern.
        experiment: Its problem, `value` and `replay` decide what is read and checked. Other
            changes of the experiment, and changes of the bounds, do not rerun the component.
        source: How to read text files.

    Raises:
        DataError: There is no such file.
        SpecError: The experiment does not declare `replay`.
    """

    SPEC_CLASS = ReplayGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, *, path: str, experiment: ExperimentConfig, source: Source | None = None):
        source = source or Source()
        files_of(path, source)
        declared, _ = parts_of(experiment)
        needed = dataclasses.replace(
            experiment,
            model=Model(),
            training=Training(monitor="loss"),
            evaluation=Evaluation(),
            tuning=None,
            sampling=None,
            replay=dataclasses.replace(declared, bounds={}, max_fall=0.0),
        )
        super().__init__(
            ReplayGenSpec(
                path=os.path.abspath(path),
                experiment=needed.to_json(),
                source=json.dumps(source.to_json(), sort_keys=True),
                replay=types.Channel(type=ReplayLog),
            )
        )


def parts_of(experiment: ExperimentConfig) -> tuple[Replay, TotalValue]:
    """The experiment's `replay` and `value`.

    Raises:
        SpecError: The experiment does not declare both.
    """
    if experiment.replay is None or experiment.value is None:
        raise SpecError(
            f"experiment {experiment.name!r} declares no replay; add replay=Replay(k=20) and "
            "value=TotalValue(actions={…})."
        )
    return experiment.replay, experiment.value


def write_replay(
    path: str, folder: str, experiment: ExperimentConfig, source: Source
) -> replay.ReplayLog:
    """Checks the replay log in `path` and writes it, with the features of its rows, to `folder`.

    Raises:
        DataError: The files do not hold a replay log that fits the experiment; written files are
            removed.
    """
    table = _read(path, experiment, source)
    log = replay_log(table, experiment)
    declared, value = parts_of(experiment)
    checked_ks(log, (declared.k, *declared.ks))
    _, converts = value.needs(column(table, value.objective, "the replay log"))
    _check_known(table, value.bid, np.ones(len(log), bool))
    if value.rate in table.column_names:
        _check_known(table, value.rate, converts)
    os.makedirs(folder, exist_ok=True)
    examples = os.path.join(folder, EXAMPLES_FILE)
    try:
        rows = _write_examples(path, examples, experiment, source, len(log))
        if rows != len(log):
            raise DataError(
                f"{path!r} changed while it was read: {len(log):,} rows, then {rows:,}."
            )
        pq.write_table(table, os.path.join(folder, LOG_FILE))
    except BaseException:
        if os.path.exists(examples):
            os.remove(examples)
        raise
    return log


def read_replay(folder: str, experiment: ExperimentConfig) -> tuple[replay.ReplayLog, pa.Table]:
    """The log that `write_replay` wrote, and its columns."""
    table = open_file(os.path.join(folder, LOG_FILE)).read()
    return replay_log(table, experiment), table


def replay_log(table: pa.Table, experiment: ExperimentConfig) -> replay.ReplayLog:
    """The columns of a table as the experiment's replay log, sliced by scene and `slices`."""
    declared, value = parts_of(experiment)
    return replay.ReplayLog.from_table(
        table,
        request_id=declared.request_id,
        ad_id=declared.ad_id,
        final_value=declared.final_value,
        final_cqs=declared.final_cqs if value.cqs else None,
        final_pctr=declared.final_pctr,
        slices=slice_columns(experiment),
    )


def slice_columns(experiment: ExperimentConfig) -> tuple[str, ...]:
    """Columns that recall is sliced by: the scene and the `slices` of `replay`."""
    declared, _ = parts_of(experiment)
    scene = experiment.problem.scene
    return tuple(dict.fromkeys((*((scene,) if scene else ()), *declared.slices)))


def _read(path: str, experiment: ExperimentConfig, source: Source) -> pa.Table:
    declared, value = parts_of(experiment)
    numbers = [declared.final_value, value.bid]
    if declared.final_cqs is not None and value.cqs is not None:
        numbers.append(declared.final_cqs)
    if declared.final_pctr is not None:
        numbers.append(declared.final_pctr)
    if any(ACTIONS[action][1] for action in value.actions.values()):
        numbers.append(value.rate)
    texts = [declared.request_id, declared.ad_id, value.objective, *slice_columns(experiment)]
    # Text is the only type of the readers that keeps every digit of a double.
    columns = {n: Column(name=n, dtype="string") for n in dict.fromkeys((*texts, *numbers))}
    table = pa.Table.from_batches(list(open_table(path, columns, source)))
    for name in dict.fromkeys(numbers):
        try:
            exact = table[name].cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"column {name!r} of the replay log does not hold numbers: {error}."
            ) from None
        table = table.set_column(table.schema.get_field_index(name), name, exact)
    return table


def _check_known(table: pa.Table, name: str, needed: np.ndarray) -> None:
    values = column(table, name, "the replay log")
    unknown = needed & ~np.isfinite(values)
    if unknown.any():
        first = int(np.flatnonzero(unknown)[0]) + 1
        raise DataError(
            f"column {name!r} of the replay log is missing or infinite in {int(unknown.sum()):,} "
            f"of {len(values):,} rows, first in row {first:,}; the total value needs a number."
        )


def _write_examples(
    path: str, file: str, experiment: ExperimentConfig, source: Source, expected: int
) -> int:
    columns: Mapping[str, Column] = experiment.problem.feature_columns()
    encode = Encoder()
    rows = 0
    # One file only, because its rows must stay in the order of the log.
    with (
        tf.io.TFRecordWriter(file) as writer,
        tqdm(
            total=expected, desc="replay", unit=" rows", unit_scale=True, disable=None
        ) as progress,
    ):
        for batch in open_table(path, columns, source):
            for example in encode(batch):
                writer.write(example)
            rows += batch.num_rows
            progress.update(batch.num_rows)
    return rows
