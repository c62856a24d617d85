"""Robust losses: their digits, their pull, and what outliers do to a model that has them."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS
from tfmtl.declare.problem import ProblemSpec, numerical, regression
from tfmtl.declare.tasks import LOSSES
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, label_moments
from tfmtl.losses import per_example as losses
from tfmtl.model.multitask import MultiTaskModel

ROBUST = {
    "huber": (losses.huber, lambda r, d: np.where(r < d, r * r / 2, d * (r - d / 2))),
    "pseudo_huber": (losses.pseudo_huber, lambda r, d: d * r * (r / (d + np.hypot(r, d)))),
    "log_cosh": (
        losses.log_cosh,
        lambda r, d: d * d * np.where(r < 1e-3 * d, _small(r / d), _large(r / d)),
    ),
}
SLOPES = {
    "huber": lambda r, d: np.minimum(r, d),
    "pseudo_huber": lambda r, d: r / np.hypot(1, r / d),
    "log_cosh": lambda r, d: d * np.tanh(r / d),
}


def _small(x):
    return x**2 / 2 - x**4 / 12


def _large(x):
    return np.logaddexp(x, -x) - np.log(2)


def robust(name, residuals, delta, dtype=tf.float32):
    """Loss and slope at residuals of both signs, which agree."""
    found = []
    for sign in (1, -1):
        x = tf.constant(sign * np.asarray(residuals), dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = ROBUST[name][0](tf.zeros_like(x), x, delta=delta)
        found.append((loss.numpy(), sign * tape.gradient(loss, x).numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    return found[0]


@pytest.mark.parametrize("delta", [0.01, 0.7, 1.0, 3.0, 1e3])
@pytest.mark.parametrize("name", ROBUST)
def test_a_robust_loss_keeps_its_digits_from_tiny_residuals_to_huge_ones(name, delta):
    residuals = np.float32([*np.logspace(-12, 30, 85), delta, 0.999 * delta, 1.001 * delta])
    loss, slope = robust(name, residuals, delta)
    exact = residuals.astype(np.float64)
    np.testing.assert_allclose(loss, ROBUST[name][1](exact, delta), rtol=3e-6)
    np.testing.assert_allclose(slope, SLOPES[name](exact, delta), rtol=3e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_a_robust_loss_and_its_slope_are_zero_without_a_residual(name):
    loss, slope = robust(name, [0.0], 1.0)
    assert loss[0] == 0 and slope[0] == 0


@pytest.mark.parametrize("delta", [1e3, 1e5, 1e8])
@pytest.mark.parametrize("name", ROBUST)
def test_with_a_large_delta_a_robust_loss_is_half_the_square(name, delta):
    residuals = np.float32([1e-3, 0.1, 0.5, 3.0, 20.0])
    loss, slope = robust(name, residuals, delta)
    square = losses.squared_error(tf.zeros(5), tf.constant(residuals))
    np.testing.assert_allclose(loss, 0.5 * square, rtol=2e-4 if delta == 1e3 else 1e-6)
    np.testing.assert_allclose(slope, residuals, rtol=2e-4 if delta == 1e3 else 1e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_an_outlier_pulls_no_harder_than_delta(name):
    _, slope = robust(name, [1e2, 1e6, 1e20, 1e37], 0.5)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-4)


@pytest.mark.parametrize("name", ["pseudo_huber", "log_cosh"])
def test_a_delta_that_is_not_positive_is_refused(name):
    for delta in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="delta must be positive"):
            ROBUST[name][0](tf.zeros(1), tf.ones(1), delta=delta)


# --- a model under outliers ------------------------------------------------------------------


def outlying(seed=0):
    """Rows of which one in a hundred has fifty times its label, and the clean labels."""
    x = np.random.default_rng(seed).normal(size=2_000).astype(np.float32)
    clean = 3 + np.tanh(x)
    return {"x": x, "q": np.where(np.arange(2_000) % 100 == 0, 50 * clean, clean)}, clean


def model_of(loss, columns, delta=1.0):
    problem = ProblemSpec(
        features=(numerical("x"),), tasks=(regression("cqs", label="q", loss=loss, delta=delta),)
    )
    packed = Preprocessor(problem).fit(columns)
    keras.utils.set_random_seed(3)
    model = MultiTaskModel.build_from(
        problem,
        {},
        Model(
            backbone={"name": "shared_bottom", "bottom_units": (8,)},
            dim=4,
            tower_units=(8,),
            l2=0.0,
        ),
    )
    model.compile(keras.optimizers.Adam(0.05))
    model(packed)
    model.heads.adapt(*label_moments(ArrayRows(packed)))
    return model, packed


def test_one_outlier_in_a_hundred_spoils_the_squared_loss_and_no_robust_one():
    columns, clean = outlying()
    error = {}
    for loss in LOSSES:
        model, packed = model_of(loss, columns)
        step = tf.function(model.train_step)
        for _ in range(60):
            step(packed)
        error[loss] = float(np.mean((model(packed)["cqs"].numpy() - clean) ** 2))
    # The squared loss learnt less than a constant would have.
    assert error["squared"] > clean.var(), error
    for loss in LOSSES[1:]:
        assert error[loss] < 0.2 * error["squared"], error


@pytest.mark.parametrize("loss", LOSSES)
def test_a_model_is_measured_by_the_loss_it_is_trained_by(loss):
    columns, _ = outlying()
    model, packed = model_of(loss, columns, delta=0.5)
    trained_by = float(model.compute_loss(packed)[1][0])
    assert model.evaluate([packed])["loss"] == pytest.approx(trained_by, rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_task_takes_its_declared_loss_in_standard_deviations_of_its_labels(loss):
    columns, _ = outlying()
    model, packed = model_of(loss, columns, delta=0.5)
    labels = packed[LABELS][:, 0].numpy().astype(np.float64)
    residual = np.abs(model(packed)["cqs"].numpy() - labels) / labels.std()
    expected = residual**2 if loss == "squared" else ROBUST[loss][1](residual, 0.5)
    found = float(model.compute_loss(packed)[1][0])
    assert found == pytest.approx(expected.mean(), rel=1e-4)
