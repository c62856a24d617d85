"""The cost of balancing: a training step of an MMoE with each balancer, relative to a plain step.

The model is an MMoE of 8 experts (512, 256) over 16 categorical features (embeddings of 32,
1,000,000 ids in all), with 2 and with 4 tasks. The rows are random, with 2,048 per batch. The
plain step uses the balancer `fixed`. A method that computes the gradient of each of K tasks may
cost K + 1 plain steps.

All steps train the same weights on the same batches, in turns of random order, so that other load
on the machine affects all of them. The result is the median over turns of the ratio to the plain
step of the same turn.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks.contract import Result, main
from benchmarks.turns import in_turns
from tfmtl import registry
from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROWS, FIELDS, IDS, DIM = 2_048, 16, 1_000_000, 32
TASKS = (2, 4)
TURNS, QUICK_TURNS = 15, 4
PLAIN = "fixed"


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the time of the plain step and each balancer's ratio to it, per number of tasks."""
    turns = QUICK_TURNS if options.quick else TURNS
    for count in TASKS:
        keras.utils.set_random_seed(options.seed)
        model = _model(count)
        batches = [_batch(count, seed) for seed in range(4)]
        model(batches[0])
        steps = {name: _traced(model, name, batches) for name in registry.names("balancer")}
        seconds = in_turns(steps, turns)
        plain = seconds.pop(PLAIN)
        yield Result(
            f"balancers/{count}_tasks/{PLAIN}", 1e3 * float(np.median(plain)), "ms", runs=turns
        )
        for name, taken in seconds.items():
            ratios = taken / plain
            low, high = np.quantile(ratios, [0.25, 0.75])
            yield Result(
                f"balancers/{count}_tasks/{name}",
                float(np.median(ratios)),
                "plain steps",
                at_most=count + 1,
                runs=turns,
                note=f"half of the turns are in {low:.2f} … {high:.2f}",
            )


def _model(count: int) -> MultiTaskModel:
    problem = ProblemSpec(
        features=tuple(
            categorical(f"field_{i}", encoding="identity", size=IDS // FIELDS)
            for i in range(FIELDS)
        ),
        tasks=tuple(binary(f"task_{k}", label=f"label_{k}") for k in range(count)),
    )
    rows = dict.fromkeys((f"field_{i}" for i in range(FIELDS)), IDS // FIELDS)
    backbone = {"name": "mmoe", "num_experts": 8, "expert_units": (512, 256)}
    return MultiTaskModel.build_from(problem, rows, Model(backbone=backbone, dim=DIM))


def _batch(count: int, seed: int) -> dict[str, tf.Tensor]:
    random = np.random.default_rng(seed)
    return {
        "ids_context": tf.constant(random.integers(0, IDS // FIELDS, (ROWS, FIELDS))),
        LABELS: tf.constant(random.integers(0, 2, (ROWS, count)), tf.float32),
        WEIGHTS: tf.ones([ROWS, count]),
    }


def _traced(
    model: MultiTaskModel, name: str, batches: list[dict[str, tf.Tensor]]
) -> Callable[[int], Any]:
    kinds = ["binary"] * len(model.balancer.tasks)
    model.balancer = registry.build("balancer", {"name": name}, model.balancer.tasks, kinds)
    compile_model(model, Training())
    step = tf.function(model.train_step)
    # The graph is traced with the current balancer. The second call is the first without tracing.
    for _ in range(2):
        step(batches[0])
    return lambda turn: step(batches[turn % len(batches)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and rows")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
