"""The cost of a replayed request for the served model: counted multiply-adds, measured time."""

import itertools
import os
import time

import numpy as np
import tensorflow as tf
from absl import logging
from tfx.utils import io_utils

from components.evaluator import read_examples
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.evaluation.evaluate import Predict

TIMED = 30
WARM_UP = 5


def request_cost(path: str, predict: Predict, examples: str, *, ads: int) -> dict[str, float]:
    """The cost of a request with `ads` ads.

    Args:
        path: A SavedModel. `tfmtl.serving.export` writes the experiment beside it, from which the
            multiply-adds are counted. For other SavedModels only the time is known.
        predict: Its `serving_default` signature.
        examples: TFRecords to score.
        ads: Ads per request.

    Returns:
        `ms_per_request_by_pairs`: the median time of `serving_default` on this machine, from
        serialised tf.Examples. This signature computes the user's vector once per pair; for
        separate towers see `benchmarks.papers.early_stage.towers`. `macs_per_request`: the
        multiply-adds. `macs_per_request_cached`, for a two-tower model: the multiply-adds if all
        ad vectors are cached.
    """
    seconds = []
    batches = read_examples([examples], batch_size=ads).take(TIMED + WARM_UP)
    for batch in itertools.islice(itertools.cycle(list(batches)), TIMED + WARM_UP):
        start = time.perf_counter()
        outputs = predict(batch)
        for value in outputs.values():
            value.numpy()
        seconds.append(time.perf_counter() - start)
    costs = {"ms_per_request_by_pairs": 1e3 * float(np.median(seconds[WARM_UP:]))}
    return costs | _multiply_adds(os.path.join(path, "assets.extra", "experiment.json"), ads)


def _multiply_adds(experiment: str, ads: int) -> dict[str, float]:
    if not tf.io.gfile.exists(experiment):
        return {}
    # Imported here: counting builds a model, which other users of this module do not need.
    from tfmtl.declare.layout import table_rows_of
    from tfmtl.model.multitask import MultiTaskModel
    from tfmtl.serving.cost import cost_of, request_macs

    declared = ExperimentConfig.from_json(io_utils.read_string_file(experiment))
    # Look-ups cost no multiply-adds, so the size of a vocabulary does not matter.
    rows = table_rows_of(declared.problem, lambda vocabulary: 1)
    try:
        cost = cost_of(MultiTaskModel.build_from(declared.problem, rows, declared.model))
    except NotImplementedError as error:
        logging.warning("Multiply-adds are not counted: %s", error)
        return {}
    costs = {"macs_per_request": request_macs([cost], ads=ads)}
    if cost.ad:
        costs["macs_per_request_cached"] = request_macs([cost], ads=ads, cached=1.0)
    return costs
