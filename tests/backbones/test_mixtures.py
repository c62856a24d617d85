"""OMoE, MMoE, CGC and PLE against their equations, and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tfmtl.backbones import CGC, PLE, MMoE, OMoE, SharedBottom

TASKS = ("a", "b")
FIELDS = tf.constant(np.random.default_rng(5).normal(size=(12, 3, 2)), tf.float32)
X = FIELDS.numpy().reshape(12, 6)


def built(backbone, seed=0):
    backbone(FIELDS)
    randomise(backbone, seed)
    return backbone


def expert_outputs(experts, x):
    """`[experts, rows, width]`, expert by expert and layer by layer."""
    outputs = []
    for i in range(experts.num):
        h = x
        for dense in experts.dense:
            h = np.maximum(
                h @ dense.kernel[i].numpy() + dense.bias.numpy().reshape(experts.num, -1)[i], 0
            )
        outputs.append(h)
    return np.stack(outputs)


def mixture(gates, k, x, outputs):
    """What gate `k`, reading `x`, makes of the experts' outputs."""
    bias = gates.logits.bias.numpy().reshape(gates.num_gates, -1)[k]
    weights = np.exp(x @ gates.logits.kernel[k].numpy() + bias)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("be,ebu->bu", weights, outputs)


def extraction(level, branches):
    """One level of PLE by its equations; the shared branch is last."""
    *tasks, shared = branches
    own = [expert_outputs(e, t) for e, t in zip(level.specific, tasks, strict=True)]
    common = expert_outputs(level.shared, shared)
    mixed = [
        mixture(level.gates[k], 0, t, np.concatenate([own[k], common])) for k, t in enumerate(tasks)
    ]
    if level.shared_gate is not None:
        mixed.append(mixture(level.shared_gate, 0, shared, np.concatenate([*own, common])))
    return mixed


def reached(backbone, task):
    """Names of the weights that the task's representation depends on."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(FIELDS)[task] ** 2)
    gradients = tape.gradient(loss, backbone.trainable_weights)
    return {
        v.name.partition("/")[2].rsplit("/", 1)[0]
        for v, g in zip(backbone.trainable_weights, gradients, strict=True)
        if g is not None and np.any(g.numpy() != 0)
    }


def test_mmoe_is_each_tasks_softmax_over_shared_experts():
    mmoe = built(MMoE(TASKS, num_experts=3, expert_units=(5, 4)))
    outputs = expert_outputs(mmoe.experts, X)
    for k, task in enumerate(TASKS):
        expected = mixture(mmoe.gates, k, X, outputs)
        np.testing.assert_allclose(mmoe(FIELDS)[task], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(mmoe(FIELDS)["a"] - mmoe(FIELDS)["b"]).max() > 0.1


@pytest.mark.parametrize("kind", [MMoE, OMoE])
def test_a_mixture_of_a_single_expert_is_a_shared_bottom(kind):
    mixed = built(kind(TASKS, num_experts=1, expert_units=(5, 4)))
    shared = built(SharedBottom(TASKS, bottom_units=(5, 4)))
    for dense, experts in zip(shared.bottom.dense, mixed.experts.dense, strict=True):
        dense.set_weights([experts.kernel[0].numpy(), experts.bias.numpy()])
    for task in TASKS:
        np.testing.assert_allclose(mixed(FIELDS)[task], shared(FIELDS)[task], atol=1e-6)


def test_mmoe_with_equal_gates_is_omoe():
    mmoe = built(MMoE(TASKS, num_experts=3, expert_units=(5, 4)))
    omoe = built(OMoE(TASKS, num_experts=3, expert_units=(5, 4)), seed=1)
    assert np.abs(mmoe(FIELDS)["a"] - omoe(FIELDS)["a"]).max() > 0.1
    omoe.experts.set_weights(mmoe.experts.get_weights())
    kernel, bias = omoe.gates.logits.get_weights()
    mmoe.gates.logits.set_weights([np.concatenate([kernel] * 2), np.concatenate([bias] * 2)])
    for task in TASKS:
        np.testing.assert_allclose(mmoe(FIELDS)[task], omoe(FIELDS)[task], atol=1e-6)


def test_cgc_is_each_tasks_softmax_over_its_own_and_the_shared_experts():
    cgc = built(CGC(TASKS, num_specific=2, num_shared=3, expert_units=(5, 4)))
    for task, expected in zip(TASKS, extraction(cgc.level, [X] * 3), strict=True):
        np.testing.assert_allclose(cgc(FIELDS)[task], expected, rtol=1e-4, atol=1e-5)


def test_cgc_keeps_a_tasks_experts_and_gate_from_the_other_task_exactly():
    cgc = built(CGC(TASKS, num_specific=2, num_shared=1, expert_units=(5,)))
    own, others = reached(cgc, "a"), reached(cgc, "b")
    assert own == {"level/specific_0/dense_0", "level/shared/dense_0", "level/gate_0/logits"}
    assert others == {"level/specific_1/dense_0", "level/shared/dense_0", "level/gate_1/logits"}


def test_ple_with_one_level_is_cgc():
    arguments = {"num_specific": 2, "num_shared": 3}
    cgc = built(CGC(TASKS, expert_units=(5, 4), **arguments))
    ple = built(PLE(TASKS, expert_units=[(5, 4)], **arguments), seed=1)
    ple.set_weights(cgc.get_weights())
    for task in TASKS:
        np.testing.assert_allclose(ple(FIELDS)[task], cgc(FIELDS)[task], atol=1e-6)


# The first level's outputs are as wide as its inputs once: reading x again would then fit.
@pytest.mark.parametrize("width", [6, 4])
def test_each_level_of_ple_reads_its_branchs_own_output_of_the_level_below(width):
    units = [(5, width), (width,), (3,)]
    ple = built(PLE(TASKS, num_specific=2, num_shared=1, expert_units=units))
    branches = [X] * 3
    for level in ple.levels:
        branches = extraction(level, branches)
    for task, expected in zip(TASKS, branches, strict=True):
        np.testing.assert_allclose(ple(FIELDS)[task], expected, rtol=1e-3, atol=1e-4)
    assert ple.levels[0].gates[0].logits.kernel.shape == (1, 6, 3)
    assert ple.levels[1].gates[0].logits.kernel.shape == (1, width, 3)


def test_below_ples_last_level_a_tasks_experts_reach_the_other_task():
    # Through the shared branch, whose gate mixes the experts of all tasks.
    ple = built(PLE(TASKS, num_specific=2, num_shared=1, expert_units=[(5,), (4,)]))
    below = {"specific_0", "specific_1", "shared", "gate_0", "gate_shared"}
    last = {"specific_0", "shared", "gate_0"}
    assert {name.rsplit("/", 1)[0] for name in reached(ple, "a")} == {
        *(f"level_1/{part}" for part in below),
        *(f"level_2/{part}" for part in last),
    }


def test_ples_shared_branch_mixes_the_experts_of_all_branches():
    ple = built(PLE(TASKS, num_specific=2, num_shared=3, expert_units=[(5,), (4,)]))
    assert ple.levels[0].shared_gate.num_experts == 2 * 2 + 3
    assert ple.levels[1].shared_gate is None


@pytest.mark.parametrize("units", [(64, 32), ()])
def test_ple_asks_for_its_experts_level_by_level(units):
    with pytest.raises(ValueError, match="level by level"):
        PLE(TASKS, expert_units=units)
