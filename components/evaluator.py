"""Judges a model on the test split: exact metrics per task and slice, and a blessing.

This is our own component because TensorFlow Model Analysis (TFMA) is not exact where ranking
needs it and slow: its AUC has 10,000 thresholds on the probability and loses 0.003 at
conversion rates, and it spends Python code on each example (about 1,100 rows per second and
core). Everything around stays as TFX knows it: the configuration is a TFMA `EvalConfig`
(`components.tfma_results`), `tfma.load_eval_result` and `tfma.load_validation_result` open the
results, and the artifacts are the standard ModelEvaluation and ModelBlessing, which Pusher and
LatestBlessedModelStrategy read.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.system_executions import Evaluate
from tfx.utils import io_utils, path_utils
from tqdm import tqdm

from components import tfma_results
from components.model_blessing import mark
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError
from tfmtl.evaluation import reliability
from tfmtl.evaluation.blessing import Verdict, bless
from tfmtl.evaluation.bounds import bounds
from tfmtl.evaluation.evaluate import Predict, Rows, SlicedMetrics, collect, format_table, measure

BATCH_SIZE = 8192
METRICS_FILE = "metrics.json"
BASELINE_METRICS_FILE = "baseline_metrics.json"
VERDICT_FILE = "verdict.json"
RELIABILITY_FILE = "reliability.png"


class RankingEvaluatorSpec(ComponentSpec):
    """Inputs, outputs and parameters of `RankingEvaluator`."""

    PARAMETERS = {
        "experiment": ExecutionParameter(type=str),
        "example_splits": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    TYPE_ANNOTATION = Evaluate


class Executor(base_executor.BaseExecutor):
    """Evaluates the model and the last blessed one on the same rows."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes metrics, verdict and plot, and marks the blessing.

        Args:
            input_dict: `examples`, `model` and perhaps `baseline_model`.
            output_dict: `evaluation` and `blessing`.
            exec_properties: `experiment`, JSON of an `ExperimentConfig`, and `example_splits`,
                a JSON list.
        """
        experiment = ExperimentConfig.from_json(exec_properties["experiment"])
        problem, evaluation = experiment.problem, experiment.evaluation
        splits = json.loads(exec_properties["example_splits"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        baselines = input_dict.get("baseline_model") or []
        uris = [
            uri
            for split in splits
            for uri in artifact_utils.get_split_uris(input_dict["examples"], split)
        ]
        files = [os.path.join(uri, n) for uri in uris for n in sorted(tf.io.gfile.listdir(uri))]

        rows = _collect(model, files, experiment, "Evaluating")
        candidate = measure(rows, problem, evaluation)
        baseline, why_not = _baseline(baselines, files, experiment)
        verdict = bless(candidate, baseline, problem, evaluation, without_baseline=why_not)

        folder = artifact_utils.get_single_uri(output_dict["evaluation"])
        tf.io.gfile.makedirs(folder)
        locations = {"": model.uri}
        if baseline is not None:
            locations = {
                tfma_results.CANDIDATE: model.uri,
                tfma_results.BASELINE: baselines[0].uri,
            }
        tfma_results.write(
            folder,
            problem=problem,
            evaluation=evaluation,
            candidate=candidate,
            baseline=baseline,
            verdict=verdict,
            data=", ".join(uris),
            models=locations,
        )
        _write_own(folder, experiment, rows, candidate, baseline, verdict)
        mark(
            artifact_utils.get_single_instance(output_dict["blessing"]),
            blessed=verdict.blessed,
            model=model,
            baseline=baselines[0] if baselines else None,
            component=exec_properties.get("current_component_id", ""),
        )
        logging.info(
            "Metrics on %s:\n%s", "+".join(splits), format_table(candidate, experiment.problem)
        )
        log = logging.info if verdict.blessed else logging.warning
        log("%s", verdict.describe())


class RankingEvaluator(base_component.BaseComponent):
    """Evaluates and blesses a model; a drop-in for TFX's Evaluator.

    Args:
        examples: Examples with the split to judge on, raw columns and labels.
        model: The model; its `serving_default` signature maps serialised tf.Examples to one
            output per task.
        experiment: Problem, slices, bounds and margins.
        baseline_model: The last blessed model, from a Resolver with
            `LatestBlessedModelStrategy`; empty at the first run.
        example_splits: Splits to judge on.

    Raises:
        SpecError: A bound names no metric.
    """

    SPEC_CLASS = RankingEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        experiment: ExperimentConfig,
        baseline_model: types.BaseChannel | None = None,
        example_splits: Iterable[str] = ("test",),
    ):
        # A wrong bound should be known before hours of training, not after.
        bounds(experiment.problem, experiment.evaluation)
        super().__init__(
            RankingEvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                experiment=experiment.to_json(),
                example_splits=json.dumps(list(example_splits)),
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )


def read_examples(files: list[str], *, batch_size: int = BATCH_SIZE) -> tf.data.Dataset:
    """Batches of serialised tf.Examples, string `[B]`, from TFRecords, gzipped where named so."""
    dataset = tf.data.Dataset.from_tensor_slices(files).flat_map(
        lambda file: tf.data.TFRecordDataset(
            file,
            compression_type=tf.where(tf.strings.regex_full_match(file, r".*\.gz"), "GZIP", ""),
        )
    )
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def load_predict(path: str) -> Predict:
    """The `serving_default` signature of a SavedModel as a function of serialised tf.Examples.

    Raises:
        DataError: It has no such signature, or one with several inputs.
    """
    model = tf.saved_model.load(path)
    if "serving_default" not in model.signatures:
        raise DataError(
            f"the model in {path} has no signature 'serving_default'; it has "
            f"{sorted(model.signatures)}."
        )
    inputs = model.signatures["serving_default"].structured_input_signature[1]
    if len(inputs) != 1:
        raise DataError(
            f"signature 'serving_default' of {path} takes {sorted(inputs)}; one input with "
            "serialised tf.Examples would be right."
        )
    (name,) = inputs
    return lambda batch: model.signatures["serving_default"](**{name: batch})


def saved_model_path(model: types.Artifact) -> str:
    """Folder of the SavedModel that serves, in a Model artifact."""
    return path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model))


def _collect(
    model: types.Artifact,
    files: list[str],
    experiment: ExperimentConfig,
    title: str,
    *,
    partial: bool = False,
) -> Rows:
    return collect(
        load_predict(saved_model_path(model)),
        _with_progress(read_examples(files), title),
        experiment.problem,
        experiment.evaluation,
        partial=partial,
    )


def _baseline(
    models: list[types.Artifact], files: list[str], experiment: ExperimentConfig
) -> tuple[SlicedMetrics | None, str]:
    if not models:
        return None, "There is no earlier blessed model to compare with."
    try:
        rows = _collect(
            models[0], files, experiment, "Evaluating the last blessed model", partial=True
        )
    except (OSError, TypeError, ValueError, tf.errors.OpError) as error:
        # An older model may not know today's columns; that must not stop the new one.
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        return None, f"The last blessed model does not run on these rows: {cause}"
    return measure(rows, experiment.problem, experiment.evaluation), ""


def _with_progress(dataset: tf.data.Dataset, title: str) -> Iterator[tf.Tensor]:
    # disable=None: no bar where the output is a file.
    with tqdm(desc=title, unit=" rows", unit_scale=True, disable=None) as bar:
        for batch in dataset:
            yield batch
            bar.update(len(batch))


def _write_own(
    folder: str,
    experiment: ExperimentConfig,
    rows: Rows,
    candidate: SlicedMetrics,
    baseline: SlicedMetrics | None,
    verdict: Verdict,
) -> None:
    files = {
        METRICS_FILE: candidate.to_json(),
        VERDICT_FILE: json.dumps(verdict.to_json(), indent=1, allow_nan=False),
    }
    if baseline is not None:
        files[BASELINE_METRICS_FILE] = baseline.to_json()
    for name, text in files.items():
        io_utils.write_string_file(os.path.join(folder, name), text)
    figure = reliability.draw(rows, experiment.problem)
    if figure is not None:
        write_figure(figure, os.path.join(folder, RELIABILITY_FILE))


def write_figure(figure: Any, path: str) -> None:
    """Writes a matplotlib figure as a PNG image, on whatever file system TensorFlow knows."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(image.getvalue())
