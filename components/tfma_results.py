"""Our metrics and verdict as TensorFlow Model Analysis knows them.

`tfma.load_eval_result` and `tfma.load_validation_result` open what `write` leaves, and
`eval_config` is the experiment's slices, metrics and thresholds as TFX's own Evaluator reads
them. Metrics TFMA has no class for (GAUC, NE, ECE, R²) appear in the results only.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow_model_analysis.metrics.metric_types import MetricKey
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2, validation_result_pb2
from tensorflow_model_analysis.slicer import slicer_lib
from tensorflow_model_analysis.writers import metrics_plots_and_validations_writer as tfma_writer

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.evaluation.blessing import Reason, Verdict
from tfmtl.evaluation.bounds import Bound, bounds
from tfmtl.evaluation.evaluate import slicings
from tfmtl.metrics.metric import Metric, metrics_of
from tfmtl.metrics.sliced import SlicedMetrics, split_name

CANDIDATE, BASELINE = "candidate", "baseline"


def eval_config(
    problem: ProblemSpec, evaluation: Evaluation, *, baseline: bool = False
) -> config_pb2.EvalConfig:
    """The experiment's evaluation as a TFMA configuration.

    A task's sample space becomes its example weight, which TFMA reads from the label's column;
    its own weight column is for the loss alone.

    Args:
        problem: Gives tasks, labels, spaces and the scene.
        evaluation: Gives slices and thresholds.
        baseline: Whether there is an earlier model, to which the margins then apply.

    Raises:
        SpecError: A bound names no metric.
    """
    models = [CANDIDATE, BASELINE] if baseline else [""]
    config = config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name,
                signature_name="serving_default",
                is_baseline=name == BASELINE,
                label_keys={t.name: t.label for t in problem.served},
                # TFMA takes one column: first the one that says whether a row has a label at all.
                example_weight_keys={
                    t.name: t.labelled_if or t.observed_if
                    for t in problem.served
                    if t.labelled_if or t.observed_if
                },
            )
            for name in models
        ],
        slicing_specs=_slicing_specs(problem, evaluation),
        metrics_specs=[_metrics_spec(problem, evaluation, task, models) for task in problem.served],
    )
    # A model's compiled metrics would need weights of every output.
    config.options.include_default_metrics.value = False
    return config


def metric_key(
    problem: ProblemSpec, name: str, *, model: str = "", diff: bool = False
) -> MetricKey:
    """The TFMA key of one of our metrics: output `cvr`, name `auc@click`.

    Metrics that TFMA computes too are keyed as weighted by their sample space or not, as there.
    """
    name_of_task, short, _ = split_name(name)
    weighted = None
    for task in problem.tasks:
        if task.name == name_of_task and any(m.name == short for m in _tfma_metrics(task)):
            weighted = task.observed_if is not None
    key = MetricKey(
        name=name.partition("/")[2],
        model_name=model,
        output_name=name_of_task,
        example_weighted=weighted,
    )
    return key.make_diff_key() if diff else key


def write(
    folder: str,
    *,
    problem: ProblemSpec,
    evaluation: Evaluation,
    candidate: SlicedMetrics,
    baseline: SlicedMetrics | None,
    verdict: Verdict,
    data: str,
    models: Mapping[str, str],
) -> None:
    """Writes configuration, metrics and verdict where TFMA looks for them.

    Args:
        folder: An existing folder.
        problem: What was evaluated.
        evaluation: How.
        candidate: Metrics of the model.
        baseline: Metrics of the last blessed model.
        verdict: What followed from them.
        data: Where the rows came from; shown only.
        models: Paths of the models by name (`""` or `candidate` and `baseline`); shown only.
    """
    run = config_pb2.EvalRun(
        eval_config=eval_config(problem, evaluation, baseline=baseline is not None),
        version=tfma.__version__,
        data_location=data,
        file_format="tfrecords",
        model_locations=dict(models),
    )
    with tf.io.gfile.GFile(os.path.join(folder, "eval_config.json"), "w") as file:
        file.write(json_format.MessageToJson(run))
    _write_records(
        os.path.join(folder, "metrics-00000-of-00001.tfrecord"),
        _metrics(problem, candidate, baseline),
    )
    result = validation_result(problem, evaluation, candidate, baseline, verdict)
    _write_records(os.path.join(folder, "validations.tfrecord"), [result])


def validation_result(
    problem: ProblemSpec,
    evaluation: Evaluation,
    candidate: SlicedMetrics,
    baseline: SlicedMetrics | None,
    verdict: Verdict,
) -> validation_result_pb2.ValidationResult:
    """The verdict in TFMA's form; a failure's message is our sentence."""
    model = CANDIDATE if baseline is not None else ""
    result = validation_result_pb2.ValidationResult(
        validation_ok=verdict.blessed, rubber_stamp=baseline is None
    )
    for spec in _slicing_specs(problem, evaluation):
        columns = tuple(spec.feature_keys)
        result.validation_details.slicing_details.add(
            slicing_spec=spec,
            num_matching_slices=sum(
                tuple(c for c, _ in key) == columns for key in candidate.slices
            ),
        )
    failing = {reason.slice for reason in verdict.reasons}
    for key in (key for key in candidate.slices if key in failing):
        validation = result.metric_validations_per_slice.add(
            slice_key=slicer_lib.serialize_slice_key(key)
        )
        for reason in verdict.reasons:
            if reason.slice == key:
                validation.failures.append(_failure(problem, reason, model))
    return result


def _tfma_metrics(task: Task) -> list[Metric[...]]:
    """The metrics of a task that TFMA computes too."""
    return [metric for metric in metrics_of(task) if metric.tfma is not None]


def _slicing_specs(problem: ProblemSpec, evaluation: Evaluation) -> list[config_pb2.SlicingSpec]:
    keys = [(), *slicings(problem, evaluation)]
    return [config_pb2.SlicingSpec(feature_keys=columns) for columns in keys]


def _metrics_spec(
    problem: ProblemSpec, evaluation: Evaluation, task: Task, models: list[str]
) -> config_pb2.MetricsSpec:
    thresholds = _thresholds(problem, evaluation, task, with_margin=len(models) > 1)
    spec = config_pb2.MetricsSpec(
        model_names=models,
        output_names=[task.name],
        # Both are given: else TFMA drops the tasks without a weight where another task has one.
        example_weights=config_pb2.ExampleWeightOptions(
            weighted=task.observed_if is not None, unweighted=task.observed_if is None
        ),
    )
    space = problem.space_of(task)
    for metric in _tfma_metrics(task):
        name = f"{metric.name}@{space}"
        spec.metrics.add(
            class_name=metric.tfma,
            config=json.dumps({"name": name, **metric.tfma_arguments}),
            per_slice_thresholds=thresholds.pop(name, []),
        )
    for name, rest in thresholds.items():
        spec.per_slice_thresholds[name].thresholds.extend(rest)
    return spec


def _thresholds(
    problem: ProblemSpec, evaluation: Evaluation, task: Task, *, with_margin: bool
) -> dict[str, list[config_pb2.PerSliceMetricThreshold]]:
    everywhere, in_slices = bounds(problem, evaluation)
    specs = _slicing_specs(problem, evaluation)
    auc = problem.metric_name(task, "auc")
    thresholds: dict[str, list[config_pb2.PerSliceMetricThreshold]] = {}
    for slicing, declared, fall in (
        (specs[:1], everywhere, evaluation.max_fall),
        (specs[1:], in_slices, evaluation.max_slice_fall),
    ):
        values = {b.metric: b for b in declared if split_name(b.metric)[0] == task.name}
        margin = with_margin and task.kind == "binary"
        for name in dict.fromkeys([*values, *([auc] if margin else [])]):
            if not slicing:
                continue
            threshold = config_pb2.MetricThreshold()
            if name in values:
                threshold.value_threshold.CopyFrom(_value_threshold(values[name]))
            if margin and name == auc:
                threshold.change_threshold.CopyFrom(_change_threshold(fall))
            thresholds.setdefault(name.partition("/")[2], []).append(
                config_pb2.PerSliceMetricThreshold(slicing_specs=slicing, threshold=threshold)
            )
    return thresholds


def _value_threshold(bound: Bound) -> config_pb2.GenericValueThreshold:
    threshold = config_pb2.GenericValueThreshold()
    if bound.lower is not None:
        threshold.lower_bound.value = bound.lower
    if bound.upper is not None:
        threshold.upper_bound.value = bound.upper
    return threshold


def _change_threshold(max_fall: float) -> config_pb2.GenericChangeThreshold:
    threshold = config_pb2.GenericChangeThreshold(direction=config_pb2.HIGHER_IS_BETTER)
    threshold.absolute.value = -max_fall
    return threshold


def _failure(
    problem: ProblemSpec, reason: Reason, model: str
) -> validation_result_pb2.ValidationFailure:
    fell = reason.max_fall is not None
    failure = validation_result_pb2.ValidationFailure(message=reason.sentence)
    key = metric_key(problem, reason.metric, model=model, diff=fell)
    failure.metric_key.CopyFrom(key.to_proto())
    if reason.max_fall is not None and reason.baseline is not None:
        failure.metric_value.double_value.value = reason.value - reason.baseline
        failure.metric_threshold.change_threshold.CopyFrom(_change_threshold(reason.max_fall))
    elif reason.bound is not None:
        failure.metric_value.double_value.value = reason.value
        failure.metric_threshold.value_threshold.CopyFrom(_value_threshold(reason.bound))
    return failure


def _metrics(
    problem: ProblemSpec, candidate: SlicedMetrics, baseline: SlicedMetrics | None
) -> Iterator[metrics_for_slice_pb2.MetricsForSlice]:
    for key, values in candidate.slices.items():
        if baseline is None:
            keyed = {metric_key(problem, n): v for n, v in values.items()}
        else:
            keyed = {metric_key(problem, n, model=CANDIDATE): v for n, v in values.items()}
            for name, before in baseline.slices.get(key, {}).items():
                keyed[metric_key(problem, name, model=BASELINE)] = before
                change = values.get(name, math.nan) - before
                keyed[metric_key(problem, name, model=CANDIDATE, diff=True)] = change
        yield tfma_writer.convert_slice_metrics_to_proto((key, keyed), None)


def _write_records(path: str, messages: Iterable[Any]) -> None:
    with tf.io.TFRecordWriter(path) as records:
        for message in messages:
            records.write(message.SerializeToString())
