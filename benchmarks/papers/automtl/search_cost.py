"""The cost of an iteration of the architecture search, in training steps of a baseline.

The search is the paper's: 13 interactions, and 8 experts of one of 4 poolings and 3 of 13 layers,
for two tasks, with dim 64 and batches of 2,048. An iteration includes all work for one batch of
training rows and one of validation rows: both gradients, the test of their directions and all
updates. The baseline is an MMoE of 8 experts (512, 256) with the same embedding and towers. So the
ratio is that of a search to one training with as many epochs. There is also the ratio to a step of
derived networks, drawn from the search space.

Rows are random, in the shape of the simulated log: 9 categorical features, one with 3 values per
row, and 18 numbers as one joint field. The steps run in turns with alternating order, so that
other load affects both. The result is the median of the pairs' ratios. The ratio of processor
seconds is given too: it does not depend on other load, nor on how well two cores are used. Memory
is the peak of the process after each kind of step, the baseline's first.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks.contract import Result, main
from benchmarks.turns import peak_memory, timed
from tfmtl.automtl.bilevel import Bilevel, Schedule, supernet_model
from tfmtl.automtl.derive import sample
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import by_hash
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROWS, DIM, FIELDS, VALUES, NUMBERS, IDS = 2_048, 64, 8, 3, 18, 20_000
PAIRS, QUICK_PAIRS = 20, 4
DERIVED = 3
AT_MOST = 10.0

PROBLEM = ProblemSpec(
    features=(
        *(categorical(f"field_{i}", encoding="identity", size=IDS) for i in range(FIELDS)),
        categorical("values", encoding="identity", size=IDS, max_values=VALUES),
        *(numerical(f"number_{i}") for i in range(NUMBERS)),
    ),
    tasks=(binary("ctr", label="click"), binary("ctcvr", label="conversion")),
)
SEARCH = AutoMTL()
EXPERIMENT = ExperimentConfig(
    name="search_cost",
    problem=PROBLEM,
    split=by_hash("field_0", shares=(0.8, 0.1, 0.1)),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 8, "expert_units": (512, 256)},
        dim=DIM,
        tower_units=SEARCH.tower_units,
    ),
    search=SEARCH,
)

Step = Callable[[int], object]


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the time of each kind of step, the ratios and the memory."""
    # The same seed gives the same weights, as in all training here, at some cost to both.
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    random = np.random.default_rng(options.seed)
    batches = [_batch(random) for _ in range(8)]
    pairs = QUICK_PAIRS if options.quick else PAIRS
    steps = {"baseline": _trained(EXPERIMENT, batches)}
    memory = {"baseline": peak_memory() / 1e9}
    for i in range(DERIVED):
        drawn = sample(random, SEARCH, PROBLEM.task_names)
        steps[f"derived_{i}"] = _trained(drawn.apply(EXPERIMENT), batches)
    memory["derived"] = peak_memory() / 1e9
    started = time.perf_counter()
    steps["search"] = _searched(batches)
    traced = time.perf_counter() - started
    # For each turn, the seconds by the clock and of the processors.
    spent = {name: np.empty((pairs, 2)) for name in steps}
    for turn in range(pairs):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            spent[name][turn] = timed(steps[name], turn)
    memory["search"] = peak_memory() / 1e9
    derived = np.mean([spent[name] for name in steps if name.startswith("derived")], axis=0)
    times = {"baseline": spent["baseline"], "derived": derived, "search": spent["search"]}
    for name, seconds in times.items():
        note = f"{traced:.0f} s until the first iteration is done" if name == "search" else ""
        step = 1e3 * float(np.median(seconds[:, 0]))
        yield Result(f"search/{name}/step", step, "ms", runs=pairs, note=note)
    for name, bound in (("baseline", AT_MOST), ("derived", None)):
        by_clock, by_processors = (times["search"] / times[name]).T
        yield _ratio(f"search/over_{name}", by_clock, at_most=bound)
        yield _ratio(f"search/over_{name}/processors", by_processors)
    for name, peak in memory.items():
        yield Result(f"search/{name}/memory", peak, "GB", note="peak of the process so far")


def _ratio(name: str, ratios: np.ndarray, **target: float) -> Result:
    low, high = np.quantile(ratios, [0.25, 0.75])
    note = f"half of the pairs are in {low:.3g} … {high:.3g}"
    return Result(name, float(np.median(ratios)), runs=len(ratios), note=note, **target)


def _trained(experiment: ExperimentConfig, batches: list[dict[str, tf.Tensor]]) -> Step:
    """A step of ordinary training, traced."""
    model = MultiTaskModel.build_from(PROBLEM, _table_rows(), experiment.model)
    compile_model(model, Training())
    model(batches[0])
    step = tf.function(lambda batch: model.train_step(batch), autograph=False)
    return _warm(lambda turn: step(batches[turn % len(batches)]))


def _searched(batches: list[dict[str, tf.Tensor]]) -> Step:
    """An iteration of the search after its warm-up, traced."""
    search = dataclasses.replace(SEARCH, warm_up_epochs=0)
    model = supernet_model(EXPERIMENT, search, _table_rows())
    model(batches[0])
    bilevel = Bilevel(model, search, Schedule(search, steps=1_000))
    count = len(batches)
    return _warm(
        lambda turn: bilevel.step(batches[turn % count], batches[(turn + 1) % count], turn)
    )


def _warm(step: Step) -> Step:
    # The first call traces the graph; the second is the first without tracing.
    for turn in range(2):
        timed(step, turn)
    return step


def _table_rows() -> dict[str, int]:
    names = (*(f"field_{i}" for i in range(FIELDS)), "values")
    return dict.fromkeys(names, IDS)


def _batch(random: np.random.Generator) -> dict[str, tf.Tensor]:
    clicked = random.random(ROWS) < 0.1
    bought = clicked & (random.random(ROWS) < 0.1)
    return {
        "ids_context": tf.constant(random.integers(0, IDS, (ROWS, FIELDS + VALUES))),
        "numbers_context": tf.constant(random.normal(size=(ROWS, NUMBERS)), tf.float32),
        LABELS: tf.constant(np.stack([clicked, bought], axis=1), tf.float32),
        WEIGHTS: tf.ones([ROWS, 2]),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, rows and networks")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
