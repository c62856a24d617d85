"""What a history is worth, and what it costs.

- `moving/…`: users whose taste moves (`tfmtl.simulator.moving_tastes_log`): the test AUC of
  `ctr@imp` without a history, with its mean, with DIN and others, of LightGBM on its matches, and
  of the true probabilities. `…/gain` are paired differences over seeds, with 95 % intervals.
- `plain/…`: the same with tastes that do not move, where the history says nothing new.
- `user_behavior/…`: raw rows of Taobao (`--data FOLDER`, which holds the folder `user_behavior`),
  histories built from the log itself; the task is whether the user buys, carts or marks an item of
  the viewed one's category within a day, with and without the history.
- `cost/…`: the time of a training step of MMoE (64, 32) with a history of 50 events and one of 100,
  divided by that of the same step without, at a batch of 2,048 and width 16.

Steps are timed in turns, so that a slow minute of the machine is shared by all.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from benchmarks.contract import Result, main, over_runs
from tfmtl.boosting.train import train_boosters
from tfmtl.data.histories import add_histories
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.histories import Histories
from tfmtl.declare.layout import LABELS, WEIGHTS, layout_of
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    event,
    numerical,
    sequence,
)
from tfmtl.declare.split import by_hash
from tfmtl.features.prepare import prepare
from tfmtl.metrics.tasks import auc
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.simulator import Constants, draw_world, moving_tastes_log
from tfmtl.training.epochs import compile_model

FOLDERS = ("data", "../data", "../shared/data")
POOLINGS = ("mean", "din", "target_attention", "tim", "bst")
QUICK_POOLINGS = ("mean", "din")
# Of Student's distribution, two-sided 95 %, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
CTR = binary("ctr", label="click")
IDS = (
    categorical("user_id", side="user", dtype="int64"),
    categorical("ad_id", side="ad", dtype="int64"),
    categorical("category", side="ad"),
    categorical("scene"),
    categorical("position", encoding="identity", size=12),
)
CLICKED = sequence(
    "clicked",
    events=(event("clicked_ads", of="ad_id"), event("clicked_categories", of="category")),
    time="clicked_times",
    row_time="time",
    order="oldest_first",
    max_length=20,
)
NETWORK = Model(
    backbone={"name": "mmoe", "num_experts": 4, "expert_units": (64, 32)}, dim=16, tower_units=(32,)
)


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields all measurements."""
    poolings = QUICK_POOLINGS if options.quick else POOLINGS
    impressions = 60_000 if options.quick else 300_000
    for world, strength in (("moving", 2.5), ("plain", 0.0)):
        chosen = poolings if world == "moving" else ("din",)
        yield from _simulated(world, strength, impressions, options.seeds, chosen)
    yield from _user_behavior(options)
    yield from _costs(options)


def _simulated(
    name: str, strength: float, impressions: int, seeds: int, poolings: Sequence[str]
) -> Iterator[Result]:
    aucs: dict[str, list[float]] = {}
    for seed in range(seeds):
        users = max(impressions // 300, 50)
        world = draw_world(seed, constants=Constants(users=users, ads=500, advertisers=50))
        log = moving_tastes_log(world, impressions=impressions, seed=seed, strength=strength)
        tables = _by_time(log)
        labels = tables["test"]["click"].to_numpy()
        best = auc(labels, tables["test"]["true_ctr"].to_numpy())
        measured = {"truth": best, "none": _network_auc(IDS, tables, seed)}
        for pooling in poolings:
            feature = dataclasses.replace(CLICKED, pooling={"name": pooling})
            measured[pooling] = _network_auc((*IDS, feature), tables, seed)
        if name == "moving":
            problem = ProblemSpec(features=(*IDS, CLICKED), tasks=(CTR,), request_id="request_id")
            trees = train_boosters(problem, tables, seed=seed, verbose=0, num_threads=1)
            measured["lightgbm"] = trees.evaluate(tables["test"])["ctr/auc@imp"]
        for part, value in measured.items():
            aucs.setdefault(part, []).append(value)
    for part, values in aucs.items():
        lifts = [(v - 0.5) / (t - 0.5) for v, t in zip(values, aucs["truth"], strict=True)]
        details = {"share_of_attainable_lift": statistics.fmean(lifts)}
        yield over_runs(f"{name}/{part}/ctr/auc@imp", values, details=details)
    for better, worse, low in (
        ("mean", "none", 0.0),
        ("din", "none", 0.0 if name == "moving" else -0.004),
        ("din", "mean", 0.0 if name == "moving" else None),
    ):
        if better in aucs and worse in aucs:
            yield _gain(f"{name}/{better} over {worse}/gain", aucs[better], aucs[worse], low)


def _gain(
    name: str, better: Sequence[float], worse: Sequence[float], at_least: float | None
) -> Result:
    """The mean paired difference, with its interval over seeds."""
    differences = [b - w for b, w in zip(better, worse, strict=True)]
    details: dict[str, Any] = {"by_seed": differences}
    if len(differences) > 1:
        half = T95.get(len(differences) - 1, 1.96) * statistics.stdev(differences)
        half /= len(differences) ** 0.5
        mean = statistics.fmean(differences)
        details |= {"interval_95": [mean - half, mean + half]}
    return over_runs(name, differences, at_least=at_least, details=details)


def _by_time(log: pa.Table) -> dict[str, pa.Table]:
    rows = log.num_rows
    ends = [0, int(0.7 * rows), int(0.85 * rows), rows]
    names = ("train", "validation", "test")
    return {n: log.slice(a, b - a) for n, a, b in zip(names, ends, ends[1:], strict=False)}


def _network_auc(features: Sequence[Any], tables: Mapping[str, pa.Table], seed: int) -> float:
    problem = ProblemSpec(features=tuple(features), tasks=(CTR,), request_id="request_id")
    prepared = prepare(problem, tables)
    experiment = ExperimentConfig(
        name="sequences",
        problem=problem,
        split=by_hash("request_id"),
        model=NETWORK,
        training=Training(epochs=8, batch_size=1024, learning_rate=1e-3, patience=1, seed=seed),
    )
    result = train(experiment, prepared.data, verbose=0)
    return result.model.evaluate(prepared.test.batches(4096))["ctr/auc@imp"]


def _user_behavior(options: argparse.Namespace) -> Iterator[Result]:
    folders = [options.data] if options.data else [os.path.join(f) for f in FOLDERS]
    path = next(
        (
            file
            for folder in folders
            if os.path.exists(
                file := os.path.join(folder, "user_behavior", "whole_histories.csv.gz")
            )
        ),
        None,
    )
    if path is None:
        return
    tables = _behaviour_tables(path)
    task = binary("act", label="acts")
    ids = (
        categorical("user", side="user", dtype="int64"),
        categorical("item", side="ad", dtype="int64", min_count=2),
        categorical("kind", side="ad", dtype="int64"),
    )
    history = sequence(
        "seen",
        events=(
            event("seen_items", of="item"),
            event("seen_kinds", of="kind"),
            event("seen_behaviours"),
        ),
        time="seen_times",
        row_time="time",
        order="oldest_first",
        max_length=30,
    )
    aucs: dict[str, list[float]] = {"none": [], "din": []}
    for seed in range(options.seeds):
        for name, features in (("none", ids), ("din", (*ids, history))):
            problem = ProblemSpec(features=features, tasks=(task,), space="view")
            prepared = prepare(problem, tables)
            experiment = ExperimentConfig(
                name="user_behavior",
                problem=problem,
                split=by_hash("user"),
                model=NETWORK,
                training=Training(epochs=10, batch_size=128, patience=2, seed=seed),
            )
            result = train(experiment, prepared.data, verbose=0)
            measured = result.model.evaluate(prepared.test.batches(4096))
            aucs[name].append(measured["act/auc@view"])
    for name, values in aucs.items():
        note = f"{tables['test'].num_rows} test rows of 43 users; a demonstration, no benchmark"
        yield over_runs(f"user_behavior/{name}/act/auc@view", values, note=note)
    yield _gain("user_behavior/din over none/gain", aucs["din"], aucs["none"], None)


def _behaviour_tables(path: str) -> dict[str, pa.Table]:
    """Views with their histories, and whether the user acts on the category within a day."""
    from pyarrow import csv

    names = ["user", "item", "kind", "behaviour", "time"]
    read = csv.ReadOptions(column_names=names)
    log = csv.read_csv(path, read_options=read).sort_by("time")
    made = Histories(
        user="user",
        time="time",
        columns={
            "seen_items": "item",
            "seen_kinds": "kind",
            "seen_behaviours": "behaviour",
            "seen_times": "time",
        },
        length=30,
    )
    frame = add_histories(log, made).to_pandas()
    acted = frame[frame.behaviour != "pv"].groupby(["user", "kind"])["time"].apply(np.array)
    views = frame[frame.behaviour == "pv"]
    pairs = zip(views.user, views.kind, views.time, strict=True)
    views = views.assign(
        acts=[float(_within_a_day(acted.get((user, kind)), at)) for user, kind, at in pairs]
    )
    return _by_time(pa.Table.from_pandas(views.sort_values("time"), preserve_index=False))


def _within_a_day(times: Any, at: int) -> bool:
    return times is not None and bool(((times > at) & (times <= at + 86_400)).any())


def _costs(options: argparse.Namespace) -> Iterator[Result]:
    batch_size, steps = 2048, 8 if options.quick else 30
    poolings = ("mean", "din", "target_attention") if options.quick else POOLINGS
    makers = {"none": (None, 0)}
    for pooling in poolings:
        makers[pooling] = (pooling, 50)
        if not options.quick:
            makers[f"{pooling}/100"] = (pooling, 100)
    runs = {name: _step(pooling, length, batch_size) for name, (pooling, length) in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(steps + 3):
        for name, step in runs.items():
            start = time.perf_counter()
            step()
            if turn >= 3:
                seconds[name].append(time.perf_counter() - start)
    without = statistics.median(seconds["none"])
    yield Result("cost/none/step", 1e3 * without, "ms")
    for pooling in poolings:
        ratio = statistics.median(seconds[pooling]) / without
        bound = 1.5 if pooling == "target_attention" else None
        yield Result(f"cost/{pooling}/step at 50 events", ratio, "×", at_most=bound)
        if f"{pooling}/100" in seconds:
            longer = statistics.median(seconds[f"{pooling}/100"]) / without
            growth = (longer - 1) / max(ratio - 1, 1e-9)
            note = "extra time of 100 events over that of 50; 2 is linear"
            yield Result(f"cost/{pooling}/growth", growth, "×", note=note)


def _step(pooling: str | None, length: int, rows: int) -> Any:
    features: tuple[Any, ...] = tuple(
        categorical(name, side=side, encoding="identity", size=size)
        for name, side, size in (
            ("user", "user", 100_000),
            ("ad", "ad", 20_000),
            *((f"f{i}", "context", 1000) for i in range(14)),
        )
    )
    features += tuple(numerical(f"n{i}") for i in range(8))
    if pooling is not None:
        features += (
            sequence(
                "h",
                events=(event("ads", of="ad"),),
                order="newest_first",
                max_length=length,
                pooling=pooling,
            ),
        )
    problem = ProblemSpec(
        features=features, tasks=(CTR, binary("cvr", label="conversion", observed_if="click"))
    )
    layout, rng = layout_of(problem), np.random.default_rng(0)
    network = dataclasses.replace(NETWORK, tower_units=(128, 64))
    sizes = {"user": 100_002, "ad": 20_002, **{f"f{i}": 1002 for i in range(14)}}
    model = MultiTaskModel.build_from(problem, sizes, network)
    compile_model(model, Training())
    packed: dict[str, Any] = {}
    for side, width in layout.id_columns.items():
        if width:
            packed[f"ids_{side}"] = tf.constant(rng.integers(2, 1000, [rows, width]), tf.int32)
    packed["numbers_context"] = tf.constant(rng.normal(size=[rows, 8]), tf.float32)
    labels = rng.random([rows, 2]) < 0.3
    packed[LABELS] = tf.constant(labels, tf.float32)
    packed[WEIGHTS] = tf.ones([rows, 2])
    step = tf.function(model.train_step)
    return lambda: float(step(packed)["loss"])


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="folder with user_behavior/whole_histories.csv.gz")


if __name__ == "__main__":
    sys.exit(main(__doc__, run, seeds=5, arguments=_arguments))
