"""Operations stop where training and validation pull their weights apart."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.automtl.early_stopping import EarlyStopping, compare
from tfmtl.automtl.freezing import FreezingSGD
from tfmtl.declare.search import AutoMTL
from tfmtl.operations.choice import Weights


def variables(*shapes):
    rng = np.random.default_rng(3)
    return [tf.Variable(rng.normal(size=shape), dtype=tf.float32) for shape in shapes]


OPERATIONS = (
    Weights("interaction", "cross-1", None, variables([4, 3], [3])),
    Weights("hidden_0", "mlp-8", 2, variables([2, 3, 8], [2, 8])),
    Weights("hidden_0", "own", None, variables([5]), expert=1),
)
NAMES = ["interaction/cross-1", "hidden_0/mlp-8/0", "hidden_0/mlp-8/1", "hidden_0/own/1"]


def stopping(**changes):
    return EarlyStopping(OPERATIONS, AutoMTL(**{"patience": 3, "window": 3} | changes))


def gradients(seed=0):
    rng = np.random.default_rng(seed)
    return [
        tf.constant(rng.normal(size=v.shape), tf.float32) for o in OPERATIONS for v in o.variables
    ]


def opposed(given, *names):
    """The gradients, with those of some operations or copies turned round."""
    arrays = [g.numpy() for g in given]
    if "interaction/cross-1" in names:
        arrays[0], arrays[1] = -arrays[0], -arrays[1]
    for copy in (0, 1):
        if f"hidden_0/mlp-8/{copy}" in names:
            arrays[2][copy] *= -1
            arrays[3][copy] *= -1
    return [tf.constant(a) for a in arrays]


def frozen_after(case, pairs):
    """The names frozen after testing pairs of training and validation gradients."""
    for train, validation in pairs:
        case.remember(train)
        case.test(validation)
    return case.report()["frozen"]


def hashes(arrays):
    return [hashlib.sha256(a.numpy().tobytes()).hexdigest() for a in arrays]


def test_the_cosine_is_of_all_tensors_of_a_copy_as_one_vector():
    one, other = gradients(1), gradients(2)
    found, defined = compare(one[2:4], other[2:4], OPERATIONS[1])
    for copy in (0, 1):
        a, b = (
            np.concatenate([g[2][copy].numpy().ravel(), g[3][copy].numpy()]) for g in (one, other)
        )
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found[copy].numpy() == pytest.approx(expected, abs=1e-6)
    assert defined.numpy().tolist() == [True, True]
    # The mean of the tensors' own cosines is another number.
    apart = [
        float(-keras.losses.cosine_similarity(tf.reshape(a[0], [-1]), tf.reshape(b[0], [-1])))
        for a, b in zip(one[2:4], other[2:4], strict=True)
    ]
    assert abs(np.mean(apart) - found[0].numpy()) > 0.01


def test_a_copy_stops_alone_after_as_many_opposed_steps_as_the_patience():
    case, same = stopping(), gradients()
    pair = (same, opposed(same, "hidden_0/mlp-8/1"))
    assert case.names == NAMES
    assert frozen_after(case, [pair] * 2) == []
    assert frozen_after(case, [pair]) == ["hidden_0/mlp-8/1"]


def test_one_agreeing_step_starts_the_count_anew():
    case, same = stopping(), gradients()
    bad, good = (same, opposed(same, "interaction/cross-1")), (same, same)
    assert frozen_after(case, [bad, bad, good, bad, bad]) == []
    assert frozen_after(case, [bad]) == ["interaction/cross-1"]


def test_a_stopped_operation_stays_so_whatever_its_gradients_say():
    case, same = stopping(), gradients()
    assert frozen_after(case, [(same, opposed(same, "interaction/cross-1"))] * 3) != []
    assert frozen_after(case, [(same, same)] * 5) == ["interaction/cross-1"]


def test_a_gradient_that_points_nowhere_counts_neither_way():
    case, same = stopping(), gradients()
    bad = (same, opposed(same, "interaction/cross-1"))
    nothing = ([tf.zeros_like(g) for g in same], bad[1])
    assert frozen_after(case, [nothing] * 5) == []
    assert case.report()["difference"]["interaction/cross-1"] is None
    assert frozen_after(case, [bad, bad, nothing, bad]) == ["interaction/cross-1"]


def test_gradients_at_right_angles_stop_by_the_cosine_but_not_by_half_of_it():
    # As those of minibatches are, nearly, with nothing overfitted.
    one, other = gradients(), gradients()
    at_right_angles = []
    for a, b in zip(one, other, strict=True):
        flat = tf.reshape(a, [-1]) if a.shape.rank == 1 else tf.reshape(a, [a.shape[0], -1])
        at_right_angles.append(tf.reshape(tf.reverse(flat, [-1]), b.shape))
    cosine, _ = compare(one[:2], at_right_angles[:2], OPERATIONS[0])
    assert abs(float(cosine[0])) < 0.5
    pairs = [(one, at_right_angles)] * 4
    assert "interaction/cross-1" in frozen_after(stopping(direction="cosine"), pairs)
    assert "interaction/cross-1" not in frozen_after(stopping(direction="half"), pairs)


def test_a_window_stops_by_its_mean_where_rows_of_bad_steps_are_short():
    same = gradients()
    bad, good = (same, opposed(same, "interaction/cross-1")), (same, same)
    # Two of three oppose: above one half on the mean, and never three in a row.
    pairs = [bad, good, bad] * 2
    assert frozen_after(stopping(), pairs) == []
    assert frozen_after(stopping(stopping="window"), pairs) == ["interaction/cross-1"]
    # Windows do not overlap: here each has one of three.
    apart = [bad, good, good, good, good, bad]
    assert frozen_after(stopping(stopping="window"), apart) == []


def test_the_report_is_the_mean_since_the_last_one():
    case, same = stopping(), gradients()
    pair = (same, opposed(same, "hidden_0/mlp-8/0"))
    pairs = [pair, (same, same)]
    for train, validation in pairs:
        case.remember(train)
        case.test(validation)
    found = case.report()["difference"]
    assert found["hidden_0/mlp-8/0"] == pytest.approx(0.5, abs=1e-6)
    assert found["hidden_0/mlp-8/1"] == pytest.approx(0.0, abs=1e-6)
    assert set(case.report()["difference"].values()) == {None}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stopped_weights_and_momenta_stand_bit_for_bit_and_others_go_on(momentum):
    first, plain = (variables([2, 3, 8], [2, 8]) for _ in range(2))
    stopped = tf.Variable([False, False])
    optimizer = FreezingSGD(
        lambda v: tf.reshape(stopped, [2] + [1] * (v.shape.rank - 1)),
        learning_rate=0.1,
        momentum=momentum,
    )
    reference = keras.optimizers.SGD(0.1, momentum=momentum)
    given = [gradients(seed)[2:4] for seed in range(4)]

    def step(optimizer, weights, gradient):
        optimizer.apply_gradients(list(zip(gradient, weights, strict=True)))

    for gradient in given[:2]:
        step(optimizer, first, gradient)
        step(reference, plain, gradient)
    for a, b in zip(first, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    stopped.assign([False, True])
    slots = [v for v in optimizer.variables if v.shape.rank > 1]
    held = hashes([v[1] for v in (*first, *slots)])
    for gradient in given[2:]:
        step(optimizer, first, gradient)
        step(reference, plain, gradient)
    assert hashes([v[1] for v in (*first, *slots)]) == held
    assert len(slots) == 2
    for a, b in zip(first, plain, strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
        assert np.abs(a[1].numpy() - b[1].numpy()).min() > 0
