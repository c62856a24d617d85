"""What a meta-step may not cost: a copy of a table."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.meta.tasks import OBJECTIVES, QUERY, SUPPORT
from tfmtl.meta.train import MetaLearner
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

TASKS = 2


def learner_and_tasks(ids, rows, dim=4, **settings):
    keras.utils.set_random_seed(1)
    problem = ProblemSpec(
        features=(categorical("ad", encoding="identity", size=ids),),
        tasks=(binary("ctr", label="click"), binary("like", label="like")),
    )
    backbone = {"name": "mmoe", "num_experts": 2, "expert_units": (8,)}
    model = MultiTaskModel.build_from(
        problem, {"ad": ids + 2}, Model(backbone=backbone, dim=dim, tower_units=(4,))
    )
    compile_model(model, Training())
    rng = np.random.default_rng(0)

    def half():
        return {
            "ids_context": tf.constant(rng.integers(0, ids, (TASKS, rows // 2, 1)), tf.int32),
            LABELS: tf.constant(rng.integers(0, 2, (TASKS, rows // 2, 2)), tf.float32),
            WEIGHTS: tf.ones([TASKS, rows // 2, 2]),
        }

    tasks = {SUPPORT: half(), QUERY: half(), OBJECTIVES: tf.ones([TASKS, 2], tf.bool)}
    model({name: value[0] for name, value in tasks[SUPPORT].items()})
    model.embedding_optimizer.build(model.tables)
    return MetaLearner(model, Meta(tasks_per_step=TASKS, **settings)), tasks


def operations(graph):
    """Every operation of a graph and of the functions, loops' bodies among them, that it calls."""
    waiting, seen = [graph], set()
    while waiting:
        for operation in (within := waiting.pop()).get_operations():
            yield operation
            for attribute in operation.node_def.attr.values():
                for called in (attribute.func, *attribute.list.func):
                    if called.name and called.name not in seen:
                        seen.add(called.name)
                        waiting.append(within._get_function(called.name).graph)


def as_large_as_a_table(graph, rows):
    return [
        (o.type, o.name, output.shape)
        for o in operations(graph)
        for output in o.outputs
        if output.dtype != tf.resource and output.shape.rank and (output.shape[0] or 0) >= rows
    ]


def concrete(learner, tasks):
    return tf.function(learner.train_step).get_concrete_function(tasks)


def test_no_tensor_of_a_meta_step_is_as_long_as_a_table():
    learner, tasks = learner_and_tasks(50_000, 32, inner_params="all", inner_steps=2)
    graph = concrete(learner, tasks).graph
    kinds = {operation.type for operation in operations(graph)}
    # The search does go into the loop over tasks, where the lookups are.
    assert "ResourceGather" in kinds and "ResourceScatterSub" in kinds
    assert as_large_as_a_table(graph, 50_000) == []


def test_a_step_that_reads_a_table_is_found():
    table = tf.Variable(tf.zeros([50_000, 2]))

    @tf.function(autograph=False)
    def step():
        return tf.while_loop(
            lambda i, _: i < 2,
            lambda i, total: (i + 1, total + tf.reduce_sum(table)),
            (tf.constant(0), tf.constant(0.0)),
        )

    found = as_large_as_a_table(step.get_concrete_function().graph, 50_000)
    assert [kind for kind, _, _ in found] == ["ReadVariableOp"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["no_embedding", "all"])
def test_memory_grows_by_far_less_than_a_table_of_a_million_rows(which):
    learner, tasks = learner_and_tasks(1_000_000, 2048, dim=16, inner_params=which)
    step = concrete(learner, tasks)
    assert as_large_as_a_table(step.graph, 1_000_000) == []
    # The first step makes what stays: plans, buffers and threads.
    step(tasks)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # The peak starts anew.
    before = memory("VmRSS")
    for _ in range(5):
        step(tasks)
    (table,) = learner.model.tables
    size = table.shape.num_elements() * 4
    assert size > 60e6
    assert memory("VmHWM") - before < size / 4


def memory(what):
    """Bytes of this process."""
    with open(f"/proc/{os.getpid()}/status") as file:
        line = next(line for line in file if line.startswith(what))
    return 1024 * int(line.split()[1])
