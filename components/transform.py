"""ShardedTransform: fits the preprocessing and packs all rows, a file at a time, in C++.

TFX's Transform makes a Beam element of every distinct value of every column, and runs many stages
for each column. Here the unit of work is a file: one pass over the training files gives what each
contributes to all statistics (`tfmtl.features.collect`), these are merged once, and a second pass
packs all files with the graph that serves (`components.transform_graph`). Beam hands out the files:
in one process it adds little, and on several processes or machines they work on different files.
"""

import dataclasses
import functools
import json
import os
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from numpy.typing import NDArray
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.transform import executor_utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2, transform_pb2
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.utils import io_utils, json_utils, proto_utils
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from components.transform_graph import declared_schema, free_tables, write_graph
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.features.collect import (
    Plan,
    States,
    add_part,
    fitted_values,
    mapped,
    merged,
    raw_columns,
    read_batches,
    rows_at_once,
)
from tfmtl.features.statistics import Fitted, in_memory


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        problem: The declaration, as JSON.
        null_values: Text that means "missing", as in `encode`.
        schema: The raw rows' schema, as text.
        graph: Folder of the TransformGraph.
        scratch: Folder for files that are removed at the end.
    """

    problem: str
    null_values: tuple[str, ...]
    schema: str
    graph: str
    scratch: str

    @property
    def spec(self) -> ProblemSpec:
        """The declaration."""
        return ProblemSpec.from_json(json.loads(self.problem))


class Executor(base_beam_executor.BaseBeamExecutor):
    """Fits on the files of the first split and packs those of all splits."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the transform graph and, per artifact and split, the packed rows.

        Args:
            input_dict: `examples`, one artifact or several, and `schema`.
            output_dict: `transform_graph`, and `transformed_examples`, one per artifact of rows.
            exec_properties: `custom_config`, with `experiment` and `null_values` in JSON, and
                `splits_config`.

        Raises:
            DataError: There are no training rows, or the rows do not fit the declaration.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        keys = standard_component_specs
        config = json_utils.loads(exec_properties[keys.CUSTOM_CONFIG_KEY])
        splits = transform_pb2.SplitsConfig()
        proto_utils.json_to_proto(exec_properties[keys.SPLITS_CONFIG_KEY], splits)
        # TFX makes one artifact, and its own component as many more as there are of raw rows.
        executor_utils.MatchNumberOfTransformedExamplesArtifacts(input_dict, output_dict)
        sources, targets = input_dict[keys.EXAMPLES_KEY], output_dict[keys.TRANSFORMED_EXAMPLES_KEY]
        graph = artifact_utils.get_single_uri(output_dict[keys.TRANSFORM_GRAPH_KEY])
        job = _job(config, input_dict[keys.SCHEMA_KEY], graph)
        shards = _shards(sources, targets, splits.transform)
        analysed = [source for source, _ in _shards(sources, targets, splits.analyze)]
        if not analysed:
            raise DataError(f"there are no rows to fit on in the splits {list(splits.analyze)}.")
        for target in targets:
            target.split_names = artifact_utils.encode_split_names(list(splits.transform))
            examples_utils.set_payload_format(target, example_gen_pb2.FORMAT_TF_EXAMPLE)
            # TFX's only name for TFRecords. Its readers decide on compression by the file's suffix.
            examples_utils.set_file_format(target, "tfrecords_gzip")
        try:
            with self._make_beam_pipeline() as pipeline:
                _transform(pipeline, job, analysed, shards)
        finally:
            _forget()
            if tf.io.gfile.exists(job.scratch):
                tf.io.gfile.rmtree(job.scratch)


class ShardedTransform(base_beam_component.BaseBeamComponent):
    """Fits the preprocessing on one split and packs all rows; a drop-in for TFX's Transform.

    The outputs are those of TFX's component, in its formats, but for two things: the packed rows
    are in files that are not compressed, one per file of raw rows and in its order; and there are
    no statistics of transformed rows and no cache of analyzers.

    Args:
        examples: Raw rows, as tf.Examples.
        schema: Their schema.
        splits_config: Which splits to fit on, and which to pack.
        custom_config: `experiment`, the experiment's JSON, and `null_values`, a JSON list of the
            text that meant "missing" where rows were read; further entries only identify a run.
    """

    SPEC_CLASS = standard_component_specs.TransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        splits_config: transform_pb2.SplitsConfig,
        custom_config: dict[str, Any],
    ):
        transformed = types.Channel(type=standard_artifacts.Examples)
        transformed.matching_channel_name = standard_component_specs.EXAMPLES_KEY
        super().__init__(
            standard_component_specs.TransformSpec(
                examples=examples,
                schema=schema,
                splits_config=splits_config,
                custom_config=json_utils.dumps(custom_config),
                transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
                transformed_examples=transformed,
            )
        )


def _job(config: dict[str, str], schemas: Sequence[types.Artifact], graph: str) -> Job:
    problem = ExperimentConfig.from_json(config["experiment"]).problem
    path = io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(list(schemas)))
    schema = declared_schema(problem, io_utils.SchemaReader().read(path))
    return Job(
        problem=json.dumps(problem.to_json()),
        null_values=tuple(json.loads(config.get("null_values", "[]"))),
        schema=text_format.MessageToString(schema),
        graph=graph,
        scratch=os.path.join(graph, ".scratch"),
    )


def _shards(
    sources: Sequence[types.Artifact], targets: Sequence[types.Artifact], splits: Iterable[str]
) -> list[tuple[str, str]]:
    """Files of raw rows and the files that their packed rows are written to."""
    shards = []
    for split in splits:
        folders = artifact_utils.get_split_uris(list(sources), split)
        for source, target in zip(folders, targets, strict=True):
            names = sorted(tf.io.gfile.listdir(source))
            for number, name in enumerate(names):
                packed = f"transformed_examples-{number:05d}-of-{len(names):05d}"
                folder = os.path.join(target.uri, f"Split-{split}")
                shards.append((os.path.join(source, name), os.path.join(folder, packed)))
    return shards


def _transform(
    pipeline: beam.Pipeline, job: Job, analysed: list[str], shards: list[tuple[str, str]]
) -> None:
    """Adds the passes over the rows to a Beam pipeline."""
    known = pipeline | "Nothing" >> beam.Create([{}])
    for number in range(plan_of(job).passes):
        known = (
            pipeline
            | f"Files{number}" >> beam.Create(analysed)
            | f"Collect{number}" >> beam.Map(_collect, job, beam.pvalue.AsSingleton(known))
            | f"Merge{number}" >> beam.CombineGlobally(_Merge())
            | f"Fit{number}" >> beam.Map(_fit, job, beam.pvalue.AsSingleton(known))
        )
    graph = known | "WriteGraph" >> beam.Map(_write_graph, job)
    _ = (
        pipeline
        | "AllFiles" >> beam.Create(shards)
        | "Pack" >> beam.Map(_pack, job, beam.pvalue.AsSingleton(graph))
    )


class _Merge(beam.CombineFn):
    """Merges the states of shards."""

    def create_accumulator(self) -> States:
        return {}

    def add_input(self, accumulator: States, states: States) -> States:
        add_part(accumulator, states)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[States]) -> States:
        return merged(accumulators)

    def extract_output(self, accumulator: States) -> States:
        return accumulator


def plan_of(job: Job, known: dict[str, Any] | None = None) -> Plan:
    """The plan of a pass; that of the first is made once per process."""
    if not known:
        return _first_plan(job.problem, job.null_values)
    return Plan(job.spec, job.null_values, fitted=Fitted(in_memory(known)))


@functools.lru_cache(maxsize=2)
def _first_plan(problem: str, null_values: tuple[str, ...]) -> Plan:
    return Plan(ProblemSpec.from_json(json.loads(problem)), null_values)


def _collect(path: str, job: Job, known: dict[str, Any]) -> States:
    return plan_of(job, known).collect(path)


def _fit(states: States, job: Job, known: dict[str, Any]) -> dict[str, Any]:
    return {**known, **fitted_values(plan_of(job, known).statistics, states)}


def _write_graph(known: dict[str, Any], job: Job) -> str:
    _forget()
    path = os.path.join(job.graph, tft.TFTransformOutput.TRANSFORM_FN_DIR)
    # This process need not load what it has; others do.
    _LOADED[path] = write_graph(
        job.graph,
        job.spec,
        text_format.Parse(job.schema, schema_pb2.Schema()),
        known,
        null_values=job.null_values,
        scratch=os.path.join(job.scratch, "assets"),
    )
    return path


# The SavedModel that this process packs with, by its path; at most one.
_LOADED: dict[str, Any] = {}


def _packer(graph: str) -> Any:
    if graph not in _LOADED:
        _forget()
        _LOADED[graph] = tf.saved_model.load(graph)
    return _LOADED[graph]


def _forget() -> None:
    for model in _LOADED.values():
        free_tables(model.tables)
    _LOADED.clear()


def _pack(shard: tuple[str, str], job: Job, graph: str) -> None:
    """Packs the rows of one file."""
    source, target = shard
    columns = raw_columns(job.spec)
    encoder = RecordBatchToExamplesEncoder()
    # Under another name first: a runner may work on a file twice, or be killed.
    building = os.path.join(job.scratch, uuid.uuid4().hex)
    tf.io.gfile.makedirs(job.scratch)
    with tf.io.TFRecordWriter(building) as writer:
        batches = read_batches(source, rows_at_once(columns))
        for packed in mapped(batches, _packer(graph).pack, source):
            records = encoder.encode(_as_lists({k: v.numpy() for k, v in packed.items()}))
            deque(map(writer.write, records), maxlen=0)
    tf.io.gfile.makedirs(os.path.dirname(target))
    tf.io.gfile.rename(building, target, overwrite=True)


def _as_lists(packed: Mapping[str, NDArray[Any]]) -> pa.RecordBatch:
    """A batch in which each row has a list of numbers per tensor, without copies of them."""
    columns = []
    for values in packed.values():
        width = values.size // max(len(values), 1)
        ends = np.arange(len(values) + 1, dtype=np.int32) * np.int32(width)
        columns.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel())))
    return pa.RecordBatch.from_arrays(columns, list(packed))
