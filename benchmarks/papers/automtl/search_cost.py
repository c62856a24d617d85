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

An epoch of the size of UserBehavior, 520,000 rows of 3 fields for 4 tasks, is the median iteration
times the number of iterations; so is one of its MMoE. The search's 10 epochs are ten of them, and
the first iteration.
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
from tfmtl.declare.layout import LABELS, WEIGHTS, layout_of
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import by_hash
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROWS, DIM, FIELDS, VALUES, NUMBERS, IDS = 2_048, 64, 8, 3, 18, 20_000
PAIRS, QUICK_PAIRS = 20, 4
DERIVED = 3
AT_MOST = 10.0
BEHAVIOR_ROWS, BEHAVIOR_PAIRS = 520_000, 6

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

BEHAVIOR = dataclasses.replace(
    EXPERIMENT,
    name="user_behavior",
    problem=ProblemSpec(
        features=tuple(
            categorical(name, encoding="identity", size=IDS)
            for name in ("user", "item", "category")
        ),
        tasks=tuple(binary(name, label=name) for name in ("pv", "cart", "fav", "buy")),
    ),
    split=by_hash("user", shares=(0.8, 0.1, 0.1)),
)

Step = Callable[[int], object]


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the time of each kind of step, the ratios and the memory."""
    # The same seed gives the same weights, as in all training here, at some cost to both.
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    random = np.random.default_rng(options.seed)
    batches = [_batch(random, PROBLEM) for _ in range(8)]
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
    if not options.quick:
        del steps
        yield from _epochs(random)


def _epochs(random: np.random.Generator) -> Iterator[Result]:
    """The cost of an epoch of UserBehavior's size."""
    batches = [_batch(random, BEHAVIOR.problem) for _ in range(4)]
    steps = {"baseline": _trained(BEHAVIOR, batches), "search": _searched(batches, BEHAVIOR)}
    seconds = {name: np.empty(BEHAVIOR_PAIRS) for name in steps}
    for turn in range(BEHAVIOR_PAIRS):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            seconds[name][turn], _ = timed(steps[name], turn)
    count = BEHAVIOR_ROWS // ROWS
    for name, of_step in seconds.items():
        yield Result(
            f"user_behavior/{name}/epoch",
            count * float(np.median(of_step)),
            "s",
            runs=BEHAVIOR_PAIRS,
            note=f"{count} steps of {ROWS:,} rows, from {BEHAVIOR_PAIRS} that were timed",
        )
    yield _ratio("user_behavior/search_over_baseline", seconds["search"] / seconds["baseline"])


def _ratio(name: str, ratios: np.ndarray, **target: float) -> Result:
    low, high = np.quantile(ratios, [0.25, 0.75])
    note = f"half of the pairs are in {low:.3g} … {high:.3g}"
    return Result(name, float(np.median(ratios)), runs=len(ratios), note=note, **target)


def _trained(experiment: ExperimentConfig, batches: list[dict[str, tf.Tensor]]) -> Step:
    """A step of ordinary training, traced."""
    rows = _table_rows(experiment.problem)
    model = MultiTaskModel.build_from(experiment.problem, rows, experiment.model)
    compile_model(model, Training())
    model(batches[0])
    step = tf.function(lambda batch: model.train_step(batch), autograph=False)
    return _warm(lambda turn: step(batches[turn % len(batches)]))


def _searched(
    batches: list[dict[str, tf.Tensor]], experiment: ExperimentConfig = EXPERIMENT
) -> Step:
    """An iteration of the search after its warm-up, traced."""
    search = dataclasses.replace(SEARCH, warm_up_epochs=0)
    model = supernet_model(experiment, search, _table_rows(experiment.problem))
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


def _table_rows(problem: ProblemSpec) -> dict[str, int]:
    return {slots.feature.name: IDS for slots in layout_of(problem).ids}


def _batch(random: np.random.Generator, problem: ProblemSpec) -> dict[str, tf.Tensor]:
    """Random rows; each task's label is that of the task before, in a tenth of the rows."""
    layout, tasks = layout_of(problem), len(problem.tasks)
    labels = np.cumprod(random.random((ROWS, tasks)) < 0.1, axis=1)
    packed = {
        "ids_context": tf.constant(random.integers(0, IDS, (ROWS, layout.id_width))),
        LABELS: tf.constant(labels, tf.float32),
        WEIGHTS: tf.ones([ROWS, tasks]),
    }
    if layout.number_width:
        numbers = random.normal(size=(ROWS, layout.number_width))
        packed["numbers_context"] = tf.constant(numbers, tf.float32)
    return packed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, rows and networks")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, arguments=add_arguments))
