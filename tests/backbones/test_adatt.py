"""AdaTT against its equations by hand, and against the backbones that it contains."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tfmtl.backbones import AdaTT, MMoE
from tfmtl.errors import SpecError

TASKS = ("a", "b")
FIELDS = tf.constant(np.random.default_rng(0).normal(size=(6, 3, 4)), tf.float32)


def built(backbone, seed=0):
    backbone(FIELDS)
    randomise(backbone, seed)
    return backbone


def relu(x):
    return np.maximum(x, 0.0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_hand(adatt, counts):
    """The units' outputs level by level, one expert and one gate after the other."""
    owner = [unit for unit, count in enumerate(counts) for _ in range(count)]
    h = [FIELDS.numpy().reshape(6, -1)] * len(counts)
    for level in adatt.levels:
        (dense,) = level.experts.dense
        kernel, bias = dense.kernel.numpy(), dense.bias.numpy().reshape(len(owner), -1)
        experts = [relu(h[u] @ kernel[e] + bias[e]) for e, u in enumerate(owner)]
        logits = level.gates.logits
        gate, shift = logits.kernel.numpy(), logits.bias.numpy().reshape(-1, len(owner))
        mixtures = []
        for unit in range(level.mixed):
            weights = softmax(h[unit] @ gate[unit] + shift[unit])
            out = sum(weights[:, [e]] * experts[e] for e in range(len(owner)))
            own = [experts[e] for e, u in enumerate(owner) if u == unit]
            factors = level.own_weights[unit].numpy() if level.own_weights else [1.0]
            mixtures.append(out + sum(v * e for v, e in zip(factors, own, strict=True)))
        h = mixtures
    return h


@pytest.mark.parametrize(
    ("num_specific", "num_shared", "counts"),
    [(1, 0, (1, 1)), (2, 0, (2, 2)), (1, 1, (1, 1, 1)), (2, 1, (2, 2, 1)), (1, 3, (1, 1, 3))],
    ids=["sp, one expert", "sp, two experts", "shared", "shared, two experts", "three shared"],
)
def test_every_level_adds_the_gated_mixture_of_all_experts_to_the_unit_s_own(
    num_specific, num_shared, counts
):
    adatt = built(
        AdaTT(
            TASKS, num_specific=num_specific, num_shared=num_shared, expert_units=((5,), (4,), (3,))
        )
    )
    want = by_hand(adatt, counts)
    assert [level.mixed for level in adatt.levels] == [len(counts), len(counts), 2]
    for task, out in zip(TASKS, want, strict=True):
        np.testing.assert_allclose(adatt(FIELDS)[task], out, rtol=1e-5, atol=1e-5)


def test_one_level_of_numbers_small_enough_to_check_by_eye():
    # x = (1, 2); experts: a gives 1·1 + 2·1 = 3, b gives 2·2 = 4. Gates of zero give ½ each.
    adatt = AdaTT(TASKS, num_shared=0, expert_units=((1,),), gate_bias=False)
    fields = tf.constant([[[1.0, 2.0]]])
    adatt(fields)
    (level,) = adatt.levels
    level.experts.dense[0].kernel.assign([[[1.0], [1.0]], [[0.0], [2.0]]])
    level.gates.logits.kernel.assign(tf.zeros_like(level.gates.logits.kernel))
    out = adatt(fields)
    np.testing.assert_allclose(out["a"], [[3.5 + 3.0]], atol=1e-6)
    np.testing.assert_allclose(out["b"], [[3.5 + 4.0]], atol=1e-6)


def test_one_level_without_residual_and_shared_experts_is_mmoe():
    adatt = built(
        AdaTT(TASKS, num_specific=2, num_shared=0, expert_units=((5, 4),), residual=False)
    )
    mmoe = built(MMoE(TASKS, num_experts=4, expert_units=(5, 4)), seed=1)
    (level,) = adatt.levels
    mmoe.experts.set_weights(level.experts.get_weights())
    mmoe.gates.set_weights(level.gates.get_weights())
    for task in TASKS:
        np.testing.assert_allclose(adatt(FIELDS)[task], mmoe(FIELDS)[task], atol=1e-6)


def test_own_weights_of_zero_are_no_residual():
    settings = {"num_specific": 2, "num_shared": 1, "expert_units": ((5,), (4,))}
    adatt, without = (
        built(AdaTT(TASKS, **settings)),
        built(AdaTT(TASKS, residual=False, **settings)),
    )
    for level, plain in zip(adatt.levels, without.levels, strict=True):
        plain.experts.set_weights(level.experts.get_weights())
        plain.gates.set_weights(level.gates.get_weights())
    assert np.abs(adatt(FIELDS)["a"] - without(FIELDS)["a"]).max() > 1e-2
    for level in adatt.levels:
        for weights in level.own_weights:
            weights.assign(tf.zeros_like(weights))
    for task in TASKS:
        np.testing.assert_allclose(adatt(FIELDS)[task], without(FIELDS)[task], atol=1e-6)


def test_own_weights_start_within_the_root_of_the_number_of_experts_and_not_at_zero():
    adatt = AdaTT(TASKS, num_specific=4, num_shared=0, expert_units=((3,),))
    adatt(FIELDS)
    values = np.concatenate([v.numpy() for v in adatt.levels[0].own_weights])
    assert len(values) == 8 and np.abs(values).max() <= 0.5 and np.abs(values).min() > 0


def test_a_task_reads_the_other_task_s_experts_in_the_last_level():
    adatt = built(AdaTT(TASKS, num_shared=0, expert_units=((5,), (4,))))
    kernel = adatt.levels[-1].experts.dense[0].kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(adatt(FIELDS)["a"])
    gradient = tape.gradient(loss, kernel).numpy()
    assert np.abs(gradient[0]).max() > 0 and np.abs(gradient[1]).max() > 0


@pytest.mark.parametrize(
    ("num_specific", "num_shared", "residual"), [(1, 1, True), (2, 1, True), (2, 0, False)]
)
def test_the_number_of_parameters_is_the_closed_form(num_specific, num_shared, residual):
    units = (5, 4)
    adatt = built(
        AdaTT(
            TASKS,
            num_specific=num_specific,
            num_shared=num_shared,
            residual=residual,
            expert_units=[(u,) for u in units],
        )
    )
    total, width, count = 2 * num_specific + num_shared, 12, 0
    for level, u in enumerate(units, start=1):
        gates = 2 + (num_shared > 0 and level < len(units))
        count += total * (width + 1) * u + gates * (width + 1) * total
        if residual and (num_specific, num_shared) != (1, 1):
            count += 2 * num_specific + (num_shared if gates == 3 else 0)
        width = u
    assert adatt.count_params() == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expert_units": (256, 128)}, r"level by level, as \[\(256,\), \(128,\)\]"),
        ({"expert_units": ()}, "level by level"),
        ({"num_specific": 0}, "num_specific=0; a task has at least 1 expert"),
        ({"num_shared": -1}, "at least 0, which is AdaTT-sp"),
    ],
)
def test_a_shape_that_is_none_is_refused(arguments, message):
    with pytest.raises(SpecError, match=message):
        AdaTT(TASKS, **arguments)
