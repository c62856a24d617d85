"""Judges an early stage's model by its recall on replayed requests, beside the RankingEvaluator.

A metric of impressions tells little about an early stage, which ranks ads that mostly are never
shown (Wang et al., AdKDD 2023, §3.3). Here every row of the replay log is scored by the model
as it is served, and the ads it would pass on are held against those the final stage values most.
"""

import dataclasses
import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf
from absl import logging
from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.system_executions import Evaluate
from tfx.utils import io_utils
from tqdm import tqdm

from components.consistency_verdict import bounds, judge
from components.evaluator import load_predict, read_examples, saved_model_path, write_figure
from components.model_blessing import mark
from components.replay_gen import EXAMPLES_FILE, ReplayLog, parts_of, read_replay
from components.request_cost import request_cost
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError
from tfmtl.evaluation.blessing import Verdict
from tfmtl.metrics.bootstrap import PairedInterval
from tfmtl.metrics.tasks import normalized_entropy
from tfmtl.plain import finite
from tfmtl.replay import curve as recall_curve
from tfmtl.replay import log as replay
from tfmtl.replay.columns import column
from tfmtl.replay.recall import Ranking, rank
from tfmtl.replay.report import Consistency, compare, consistency_report, format_consistency

CONSISTENCY_FILE = "consistency.json"
VERDICT_FILE = "verdict.json"
CURVE_FILE = "recall_curve.png"
NAME = "ConsistencyEvaluator"


class ConsistencyEvaluatorSpec(ComponentSpec):
    """Inputs, outputs and parameters of `ConsistencyEvaluator`."""

    PARAMETERS = {"experiment": ExecutionParameter(type=str)}
    INPUTS = {
        "replay": ChannelParameter(type=ReplayLog),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
        "ranking_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    TYPE_ANNOTATION = Evaluate


class Executor(base_executor.BaseExecutor):
    """Scores the model and the last blessed one on the same replayed requests."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes consistency, verdict and the curve of recall, and marks the blessing.

        Args:
            input_dict: `replay`, `model`, and perhaps `baseline_model` and `ranking_blessing`.
            output_dict: `evaluation` and `blessing`.
            exec_properties: `experiment`, JSON of an `ExperimentConfig`.
        """
        experiment = ExperimentConfig.from_json(exec_properties["experiment"])
        declared, _ = parts_of(experiment)
        model = artifact_utils.get_single_instance(input_dict["model"])
        baselines = input_dict.get("baseline_model") or []
        blessings = input_dict.get("ranking_blessing") or []
        folder = artifact_utils.get_single_uri(input_dict["replay"])
        log, table = read_replay(folder, experiment)
        logging.info("%s", log)

        scores = _score(model, folder, table, experiment, "Replaying")
        candidate = before = difference = None
        other, why_not = _baseline(baselines, folder, table, experiment)
        if np.isfinite(scores.value).all():
            ranking = rank(log, scores.value)
            cost = _cost(model, folder, log)
            candidate = _measure(log, ranking, scores, experiment, cost)
            if other is not None:
                other_ranking = rank(log, other.value)
                before = _measure(log, other_ranking, other, experiment)
                difference = compare(log, other_ranking, ranking, _ks(experiment))
        verdict = judge(
            candidate,
            difference,
            declared,
            refused=any(not model_utils.is_model_blessed(blessing) for blessing in blessings),
            without_baseline=why_not,
        )
        _write(output_dict["evaluation"], candidate, before, difference, verdict)
        mark(
            artifact_utils.get_single_instance(output_dict["blessing"]),
            blessed=verdict.blessed,
            model=model,
            baseline=baselines[0] if baselines else None,
            component=NAME,
        )
        if candidate is not None:
            logging.info("%s", format_consistency(candidate))
        log_verdict = logging.info if verdict.blessed else logging.warning
        log_verdict("%s", verdict.describe())


class ConsistencyEvaluator(base_component.BaseComponent):
    """Evaluates and blesses an early stage's model on a replay log.

    Args:
        replay: The log, from `ReplayGen`.
        model: The model; its `serving_default` signature maps serialised tf.Examples to one
            output per task.
        experiment: Its `value` makes total values of predictions; its `replay` has K, slices,
            bounds and margin.
        baseline_model: The last blessed model; empty at the first run.
        ranking_blessing: The RankingEvaluator's, which this component's then presupposes:
            Pusher reads one blessing.

    Raises:
        SpecError: The experiment declares no replay, or a bound names no metric.
    """

    SPEC_CLASS = ConsistencyEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        replay: types.BaseChannel,
        model: types.BaseChannel,
        experiment: ExperimentConfig,
        baseline_model: types.BaseChannel | None = None,
        ranking_blessing: types.BaseChannel | None = None,
    ):
        declared, value = parts_of(experiment)
        # A wrong bound should be known before hours of training, not after.
        bounds(declared, with_cqs=declared.final_cqs is not None and value.cqs is not None)
        super().__init__(
            ConsistencyEvaluatorSpec(
                replay=replay,
                model=model,
                baseline_model=baseline_model,
                ranking_blessing=ranking_blessing,
                experiment=experiment.to_json(),
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )


class Scores(NamedTuple):
    """A model's scores of a log's rows.

    Args:
        value: `[n]`, total values.
        pctr: `[n]`, click-through rates.
        clicks: `[n]`, whether the value needs them.
        cqs: `[n]`, consolidated quality scores; `None` where quality does not count.
    """

    value: np.ndarray
    pctr: np.ndarray
    clicks: np.ndarray
    cqs: np.ndarray | None


def read_consistency(folder: str) -> Consistency | None:
    """The candidate's consistency in an evaluation's folder; `None` where none was measured."""
    plain = json.loads(io_utils.read_string_file(os.path.join(folder, CONSISTENCY_FILE)))
    return None if plain["candidate"] is None else Consistency.from_json(plain["candidate"])


def _score(
    model: types.Artifact, folder: str, table: pa.Table, experiment: ExperimentConfig, title: str
) -> Scores:
    _, value = parts_of(experiment)
    tasks = [value.ctr, *([value.cqs] if value.cqs else [])]
    path = saved_model_path(model)
    predict = load_predict(path)
    parts: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    # disable=None: no bar where the output is a file.
    with tqdm(
        total=table.num_rows, desc=title, unit=" rows", unit_scale=True, disable=None
    ) as progress:
        for batch in read_examples([os.path.join(folder, EXAMPLES_FILE)]):
            outputs = predict(batch)
            for task in tasks:
                if task not in outputs:
                    raise DataError(
                        f"the model in {path} has no output for task {task!r}, of which total "
                        f"value is made; it has {sorted(outputs)}."
                    )
                parts[task].append(np.reshape(outputs[task].numpy(), -1))
            progress.update(len(batch))
    predictions = {t: np.concatenate(batches).astype(np.float64) for t, batches in parts.items()}
    columns = {
        name: column(table, name, "the replay log")
        for name in (value.bid, value.objective, value.rate)
        if name in table.column_names
    }
    return Scores(
        value.of_rows(predictions, columns),
        predictions[value.ctr],
        value.needs(np.asarray(columns[value.objective]))[0],
        predictions.get(value.cqs or ""),
    )


def _baseline(
    models: list[types.Artifact], folder: str, table: pa.Table, experiment: ExperimentConfig
) -> tuple[Scores | None, str]:
    if not models:
        return None, "There is no earlier blessed model to compare with."
    try:
        scores = _score(models[0], folder, table, experiment, "Replaying the last blessed model")
    except (OSError, TypeError, ValueError, tf.errors.OpError) as error:
        # An older model may not know today's columns; that must not stop the new one.
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        return None, f"The last blessed model does not run on the replay log: {cause}"
    if not np.isfinite(scores.value).all():
        return None, "The last blessed model's total values of the replay log are not all finite."
    return scores, ""


def _measure(
    log: replay.ReplayLog,
    ranking: Ranking,
    scores: Scores,
    experiment: ExperimentConfig,
    cost: dict[str, float] | None = None,
) -> Consistency:
    quality: dict[str, Any] = {}
    also = dict(cost or {})
    if log.final_pctr is not None and scores.clicks.any():
        # Impressions' clicks are the RankingEvaluator's; here every retrieved ad has a label.
        asked = np.asarray(log.final_pctr)[scores.clicks], scores.pctr[scores.clicks]
        also["ne_of_final@retrieved"] = normalized_entropy(*asked, name="ne_of_final@retrieved")
    cqs = scores.cqs
    if cqs is not None and log.final_cqs is not None:
        # The log's own deviation: one unit for every model ever measured on it (our choice).
        std = float(np.std(np.asarray(log.final_cqs)))
        quality = {"early_cqs": cqs, "cqs_std": std} if std > 0 else {}
    return consistency_report(log, ranking, _ks(experiment), also=also, **quality)


def _cost(model: types.Artifact, folder: str, log: replay.ReplayLog) -> dict[str, float]:
    path = saved_model_path(model)
    ads = round(len(log) / len(log.requests))
    return request_cost(path, load_predict(path), os.path.join(folder, EXAMPLES_FILE), ads=ads)


def _ks(experiment: ExperimentConfig) -> list[int]:
    declared, _ = parts_of(experiment)
    return sorted({declared.k, *declared.ks})


def _write(
    evaluations: list[types.Artifact],
    candidate: Consistency | None,
    before: Consistency | None,
    difference: dict[str, PairedInterval] | None,
    verdict: Verdict,
) -> None:
    folder = artifact_utils.get_single_uri(evaluations)
    tf.io.gfile.makedirs(folder)
    arms = {"this model": candidate, "last blessed": before}
    plain: dict[str, Any] = {
        "candidate": candidate and candidate.to_json(),
        "baseline": before and before.to_json(),
        "difference": difference and {n: dataclasses.asdict(p) for n, p in difference.items()},
    }
    for name, content in ((CONSISTENCY_FILE, finite(plain)), (VERDICT_FILE, verdict.to_json())):
        text = json.dumps(content, indent=1, allow_nan=False)
        io_utils.write_string_file(os.path.join(folder, name), text)
    measured = {name: arm for name, arm in arms.items() if arm is not None}
    if measured:
        write_figure(recall_curve.draw(measured), os.path.join(folder, CURVE_FILE))
