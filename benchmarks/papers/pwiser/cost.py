"""The cost of PWiseR in a training step: an MMoE's step with the term and without it.

The model is an MMoE of 8 experts (512, 256) over 16 categorical features (embeddings of 128,
200,000 ids in all) and 63 numbers, for clicks and conversions after clicks. The rows are random,
with the rates of AliExpress: 2 % of clicks and about one conversion per batch of 2,048.

Both steps train the same weights on the same batches, in turns with alternating order, so that
other load affects both. The result is the median of the pairs' ratios. The term alone, its value
and gradient, is also timed and compared with the median plain step. A small difference of two long
times is lost in the noise of a shared machine, but a short time is not.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks.contract import Result, main
from benchmarks.turns import timed
from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.losses.pairwise import METHODS, pwiser
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROWS, FIELDS, NUMBERS, IDS = 2_048, 16, 63, 200_000
CLICKS, CONVERSIONS = 0.02, 0.0006
PAIRS, QUICK_PAIRS = 40, 8
CALLS = 100
SHARE = 0.05

PROBLEM = ProblemSpec(
    features=(
        *(
            categorical(f"field_{i}", encoding="identity", size=IDS // FIELDS)
            for i in range(FIELDS)
        ),
        *(numerical(f"number_{i}") for i in range(NUMBERS)),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("ctcvr", label="conversion"),
    ),
)
TERM = {"name": "pwiser", "weight": 0.1, "click": "ctr", "conversion": "ctcvr"}


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the times of the steps and their ratio, then the time of the term alone."""
    keras.utils.set_random_seed(options.seed)
    random = np.random.default_rng(options.seed)
    rows = dict.fromkeys((f"field_{i}" for i in range(FIELDS)), IDS // FIELDS)
    network = Model(
        backbone={"name": "mmoe", "num_experts": 8, "expert_units": (512, 256)},
        dim=128,
        terms=(TERM,),
    )
    model = MultiTaskModel.build_from(PROBLEM, rows, network)
    compile_model(model, Training())
    batches = [_batch(random) for _ in range(8)]
    model(batches[0])
    pairs = QUICK_PAIRS if options.quick else PAIRS
    plain, with_term = _timed_steps(model, batches, pairs)
    middle = float(np.median(plain))
    yield Result("pwiser/step/plain", 1e3 * middle, "ms", runs=pairs)
    yield Result("pwiser/step/with_term", 1e3 * float(np.median(with_term)), "ms", runs=pairs)
    ratios = with_term / plain - 1
    low, high = np.quantile(ratios, [0.25, 0.75])
    yield Result(
        "pwiser/step/added",
        float(np.median(ratios)),
        at_most=SHARE,
        runs=pairs,
        note=f"half of the pairs are in {low:+.3f} … {high:+.3f}",
    )
    for method in METHODS:
        seconds = _alone(method, model(batches[0])["ctr"], batches[0][LABELS])
        yield Result(
            f"pwiser/alone/{method}",
            seconds / middle,
            at_most=SHARE,
            runs=CALLS,
            note=f"{1e3 * seconds:.3g} ms for value and gradient, over the plain step",
        )


def _batch(random: np.random.Generator) -> dict[str, tf.Tensor]:
    clicked = random.random(ROWS) < CLICKS
    bought = clicked & (random.random(ROWS) < CONVERSIONS / CLICKS)
    # One at least: a batch without any would be no cheaper, but could be thought to be.
    clicked[0] = bought[0] = True
    return {
        "ids_context": tf.constant(random.integers(0, IDS // FIELDS, (ROWS, FIELDS))),
        "numbers_context": tf.constant(random.normal(size=(ROWS, NUMBERS)), tf.float32),
        LABELS: tf.constant(np.stack([clicked, bought], axis=1), tf.float32),
        WEIGHTS: tf.ones([ROWS, 2]),
    }


def _timed_steps(
    model: MultiTaskModel, batches: list[dict[str, tf.Tensor]], pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each step without and with the term."""
    steps = {}
    terms = list(model.terms)
    for kept in ([], terms):
        model.terms = kept
        step = tf.function(model.train_step)
        # The trace holds the terms of now; the second call is the first without a trace.
        for _ in range(2):
            step(batches[0])
        steps[len(kept)] = step
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(pairs):
        batch = batches[turn % len(batches)]
        for with_term in (0, 1) if turn % 2 else (1, 0):
            seconds[with_term].append(timed(steps[with_term], batch)[0])
    return np.array(seconds[0]), np.array(seconds[1])


def _alone(method: str, scores: tf.Tensor, labels: tf.Tensor) -> float:
    """Median seconds of the loss and its gradient for one batch."""

    @tf.function
    def step(scores, click, conversion):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = pwiser(scores, click, conversion, method=method)
        return tape.gradient(value, scores)

    arguments = scores, labels[:, 0], labels[:, 1]
    step(*arguments)
    return float(np.median([timed(step, *arguments)[0] for _ in range(CALLS)]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and rows")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
