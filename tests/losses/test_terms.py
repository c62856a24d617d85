"""The calibrator of AITM: zero just where the order of the steps is kept."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl import registry
from tfmtl.backbones import AITM
from tfmtl.errors import SpecError
from tfmtl.losses.terms import OrderCalibration

LABELS = tf.zeros([4, 3])
EVERYWHERE = tf.ones([4, 3])


def probabilities(click, cart, buy):
    return {"click": tf.constant(click), "cart": tf.constant(cart), "buy": tf.constant(buy)}


BROKEN = probabilities([0.5, 0.4, 0.3, 0.2], [0.4, 0.4, 0.5, 0.1], [0.1, 0.6, 0.4, 0.1])
KEPT = probabilities([0.5, 0.4, 0.3, 0.2], [0.4, 0.4, 0.3, 0.1], [0.1, 0.4, 0.2, 0.0])
STEPS = ("click", "cart", "buy")


def test_the_term_is_zero_just_where_no_step_is_likelier_than_the_one_before():
    term = OrderCalibration(STEPS)
    assert float(term(KEPT, LABELS, EVERYWHERE)) == 0.0
    for task, row in (("cart", 0), ("buy", 3)):
        broken = {t: p.numpy() for t, p in KEPT.items()}
        broken[task][row] += 0.2
        assert float(term(broken, LABELS, EVERYWHERE)) == pytest.approx(0.6 * 0.1 / 4, abs=1e-7)


def test_the_term_is_the_sum_over_pairs_of_the_mean_excess_times_its_weight():
    # cart over click: 0.2 in one row; buy over cart: 0.2 in one row; means over 4 rows.
    value = OrderCalibration(STEPS, weight=0.6)(BROKEN, LABELS, EVERYWHERE)
    assert float(value) == pytest.approx(0.6 * (0.2 + 0.2) / 4)
    assert float(OrderCalibration(STEPS, weight=0.0)(BROKEN, LABELS, EVERYWHERE)) == 0.0


def test_the_mean_is_over_rows_on_which_both_are_observed():
    weights = tf.constant([[1.0, 0, 1], [2, 1, 1], [1, 0.5, 0], [0, 1, 1]])
    # click and cart in rows 1 and 2, with 0 and 0.2; cart and buy in rows 1 and 3, 0.2 and 0.
    value = OrderCalibration(STEPS, weight=1.0)(BROKEN, LABELS, weights)
    assert float(value) == pytest.approx(0.2 / 2 + 0.2 / 2)
    assert float(OrderCalibration(STEPS)(BROKEN, LABELS, tf.zeros([4, 3]))) == 0.0


def test_columns_are_known_by_the_order_of_the_probabilities_not_of_the_tasks():
    weights = tf.constant([[1.0, 1, 0]] * 4)
    click_and_buy = OrderCalibration(("buy", "click"), weight=1.0)
    assert float(click_and_buy(BROKEN, LABELS, weights)) == 0.0
    assert float(click_and_buy(BROKEN, LABELS, EVERYWHERE)) > 0.0


def test_pairs_may_be_named():
    term = OrderCalibration(STEPS, weight=1.0, pairs=[["click", "buy"]])
    assert float(term(BROKEN, LABELS, EVERYWHERE)) == pytest.approx((0.2 + 0.1) / 4)


def test_without_two_tasks_on_all_rows_there_is_no_order():
    assert float(OrderCalibration(("click",))(BROKEN, LABELS, EVERYWHERE)) == 0.0


def test_the_gradient_lowers_the_later_step_and_raises_the_earlier_where_the_order_is_broken():
    p = {t: tf.Variable(v) for t, v in BROKEN.items()}
    with tf.GradientTape() as tape:
        value = OrderCalibration(("click", "buy"), weight=1.0)(p, LABELS, EVERYWHERE)
    earlier, later = tape.gradient(value, [p["click"], p["buy"]])
    np.testing.assert_allclose(later, [0, 0.25, 0.25, 0])
    np.testing.assert_allclose(earlier, [0, -0.25, -0.25, 0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pairs": [("click", "bye")]}, "'bye' is no binary task.*Did you mean 'buy'"),
        ({"pairs": [("click",)]}, "pairs are"),
        ({"pairs": [("buy", "buy")]}, "pairs are"),
        ({"pairs": ("click", "buy")}, "pairs are"),
        ({"weight": -1.0}, "not below 0"),
    ],
)
def test_impossible_pairs_are_refused(arguments, says):
    with pytest.raises(SpecError, match=says):
        OrderCalibration(STEPS, **arguments)


def test_aitm_brings_its_calibrator_with_the_papers_weight():
    (config,) = AITM.default_terms
    term = registry.build("term", config, STEPS)
    assert isinstance(term, OrderCalibration)
    assert (term.weight, term.pairs) == (0.6, (("click", "cart"), ("cart", "buy")))
