"""Calibration curves: what each repairs, and what none of them changes."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from tfmtl.calibration.calibrators import Calibrators
from tfmtl.calibration.curves import FITS, IDENTITY, MOST_KNOTS, Curve, isotonic, log_loss, platt


def world(rows=40_000, seed=0, intercept=-2.0):
    rng = np.random.default_rng(seed)
    true = rng.normal(intercept, 1.5, rows)
    return true, (rng.random(rows) < 1 / (1 + np.exp(-true))).astype(float)


def test_platt_repairs_logits_that_were_doubled_and_shifted():
    true, labels = world(200_000)
    curve = platt(2 * true + 1, labels)
    # a = ½, b = −½, and the intercept at 0.
    assert curve.slope == pytest.approx(0.5, abs=0.02)
    assert curve.y[0] == pytest.approx(-0.5, abs=0.03)


def test_platt_is_logistic_regression_with_platts_targets():
    true, labels = world()
    curve = platt(1.7 * true + 0.3, labels)
    model = LogisticRegression(C=1e10, tol=1e-10).fit((1.7 * true + 0.3)[:, None], labels)
    # His targets move the fit by about 1 / rows.
    assert curve.slope == pytest.approx(model.coef_[0, 0], abs=2e-3)
    assert curve.y[0] == pytest.approx(model.intercept_[0], abs=5e-3)


@pytest.mark.parametrize("method", ["platt", "offset"])
def test_the_mean_prediction_becomes_the_mean_label(method):
    true, labels = world()
    calibrated = FITS[method](true + 0.8, labels)(true + 0.8)
    assert np.mean(1 / (1 + np.exp(-calibrated))) == pytest.approx(labels.mean(), rel=1e-3)


def test_temperature_finds_the_scale():
    true, labels = world(intercept=0.0)
    assert FITS["temperature"](3 * true, labels).slope == pytest.approx(1 / 3, abs=0.02)


def test_isotonic_repairs_a_curve_that_no_line_repairs():
    true, labels = world(100_000)
    bent = np.where(true < -2, true * 3 + 4, true / 2 - 1)
    other, other_labels = world(100_000, seed=1)
    other_bent = np.where(other < -2, other * 3 + 4, other / 2 - 1)
    loss = {name: log_loss(FITS[name](bent, labels)(other_bent), other_labels) for name in FITS}
    assert loss["isotonic"] < loss["platt"] - 1e-3
    assert loss["isotonic"] < log_loss(other, other_labels) + 5e-4


def test_isotonic_ties_no_rows_and_has_few_knots():
    true, labels = world(100_000)
    curve = isotonic(true, labels)
    assert len(curve.x) <= MOST_KNOTS
    order = np.sort(np.unique(true))
    assert (np.diff(curve(order)) > 0).all()


@pytest.mark.parametrize("method", FITS)
def test_few_rows_or_a_perfect_split_give_a_finite_rising_curve(method):
    logits = np.linspace(-3, 3, 40)
    curve = FITS[method](logits, (logits > 0).astype(float))
    assert np.isfinite(curve([-60, 0, 60])).all() and (np.diff(curve([-60, 0, 60])) > 0).all()


def test_knots_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="rises"):
        Curve((0.0, 1.0), (1.0, 0.5))
    with pytest.raises(ValueError, match="rises"):
        Curve((0.0,), (0.0,), 0.0)


def graph(curves, logits, scene=None, num_scenes=0):
    calibrators = Calibrators({"ctr": curves}, num_scenes=num_scenes, record={})
    scene = None if scene is None else tf.constant(scene, tf.int32)
    return calibrators("ctr", tf.constant(logits, tf.float32), scene).numpy()


@pytest.mark.parametrize("method", FITS)
def test_the_graph_is_the_curve_also_far_outside(method):
    true, labels = world()
    curve = FITS[method](true, labels)
    logits = np.concatenate([[-60, 60], np.linspace(-8, 5, 999), curve.x]).astype(np.float32)
    np.testing.assert_allclose(graph({None: curve}, logits), curve(logits), rtol=2e-6, atol=3e-6)


def test_the_identity_changes_no_bit():
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 20
    np.testing.assert_array_equal(graph({None: IDENTITY}, logits), logits)


def test_an_isotonic_curve_passes_through_its_knots():
    curve = Curve((-3.0, -1.0, 0.5), (-2.0, -1.5, 2.0))
    np.testing.assert_array_equal(graph({None: curve}, curve.x), np.float32(curve.y))


def test_each_scene_has_its_curve_and_unknown_ones_the_pooled():
    curves = {None: Curve((0.0,), (10.0,)), 2: Curve((0.0,), (20.0,)), 3: Curve((0.0,), (30.0,))}
    given = graph(curves, [1.0] * 6, [0, 1, 2, 3, 99, -1], num_scenes=4)
    np.testing.assert_array_equal(given, [11, 11, 21, 31, 11, 11])
