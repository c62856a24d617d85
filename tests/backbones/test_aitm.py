"""AITM: the chain, the transfer between its tasks, and what each task depends on."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tfmtl.backbones import AITM
from tfmtl.backbones.aitm import Transfer

TASKS = ("click", "cart", "buy")
FIELDS = tf.constant(np.random.default_rng(5).normal(size=(12, 3, 2)), tf.float32)


def built(**arguments):
    aitm = AITM(TASKS, bottom_units=(5, 4), **arguments)
    aitm(FIELDS)
    randomise(aitm)
    return aitm


def reached(aitm, task):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(aitm(FIELDS)[task] ** 2)
    gradients = tape.gradient(loss, aitm.trainable_weights)
    return {
        v.name.split("/")[1]
        for v, g in zip(aitm.trainable_weights, gradients, strict=True)
        if g is not None and np.any(g.numpy() != 0)
    }


def dense(layer, x):
    return np.maximum(x @ layer.kernel.numpy() + layer.bias.numpy(), 0)


def test_aitm_is_its_equations():
    aitm, x = built(), FIELDS.numpy().reshape(12, 6)
    z = None
    for before, task in zip((None, *TASKS), TASKS, strict=False):
        own = x
        for layer in aitm.bottoms[task].dense:
            own = dense(layer, own)
        if z is None:
            z = own
        else:
            link = aitm.transfers[task]
            q, k, v = (w.numpy() for w in (link.query.kernel, link.key.kernel, link.value.kernel))
            tokens = [dense(aitm.passes[before].dense[0], z), own]
            # Each token's query with its own key, not with the other's.
            scores = np.stack([((u @ q) * (u @ k)).sum(axis=1) for u in tokens]) / np.sqrt(4)
            weights = np.exp(scores) / np.exp(scores).sum(axis=0)
            z = sum(w[:, None] * (u @ v) for w, u in zip(weights, tokens, strict=True))
        np.testing.assert_allclose(aitm(FIELDS)[task], z, rtol=1e-3, atol=1e-5)


def test_transfers_weights_are_a_distribution_over_what_is_passed_on_and_the_tasks_own():
    transfer = Transfer()
    passed, own = tf.random.normal([8, 4]), tf.random.normal([8, 4])
    transfer(passed, own)
    randomise(transfer)
    weights = transfer.weights_of(passed, own).numpy()
    assert weights.shape == (8, 2) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(transfer.weights_of(own, passed)[:, ::-1], weights, atol=1e-6)


def test_transfers_projections_have_no_bias():
    assert [v.shape for v in built().transfers["buy"].weights] == [(4, 4)] * 3


def test_a_task_depends_on_those_before_it_and_on_none_after_it():
    aitm = built()
    first, second = {"bottom_click"}, {"pass_click", "bottom_cart", "transfer_cart"}
    third = {"pass_cart", "bottom_buy", "transfer_buy"}
    assert reached(aitm, "click") == first
    assert reached(aitm, "cart") == first | second
    assert reached(aitm, "buy") == first | second | third


def test_stop_gradient_leaves_the_tasks_before_alone_and_changes_no_value():
    aitm, stopped = built(), built(stop_gradient=True)
    for task in TASKS:
        np.testing.assert_array_equal(aitm(FIELDS)[task], stopped(FIELDS)[task])
    assert reached(stopped, "buy") == {"pass_cart", "bottom_buy", "transfer_buy"}


def test_the_order_of_tasks_is_the_order_of_the_chain():
    turned = AITM(TASKS[::-1], bottom_units=(5, 4))
    turned(FIELDS)
    assert reached(turned, "buy") == {"bottom_buy"}
    assert set(turned.passes) == {"buy", "cart"} and set(turned.transfers) == {"cart", "click"}


def test_what_is_passed_on_is_dropped_like_the_last_layer():
    aitm = AITM(TASKS, bottom_units=(5, 4), dropout=(0.1, 0.3))
    assert aitm.passes["click"].dropout == 0.3


def test_a_bottom_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        AITM(TASKS, bottom_units=())
