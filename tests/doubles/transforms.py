"""Runs the executor of a Transform component on rows, without a pipeline."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_transform.beam import impl
from tensorflow_transform.tf_metadata import schema_utils
from tfx.components.transform.executor import Executor as StockExecutor
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2, transform_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, proto_utils

from components.transform import Executor
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import whole
from tfmtl.features.collect import raw_columns
from tfmtl.features.raw import DTYPES

SPLITS = ("train", "validation")
ARGUMENTS = ("--direct_running_mode=in_memory",)


def write_examples(
    folder: str, rows: Sequence[Mapping[str, list]], *, shards: int = 1, split: str = "train"
) -> None:
    """Writes rows, lists of values by column, as tf.Examples into files of one split."""
    os.makedirs(os.path.join(folder, f"Split-{split}"), exist_ok=True)
    for shard in range(shards):
        name = f"data_tfrecord-{shard:05d}-of-{shards:05d}"
        with tf.io.TFRecordWriter(os.path.join(folder, f"Split-{split}", name)) as writer:
            for row in rows[shard::shards]:
                writer.write(_example(row).SerializeToString())


def transform(
    problem: ProblemSpec,
    examples: str | Sequence[str],
    folder: str,
    *,
    stock: bool = False,
    null_values: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
    spec: Mapping[str, Any] | None = None,
    beam_args: Sequence[str] = ARGUMENTS,
) -> tuple[str, list[str]]:
    """Runs ours, or TFX's component with the same encodings.

    Args:
        problem: The declaration.
        examples: Folder of an Examples artifact, or several.
        folder: For the outputs.
        stock: Whether to run TFX's.
        null_values: Text that meant "missing".
        splits: Fitted on is the first; all are packed.
        spec: The parsing spec of the raw rows, instead of one from the declaration.
        beam_args: Arguments for Beam.

    Returns:
        Folders of the transform graph and of the transformed Examples.
    """
    experiment = ExperimentConfig(name="t", problem=problem, split=whole())
    if spec is None:
        columns = raw_columns(problem)
        spec = {name: tf.io.VarLenFeature(DTYPES[c.dtype]) for name, c in columns.items()}
    os.makedirs(os.path.join(folder, "schema"))
    with open(os.path.join(folder, "schema", "schema.pbtxt"), "w") as file:
        file.write(text_format.MessageToString(schema_utils.schema_from_feature_spec(dict(spec))))
    uris = [examples] if isinstance(examples, str) else list(examples)
    sources = [_artifact(standard_artifacts.Examples, uri) for uri in uris]
    for source in sources:
        source.split_names = artifact_utils.encode_split_names(list(splits))
        examples_utils.set_payload_format(source, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(source, "tfrecords_gzip")
    graph = os.path.join(folder, "graph")
    properties = {
        "custom_config": json_utils.dumps(
            {"experiment": experiment.to_json(), "null_values": json.dumps(list(null_values))}
        ),
        "splits_config": proto_utils.proto_to_json(
            transform_pb2.SplitsConfig(analyze=[splits[0]], transform=list(splits))
        ),
    }
    if stock:
        properties["preprocessing_fn"] = "pipeline.transform_module.preprocessing_fn"
        properties["disable_statistics"] = 1
        # An optimisation of TFX 1.16 that fails with newer releases of Beam.
        impl.deep_copy.deep_copy = lambda collection: collection
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=list(beam_args), tmp_dir=os.path.join(folder, "tmp"), unique_id="1"
    )
    # One artifact, as TFX makes it; the executor makes it as many as there are of raw rows.
    packed = _artifact(standard_artifacts.Examples, os.path.join(folder, "packed"))
    outputs = {
        "transform_graph": [_artifact(standard_artifacts.TransformGraph, graph)],
        "transformed_examples": [packed],
    }
    (StockExecutor if stock else Executor)(context).Do(
        {
            "examples": sources,
            "schema": [_artifact(standard_artifacts.Schema, os.path.join(folder, "schema"))],
        },
        outputs,
        properties,
    )
    return graph, [artifact.uri for artifact in outputs["transformed_examples"]]


def _artifact(kind: type, uri: str) -> Any:
    artifact = kind()
    artifact.uri, artifact.id = uri, 1
    return artifact


def _example(row: Mapping[str, list]) -> tf.train.Example:
    example = tf.train.Example()
    for name, values in row.items():
        feature = example.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], str | bytes):
            feature.bytes_list.value.extend(tf.compat.as_bytes(v) for v in values)
        elif isinstance(values[0], int | np.integer):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example
