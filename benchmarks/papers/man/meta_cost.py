"""The cost of meta-training: a meta-step relative to plain steps on the same number of rows.

The model is an MMoE of 8 experts (512, 256) over 16 categorical features (embeddings of 16,
1,000,000 ids in all) with 2 tasks. The rows are random. A meta-task has 2,048 rows, and half of
them are for adapting. A meta-step has one meta-task or four, and is compared with one plain step
of 2,048 rows, or four. The arms are first and second order, adapting only dense weights
(`no_embedding`) or looked-up rows as well (`all`).

All train the same weights on the same rows, in turns of random order, so that other load affects
all of them. The result is the median over turns of the ratio to the plain steps of the same turn.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks.contract import Result, main
from benchmarks.turns import in_turns
from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.meta import INNER_PARAMS, Meta
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.meta.tasks import OBJECTIVES, QUERY, SUPPORT
from tfmtl.meta.train import MetaLearner
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROWS, FIELDS, IDS, DIM = 2_048, 16, 1_000_000, 16
COUNTS = (1, 4)
TURNS, QUICK_TURNS = 15, 3
NAMES = tuple(f"field_{i}" for i in range(FIELDS))
TABLE_ROWS = dict.fromkeys(NAMES, IDS // FIELDS)
PROBLEM = ProblemSpec(
    features=tuple(categorical(name, encoding="identity", size=IDS // FIELDS) for name in NAMES),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
)


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the time of the plain steps and each meta-step's ratio to it, per number of tasks."""
    turns = QUICK_TURNS if options.quick else TURNS
    keras.utils.set_random_seed(options.seed)
    network = Model(
        backbone={"name": "mmoe", "num_experts": 8, "expert_units": (512, 256)}, dim=DIM
    )
    model = MultiTaskModel.build_from(PROBLEM, TABLE_ROWS, network)
    compile_model(model, Training())
    random = np.random.default_rng(options.seed)
    for count in COUNTS:
        tasks = _tasks(random, count)
        calls = {"plain": _plain(model, tasks, count)}
        for which in INNER_PARAMS:
            for order in (1, 2):
                meta = Meta(tasks_per_step=count, inner_params=which, second_order=order == 2)
                calls[f"{which}/order_{order}"] = _meta(model, meta, tasks)
        # The first turn traces the graph, the second is a warm-up without tracing. Neither is
        # timed.
        seconds = in_turns(calls, turns, untimed=2)
        plain = seconds.pop("plain")
        name = f"meta/{count}_tasks"
        yield Result(f"{name}/plain", 1e3 * float(np.median(plain)), "ms", runs=turns)
        for step, taken in seconds.items():
            ratios = taken / plain
            low, high = np.quantile(ratios, [0.25, 0.75])
            yield Result(
                f"{name}/{step}",
                float(np.median(ratios)),
                "plain steps",
                runs=turns,
                note=f"{1e3 * np.median(taken):.0f} ms; half of the turns are in "
                f"{low:.2f} … {high:.2f}",
            )


def _tasks(random: np.random.Generator, count: int) -> dict:
    def half():
        shape = (count, ROWS // 2)
        return {
            "ids_context": tf.constant(
                random.integers(0, IDS // FIELDS, (*shape, FIELDS)), tf.int32
            ),
            LABELS: tf.constant(random.integers(0, 2, (*shape, 2)), tf.float32),
            WEIGHTS: tf.ones([*shape, 2]),
        }

    return {SUPPORT: half(), QUERY: half(), OBJECTIVES: tf.ones([count, 2], tf.bool)}


def _plain(model: MultiTaskModel, tasks: dict, count: int) -> Callable:
    """One plain step per meta-task, on its rows."""
    both = {
        name: tf.concat([value, tasks[QUERY][name]], axis=1)
        for name, value in tasks[SUPPORT].items()
    }
    batches = [{name: value[i] for name, value in both.items()} for i in range(count)]
    model(batches[0])
    step = tf.function(model.train_step)
    return lambda turn: [step(batch) for batch in batches]


def _meta(model: MultiTaskModel, meta: Meta, tasks: dict) -> Callable:
    step = tf.function(MetaLearner(model, meta).train_step)
    return lambda turn: step(tasks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and rows")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
