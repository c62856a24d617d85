"""The pipeline: from raw rows to a pushed SavedModel.

ExampleGen → StatisticsGen → SchemaGen → ExampleValidator → Transform → (Tuner) → Trainer →
Baseline (the last blessed model) → RankingEvaluator → Pusher

If the experiment declares `replay`, ReplayGen reads the replay log at the beginning, and the
ConsistencyEvaluator runs between RankingEvaluator and Pusher.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

from tfx import v1 as tfx
from tfx.dsl.components.base.base_node import BaseNode

from components.consistency_evaluator import ConsistencyEvaluator
from components.evaluator import RankingEvaluator
from components.example_gen import example_gen
from components.pusher import Pusher
from components.replay_gen import ReplayGen
from components.transform import ShardedTransform
from pipeline.baseline import LatestOtherBlessedModel
from pipeline.fingerprint import code_hash
from tfmtl.data.readers import Source
from tfmtl.data.sources import null_values_in
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.errors import SpecError, did_you_mean

SHARDED, STOCK = TRANSFORMS = ("sharded", "stock")
"""Components that fit the preprocessing: ours and TFX's."""

# The sources that the functions of Transform, Tuner and Trainer depend on.
CODE = (
    "tfmtl",
    "components",
    "pipeline/transform_module.py",
    "pipeline/tuner_module.py",
    "pipeline/trainer_module.py",
    "pipeline/slot_module.py",
)


def create_pipeline(
    *,
    experiment: ExperimentConfig,
    source: Source | None,
    data_path: str,
    pipeline_root: str,
    serving_dir: str,
    metadata_path: str,
    replay_path: str | None = None,
    schema_path: str | None = None,
    enable_cache: bool = True,
    beam_args: Sequence[str] = (),
    transform: str = SHARDED,
) -> tfx.dsl.Pipeline:
    """Connects the components.

    Args:
        experiment: The settings of the run, without the data. A Tuner runs if it declares `tuning`
            or `search`, a ConsistencyEvaluator if it declares `replay`.
        source: How to read text files.
        data_path: A file, a folder or a pattern.
        pipeline_root: Folder of all artifacts and of the checkpoints.
        serving_dir: Blessed models are pushed to `serving_dir/<name>/<version>`.
        metadata_path: SQLite file of ML Metadata.
        replay_path: The replay log, if the experiment declares `replay`: a file, a folder or a
            pattern.
        schema_path: A schema (text proto) to validate the data against; inferred if not given.
        enable_cache: Whether a component with unchanged inputs is taken from the cache.
        beam_args: Arguments of every Beam pipeline; see `beam_arguments`.
        transform: One of `TRANSFORMS`; see `transform_of`.

    Raises:
        SpecError: The experiment declares `replay` and there is no `replay_path`; or it declares
            `mtms`, which needs `daily.create_daily_pipeline`.
    """
    if experiment.mtms is not None:
        raise SpecError(
            "create_pipeline trains one model on one table, and the experiment declares mtms; "
            "create_daily_pipeline(…) makes the pipeline of a day."
        )
    splits = experiment.split.names
    examples = example_gen(data_path, experiment, source)
    replay = _replay_gen(replay_path, experiment, source)
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = schema_of(statistics.outputs["statistics"], schema_path, exclude=splits[1:])
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    packing = transform_of(
        examples.outputs["examples"],
        schema.outputs["schema"],
        experiment,
        pipeline_root,
        null_values=null_values_in(data_path, source or Source()),
        transform=transform,
    )
    tuner, trainer = _training(packing, experiment, pipeline_root)
    baseline, evaluator, consistency = _judges(examples, trainer, replay, experiment)
    pusher = pusher_of(trainer, consistency or evaluator, experiment, serving_dir)
    # The replay log is read at the beginning, so that an error in it stops the run before training.
    nodes = [examples, replay, statistics, schema, validator, packing, tuner, trainer]
    nodes += [baseline, evaluator, consistency, pusher]
    return pipeline_of(
        [node for node in nodes if node is not None],
        experiment,
        pipeline_root=pipeline_root,
        metadata_path=metadata_path,
        enable_cache=enable_cache,
        beam_args=beam_args,
    )


def _training(
    transform: BaseNode, experiment: ExperimentConfig, pipeline_root: str
) -> tuple[BaseNode | None, BaseNode]:
    """The Tuner, if the experiment declares a search, and the Trainer."""
    splits = experiment.split.names
    inputs = {
        "examples": transform.outputs["transformed_examples"],
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": tfx.proto.TrainArgs(splits=[splits[0]]),
        "eval_args": tfx.proto.EvalArgs(splits=[splits[1]]),
        "custom_config": custom_config(
            dataclasses.replace(experiment, evaluation=Evaluation(), replay=None), pipeline_root
        ),
    }
    tuner = None
    if experiment.tuning is not None or experiment.search is not None:
        tuner = tfx.components.Tuner(tuner_fn="pipeline.tuner_module.tuner_fn", **inputs)
    trainer = tfx.components.Trainer(
        run_fn="pipeline.trainer_module.run_fn",
        hyperparameters=tuner.outputs["best_hyperparameters"] if tuner else None,
        **inputs,
    )
    return tuner, trainer


def _judges(
    examples: BaseNode, trainer: BaseNode, replay: BaseNode | None, experiment: ExperimentConfig
) -> tuple[BaseNode, BaseNode, BaseNode | None]:
    """The last blessed model, the evaluator and, if there is a replay log, the recall check."""
    baseline = tfx.dsl.Resolver(
        strategy_class=LatestOtherBlessedModel,
        candidate=trainer.outputs["model"],
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("Baseline")
    evaluator = RankingEvaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        experiment=dataclasses.replace(
            untrained(experiment), value=None, replay=None, sampling=None
        ),
    )
    if replay is None:
        return baseline, evaluator, None
    consistency = ConsistencyEvaluator(
        replay=replay.outputs["replay"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        ranking_blessing=evaluator.outputs["blessing"],
        experiment=dataclasses.replace(
            untrained(experiment), evaluation=Evaluation(), sampling=None
        ),
    )
    return baseline, evaluator, consistency


def pipeline_of(
    nodes: Sequence[BaseNode],
    experiment: ExperimentConfig,
    *,
    pipeline_root: str,
    metadata_path: str,
    enable_cache: bool = True,
    beam_args: Sequence[str] = (),
) -> tfx.dsl.Pipeline:
    """A pipeline of the components, with the experiment's name; see `create_pipeline`."""
    return tfx.dsl.Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=pipeline_root,
        components=list(nodes),
        enable_cache=enable_cache,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            metadata_path
        ),
        beam_pipeline_args=list(beam_args),
    )


def schema_of(
    statistics: tfx.dsl.Channel, schema_path: str | None, *, exclude: Sequence[str] = ()
) -> BaseNode:
    """The component that gives the schema: the user's schema, or one inferred from statistics.

    Args:
        statistics: Statistics of the rows that the schema describes.
        schema_path: The user's schema (text proto), if there is one.
        exclude: Splits that an inferred schema must not be computed from.
    """
    if schema_path is not None:
        return tfx.components.ImportSchemaGen(schema_file=os.path.abspath(schema_path))
    # Without shapes every column is sparse. With inferred shapes, a column would be dense on one
    # day and sparse on another, depending on whether a value is missing.
    return tfx.components.SchemaGen(
        statistics=statistics, infer_feature_shape=False, exclude_splits=list(exclude)
    )


def transform_of(
    examples: tfx.dsl.Channel,
    schema: tfx.dsl.Channel,
    experiment: ExperimentConfig,
    pipeline_root: str,
    *,
    null_values: Sequence[str],
    transform: str = SHARDED,
) -> BaseNode:
    """The component that fits the preprocessing on the first split and packs all rows.

    Args:
        examples: Raw rows.
        schema: What they look like.
        experiment: Its problem and split are read.
        pipeline_root: Folder of all artifacts.
        null_values: Text that meant "missing" where the rows were read. Served rows have not been
            read so, and the exported graph must know.
        transform: `sharded`, our component, or `stock`, TFX's with the same encodings. Their
            outputs have the same formats.

    Raises:
        SpecError: `transform` is neither.
    """
    if transform not in TRANSFORMS:
        raise SpecError(
            f"transform={transform!r} is not one of {list(TRANSFORMS)}."
            f"{did_you_mean(transform, TRANSFORMS)}"
        )
    splits = experiment.split.names
    # Settings that Transform does not need are removed: a new learning rate must not rerun it.
    preprocessing = dataclasses.replace(
        untrained(experiment), evaluation=Evaluation(), value=None, replay=None, sampling=None
    )
    settings = {
        "examples": examples,
        "schema": schema,
        "splits_config": tfx.proto.SplitsConfig(analyze=[splits[0]], transform=list(splits)),
        "custom_config": {
            **custom_config(preprocessing, pipeline_root),
            "null_values": json.dumps(list(null_values)),
        },
    }
    if transform == SHARDED:
        return ShardedTransform(**settings).with_id("Transform")
    return tfx.components.Transform(
        preprocessing_fn="pipeline.transform_module.preprocessing_fn",
        disable_analyzer_cache=True,
        disable_statistics=True,
        **settings,
    )


def pusher_of(
    trainer: BaseNode, judge: BaseNode, experiment: ExperimentConfig, serving_dir: str
) -> BaseNode:
    """The component that copies a model blessed by `judge` to the folder of TensorFlow Serving."""
    return Pusher(
        model=trainer.outputs["model"],
        model_blessing=judge.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(
                base_directory=os.path.join(serving_dir, experiment.name)
            )
        ),
    )


def untrained(experiment: ExperimentConfig) -> ExperimentConfig:
    """The experiment without the settings of training, for components that do not train."""
    training = Training(monitor="loss")  # The only monitor that every problem has.
    return dataclasses.replace(
        experiment,
        model=Model(),
        training=training,
        tuning=None,
        mtms=None,
        meta=None,
        search=None,
    )


def beam_arguments(workers: int = 1) -> list[str]:
    """Arguments for Beam on this machine: one process, or several.

    Several processes are faster only for many rows, because starting workers and sending rows
    between them takes time. With 300,000 rows on two cores, StatisticsGen took 22 s in one process
    and 40 s in two. Transform uses both cores in one process already.
    """
    mode = "in_memory" if workers == 1 else "multi_processing"
    return [f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]


def _replay_gen(
    path: str | None, experiment: ExperimentConfig, source: Source | None
) -> ReplayGen | None:
    if experiment.replay is None:
        return None
    if path is None:
        raise SpecError(
            f"experiment {experiment.name!r} declares replay=Replay(…), but no replay log is "
            "given; give its path as replay_path=…."
        )
    return ReplayGen(path=path, experiment=experiment, source=source)


def custom_config(experiment: ExperimentConfig, pipeline_root: str) -> dict[str, str]:
    """The `custom_config` of the functions of Transform, Tuner and Trainer."""
    # TFX reuses a component's cached output if inputs and parameters are the same. It identifies a
    # function by its import path only. The hash of the sources is therefore a parameter: after an
    # edit of an encoding or a layer, the component runs again.
    return {
        "experiment": experiment.to_json(),
        "checkpoints": os.path.join(pipeline_root, "checkpoints"),
        "code": code_hash(CODE),
    }
