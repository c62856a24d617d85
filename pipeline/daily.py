"""The pipeline of one new day: it trains on the days before it and tests on the new day.

ExampleGen (the new day) → StatisticsGen → SchemaGen (from the day before) → ExampleValidator →
the window's days → Transform → the last blessed slot → Trainer → RankingEvaluator → Pusher

A slot has the number of its last training day, so the new day `d` tests slot `d − 1` (Tan et al.,
MTMS, §IV: the whole next day). Preprocessing is fitted on the window only: nothing that is trained
depends on the new day.
"""

import dataclasses
from collections.abc import Sequence

from tfx import v1 as tfx
from tfx.dsl.components.base.base_node import BaseNode
from tfx.types import standard_artifacts

from components.evaluator import RankingEvaluator
from components.example_gen import example_gen
from pipeline.days import Log, only
from pipeline.pipeline import (
    SHARDED,
    custom_config,
    pipeline_of,
    pusher_of,
    schema_of,
    transform_of,
    untrained,
)
from pipeline.window import LastBlessedSlot, Spans
from tfmtl.data.readers import Source
from tfmtl.data.sources import null_values_in
from tfmtl.declare.experiment import Evaluation, ExperimentConfig
from tfmtl.declare.problem import ProblemSpec

# The sources that a day's result depends on besides `pipeline.CODE`.
CODE = ("pipeline/daily.py", "pipeline/pipeline.py", "pipeline/window.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Day:
    """A new day and the window of days that its slot is trained on.

    Args:
        span: The new day, which is tested on.
        first: First day of the training window; the last is `span - 1`.
    """

    span: int
    first: int

    @property
    def slot(self) -> int:
        """The number of the trained slot: the last day of its window."""
        return self.span - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The folders and settings that the runs of all days share.

    Args:
        pipeline_root: Folder of all artifacts and of the checkpoints.
        serving_dir: Blessed models are pushed to `serving_dir/<name>/<version>`.
        metadata_path: SQLite file of ML Metadata.
        schema_path: A schema (text proto) to validate the days against; without it, the schema is
            inferred from the day before.
        enable_cache: Whether a component with unchanged inputs is taken from the cache.
        beam_args: Arguments of every Beam pipeline.
        workers: Number of processes that train parts of a slot at the same time.
        transform: One of `pipeline.TRANSFORMS`; see `pipeline.transform_of`.
    """

    pipeline_root: str
    serving_dir: str
    metadata_path: str
    schema_path: str | None = None
    enable_cache: bool = True
    beam_args: Sequence[str] = ()
    workers: int = 1
    transform: str = SHARDED


def create_daily_pipeline(
    *, experiment: ExperimentConfig, source: Source | None, log: Log, day: Day, place: Place
) -> tfx.dsl.Pipeline:
    """Connects the components for one new day.

    The days of the window must have been read before: a day that was a new day by its own run, the
    others by `create_reading_pipeline`.

    Args:
        experiment: The settings of the run, without the data; it declares `mtms`.
        source: How to read text files.
        log: The log with its days.
        day: The new day and its window.
        place: Folders and settings of the runs.
    """
    examples = example_gen(log.pattern, experiment, source, range_config=only(day.span))
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    before = _spans("DayBefore", statistics, "statistics", day.slot, day.slot)
    schema = schema_of(before.outputs["statistics"], place.schema_path)
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    window = _spans("Window", examples, "examples", day.first, day.slot)
    transform = transform_of(
        window.outputs["examples"],
        schema.outputs["schema"],
        experiment,
        place.pipeline_root,
        null_values=null_values_in(log.pattern, source or Source()),
        transform=place.transform,
    )
    last = tfx.dsl.Resolver(
        strategy_class=LastBlessedSlot,
        config={"slot": day.slot},
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("LastBlessed")
    splits = list(experiment.split.names)
    settings = dataclasses.replace(experiment, evaluation=Evaluation())
    config = {**custom_config(settings, place.pipeline_root), "slot": day.slot}
    # With several processes the last bits of a sum may differ, so the number is part of the key.
    if place.workers > 1:
        config["workers"] = place.workers
    trainer = tfx.components.Trainer(
        run_fn="pipeline.slot_module.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        base_model=last.outputs["model"],
        train_args=tfx.proto.TrainArgs(splits=splits),
        # TFX requires a split here too, although no row of a slot is held out.
        eval_args=tfx.proto.EvalArgs(splits=splits),
        custom_config=config,
    )
    evaluator = RankingEvaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=last.outputs["model"],
        experiment=judged(experiment),
        example_splits=splits,
    )
    pusher = pusher_of(trainer, evaluator, experiment, place.serving_dir)
    nodes = [examples, statistics, before, schema, validator, window, transform, last]
    if place.schema_path is not None:
        nodes.remove(before)
    return _pipeline([*nodes, trainer, evaluator, pusher], experiment, place)


def create_reading_pipeline(
    *, experiment: ExperimentConfig, source: Source | None, log: Log, span: int, place: Place
) -> tfx.dsl.Pipeline:
    """Connects the first components only, for a day of the history that is never a new day."""
    examples = example_gen(log.pattern, experiment, source, range_config=only(span))
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    return _pipeline([examples, statistics], experiment, place)


def judged(experiment: ExperimentConfig) -> ExperimentConfig:
    """The experiment for the evaluator: no settings of training, and only the served tasks."""
    problem = experiment.problem
    names = served_tasks(experiment)
    tasks = tuple(dataclasses.replace(t, served=t.name in names) for t in problem.tasks)
    return dataclasses.replace(
        untrained(experiment), problem=dataclasses.replace(problem, tasks=tasks), value=None
    )


def served_tasks(experiment: ExperimentConfig) -> tuple[str, ...]:
    """Tasks that a slot's model predicts: the fine-tuned ones and their product in a funnel."""
    problem: ProblemSpec = experiment.problem
    assert experiment.mtms is not None
    targets = experiment.mtms.target_tasks(problem)
    funnel = problem.funnel() or ()
    product = funnel[2:] if funnel and set(funnel[:2]) <= set(targets) else ()
    return tuple(t.name for t in problem.served if t.name in (*targets, *product))


def _spans(name: str, producer: BaseNode, key: str, first: int, last: int) -> tfx.dsl.Resolver:
    # By the id of the producer: its output channel would hold the artifacts of this run only.
    channel = tfx.dsl.Channel(
        type=producer.outputs[key].type, producer_component_id=producer.id, output_key=key
    )
    return tfx.dsl.Resolver(
        strategy_class=Spans, config={"first": first, "last": last}, **{key: channel}
    ).with_id(name)


def _pipeline(
    nodes: Sequence[BaseNode], experiment: ExperimentConfig, place: Place
) -> tfx.dsl.Pipeline:
    return pipeline_of(
        nodes,
        experiment,
        pipeline_root=place.pipeline_root,
        metadata_path=place.metadata_path,
        enable_cache=place.enable_cache,
        beam_args=place.beam_args,
    )
