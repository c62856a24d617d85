"""ESMM: towers that share embeddings alone, and conversions learnt through the product."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tfmtl.backbones import ESMM
from tfmtl.losses.per_example import log_prob_cross_entropy, product_log_prob

FIELDS = tf.constant(np.random.default_rng(5).normal(size=(12, 3, 2)), tf.float32)


def built():
    esmm = ESMM(("ctr", "cvr"), units=(5, 4))
    esmm(FIELDS)
    randomise(esmm)
    return esmm


def largest_gradient(esmm, click_logit):
    """Of the conversion tower, for rows without a conversion and a fixed click logit."""
    with tf.GradientTape() as tape:
        conversion_logit = tf.reduce_sum(esmm(FIELDS)["cvr"], axis=1)
        log_prob = product_log_prob(tf.fill([12], click_logit), conversion_logit)
        loss = tf.reduce_mean(log_prob_cross_entropy(tf.zeros([12]), log_prob))
    gradients = tape.gradient(loss, esmm.towers["cvr"].trainable_weights)
    return max(float(tf.reduce_max(tf.abs(g))) for g in gradients)


def test_a_row_that_is_never_clicked_teaches_the_conversion_tower_nothing():
    assert largest_gradient(built(), click_logit=-1e4) == 0.0


def test_a_row_that_may_be_clicked_teaches_it_by_how_likely_that_is():
    esmm = built()
    rare, common = largest_gradient(esmm, click_logit=-4.0), largest_gradient(esmm, 0.0)
    assert 0.0 < rare < 0.2 * common


@pytest.mark.parametrize(("task", "other"), [("ctr", "cvr"), ("cvr", "ctr")])
def test_a_tower_is_its_tasks_own(task, other):
    esmm = built()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(FIELDS)
        loss = tf.reduce_sum(esmm(FIELDS)[task])
    assert tape.gradient(loss, esmm.towers[other].trainable_weights) == [None] * 4
    assert all(g is not None for g in tape.gradient(loss, esmm.towers[task].trainable_weights))
    assert np.any(tape.gradient(loss, FIELDS) != 0)


def test_esmm_multiplies_and_has_its_towers_below_the_heads():
    assert (ESMM.conv_semantics, ESMM.tower_units) == ("esmm", ())
