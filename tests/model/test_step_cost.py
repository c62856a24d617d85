"""What a table costs: memory per parameter, and steps that do not depend on its rows."""

import statistics
import time

import numpy as np
import pytest
import tensorflow as tf

import tfmtl
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.training.epochs import compile_model

DIM, ROWS = 8, 256


def model_of(ids):
    problem = tfmtl.ProblemSpec(
        features=(tfmtl.categorical("ad", encoding="identity", size=ids),),
        tasks=(tfmtl.binary("ctr", label="click"), tfmtl.binary("like", label="like")),
    )
    network = tfmtl.Model(
        backbone={"name": "shared_bottom", "bottom_units": (8,)}, dim=DIM, tower_units=(4,)
    )
    model = tfmtl.MultiTaskModel.build_from(problem, {"ad": ids + 2}, network)
    compile_model(model, tfmtl.Training())
    return model


def batch(ids):
    random = np.random.default_rng(0)
    return {
        "ids_context": tf.constant(random.integers(2, ids, (ROWS, 1)), tf.int32),
        LABELS: tf.constant(random.integers(0, 2, (ROWS, 2)), tf.float32),
        WEIGHTS: tf.ones([ROWS, 2]),
    }


@pytest.mark.parametrize("ids", [1_000, 100_000])
def test_a_parameter_of_a_table_and_its_two_moments_are_twelve_bytes(ids):
    model, rows = model_of(ids), batch(ids)
    model(rows)
    model.train_step(rows)
    held = [*model.variables, *model.optimizer.variables, *model.embedding_optimizer.variables]
    of_table = [v for v in held if tuple(v.shape) == tuple(model.tables[0].shape)]
    others = [v for v in held if tuple(v.shape) != tuple(model.tables[0].shape)]
    parameters = int(np.prod(model.tables[0].shape))
    assert sum(v.dtype.size * int(np.prod(v.shape)) for v in of_table) == 12 * parameters
    # The constant: dense weights and their moments, counters and means.
    assert sum(v.dtype.size * int(np.prod(v.shape)) for v in others) < 10_000


def test_no_node_of_a_step_has_the_size_of_the_table():
    ids = 100_000
    model, rows = model_of(ids), batch(ids)
    model(rows)
    graph = tf.function(model.train_step).get_concrete_function(rows).graph
    whole = {
        f"{node.name} ({node.type})"
        for node in graph.get_operations()
        for out in node.outputs
        if out.shape.rank and out.shape[0] == ids + 3
    }
    assert not whole


@pytest.mark.slow
def test_a_step_takes_as_long_with_ten_million_rows_as_with_a_hundred_thousand():
    steps = {}
    for ids in (10**5, 10**6, 10**7):
        # The same rows are looked up everywhere: what differs is the table alone.
        model, rows = model_of(ids), batch(10**5)
        model(rows)
        step = tf.function(model.train_step)
        for _ in range(5):
            step(rows)
        steps[ids] = (step, rows)
    seconds = {ids: [] for ids in steps}
    for _ in range(15):
        for ids, (step, rows) in steps.items():
            start = time.perf_counter()
            for _ in range(10):
                step(rows)
            seconds[ids].append(time.perf_counter() - start)
    medians = [statistics.median(taken) for taken in seconds.values()]
    assert max(medians) < 1.2 * min(medians)
