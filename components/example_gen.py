"""ArrowExampleGen: reads files, checks and splits the rows, and writes tf.Examples, all in C++.

CsvExampleGen passes every value through Python and Beam. Here Arrow parses blocks of rows and
`tfx_bsl` encodes them, in one process and one pass. The driver is TFX's own, so fingerprints,
caching, spans and ranges work as in every file-based ExampleGen.
"""

import glob
import json
import os
import re
import shutil
from typing import Any

from absl import logging
from google.protobuf import json_format, struct_pb2
from tfx import types
from tfx.components.example_gen import component, driver, utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import artifact_utils, standard_component_specs
from tqdm import tqdm

from components.example_shards import Encoder, ShardWriter
from tfmtl.data.checks import Checks
from tfmtl.data.fingerprint import fingerprint
from tfmtl.data.readers import Source
from tfmtl.data.sources import files_of
from tfmtl.data.table import split_batches
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Sampling, Split
from tfmtl.durable import seal
from tfmtl.errors import DataError

REPORT = "data_report.json"
# Placeholders of TFX's spans, dates and versions.
SPAN = re.compile(r"\{(SPAN|YYYY|MM|DD|VERSION)(:\d+)?\}")


def example_gen(
    path: str,
    experiment: ExperimentConfig,
    source: Source | None = None,
    *,
    range_config: range_config_pb2.RangeConfig | None = None,
) -> "ArrowExampleGen":
    """Returns the component that reads `path` according to the experiment.

    Args:
        path: A CSV, TSV or Parquet file, a folder of them, a pattern (`logs/*.csv.gz`), or a
            pattern with TFX's placeholders (`logs/span-{SPAN}/*`). By default TFX then reads the
            latest span.
        experiment: Its problem, split and slices decide which columns are read and checked.
        source: How to read text files.
        range_config: Which spans to read, if `path` has a placeholder.

    Raises:
        DataError: There is no such file.
    """
    source = source or Source()
    base, pattern = _base_and_pattern(os.path.abspath(path), source)
    return ArrowExampleGen(
        input_base=base,
        input_config=example_gen_pb2.Input(
            splits=[example_gen_pb2.Input.Split(name="rows", pattern=pattern)]
        ),
        experiment=experiment,
        source=source,
        range_config=range_config,
    )


def _base_and_pattern(path: str, source: Source) -> tuple[str, str]:
    if SPAN.search(path) is None:
        files_of(path, source)
        # TFX globs what it is given, and a name's own brackets would mean something there.
        if os.path.isdir(path):
            return glob.escape(path), "*"
        if os.path.isfile(path):
            return glob.escape(os.path.dirname(path)), glob.escape(os.path.basename(path))
    elif os.path.exists(path):
        raise DataError(
            f"{path!r} is there, and its name holds a placeholder of TFX, which stands for a "
            "number. Give the file or the folder another name."
        )
    parts = path.split(os.sep)
    fixed = next(i for i, part in enumerate(parts) if re.search(r"[*?[]|\{", part))
    return os.sep.join(parts[:fixed]) or os.sep, os.sep.join(parts[fixed:])


class Driver(driver.FileBasedDriver):
    """Adds a hash of the files to what caching goes by: TFX's own is of sizes and seconds."""

    def resolve_exec_properties(
        self,
        exec_properties: dict[str, Any],
        pipeline_info: data_types.PipelineInfo,
        component_info: data_types.ComponentInfo,
    ) -> dict[str, Any]:
        """Returns the parameters with the span, the version and the fingerprint."""
        resolved = super().resolve_exec_properties(exec_properties, pipeline_info, component_info)
        config = _custom_config(resolved[standard_component_specs.CUSTOM_CONFIG_KEY])
        content = fingerprint(_path_of(resolved), Source(**config["source"]))
        resolved[utils.FINGERPRINT_PROPERTY_NAME] += f"\ncontent:{content}"
        return resolved


def _path_of(exec_properties: dict[str, Any]) -> str:
    inputs = json_format.Parse(
        exec_properties[standard_component_specs.INPUT_CONFIG_KEY], example_gen_pb2.Input()
    )
    base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    return os.path.join(base, inputs.splits[0].pattern)


class ArrowExampleGenExecutor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks, splits and encodes rows in one process, without a Beam pipeline.

    It extends Beam's base class only because TFX requires this of every ExampleGen.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes one folder `Split-…` per split, and the report of the checks.

        Raises:
            DataError: The rows do not fit the declaration; written files are removed.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        config = _custom_config(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        split = Split(**config["split"])
        try:
            write_examples(
                _path_of(exec_properties),
                examples.uri,
                ProblemSpec.from_json(config["problem"]),
                split,
                Source(**config["source"]),
                slices=config["slices"],
                sampling=Sampling(**config["sampling"]) if config["sampling"] else None,
            )
        except BaseException:
            for name in split.names:
                shutil.rmtree(_folder(examples.uri, name), ignore_errors=True)
            raise
        examples.split_names = artifact_utils.encode_split_names(list(split.names))
        # TFX's driver sets only a custom property, but StatisticsGen copies this property.
        examples.span = int(exec_properties.get(utils.SPAN_PROPERTY_NAME) or 0)
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        # TFX's only name for TFRecords. Its readers decide on compression by the file's suffix.
        examples_utils.set_file_format(examples, "tfrecords_gzip")


class ArrowExampleGen(component.FileBasedExampleGen):
    """A file-based ExampleGen for CSV, TSV and Parquet that checks the rows it reads.

    Args:
        input_base: Folder of the files.
        input_config: The files, as one split with a pattern; `{SPAN}` and so on are allowed.
        experiment: Its problem, split and slices decide which columns are read and checked. Other
            changes of the experiment do not rerun the component.
        source: How to read text files.
        range_config: Which spans to read.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(ArrowExampleGenExecutor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        *,
        input_base: str,
        input_config: example_gen_pb2.Input,
        experiment: ExperimentConfig,
        source: Source | None = None,
        range_config: range_config_pb2.RangeConfig | None = None,
    ):
        plain = json.loads(experiment.to_json())
        packed = struct_pb2.Struct()
        packed["json"] = json.dumps(
            {
                "problem": plain["problem"],
                "split": plain["split"],
                "slices": slice_columns(experiment),
                "source": (source or Source()).to_json(),
                "sampling": plain["sampling"],
            },
            sort_keys=True,
        )
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(packed)
        # These only name the splits in the definition; the executor applies the split's rule.
        splits = [
            example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=1)
            for name in experiment.split.names
        ]
        super().__init__(
            input_base=input_base,
            input_config=input_config,
            output_config=example_gen_pb2.Output(
                split_config=example_gen_pb2.SplitConfig(splits=splits)
            ),
            custom_config=custom_config,
            range_config=range_config,
        )


def slice_columns(experiment: ExperimentConfig) -> list[str]:
    """Columns that the evaluation slices by, without duplicates."""
    slices = [(s,) if isinstance(s, str) else s for s in experiment.evaluation.slices]
    return list(dict.fromkeys(name for part in slices for name in part))


def write_examples(
    path: str,
    folder: str,
    problem: ProblemSpec,
    split: Split,
    source: Source,
    *,
    slices: list[str],
    sampling: Sampling | None = None,
) -> None:
    """Writes the rows of `path` as tf.Examples, into one folder per split.

    Args:
        path: A file, a folder or a pattern.
        folder: Here, one folder `Split-…` per name in `split.names` and `data_report.json` are
            written.
        problem: Decides which columns are read and checked.
        split: How rows are split.
        source: How to read text files.
        slices: Further columns to write; as text if the problem does not read them.
        sampling: Which training rows are dropped.

    Raises:
        DataError: The rows do not fit; the report is then logged but not written.
    """
    checks = Checks(problem, split)
    encode = Encoder()
    writers = [ShardWriter(_folder(folder, name)) for name in split.names]
    with tqdm(desc="rows", unit=" rows", unit_scale=True, disable=None) as bar:
        for batch, split_ids in split_batches(
            path, problem, source, split, checks, slices, sampling
        ):
            examples = encode(batch)
            for index, writer in enumerate(writers):
                writer.write([examples[i] for i in (split_ids == index).nonzero()[0]])
            bar.update(len(split_ids))
    for writer in writers:
        writer.close()
    try:
        report = checks.finish()
    finally:
        for line in checks.report.summary():
            logging.info(line)
    with open(os.path.join(folder, REPORT), "w") as file:
        file.write(report.to_json())
    # By size alone: TensorFlow checks each record that it reads, and misses those that are gone.
    seal(folder, content=False)


def _folder(uri: str, split: str) -> str:
    return os.path.join(uri, f"Split-{split}")


def _custom_config(text: str) -> dict[str, Any]:
    config = json_format.Parse(text, example_gen_pb2.CustomConfig())
    packed = struct_pb2.Struct()
    config.custom_config.Unpack(packed)
    return json.loads(packed["json"])
