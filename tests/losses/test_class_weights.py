"""Weights of a binary task's classes, and focal loss: in a model's loss, and nowhere else."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.losses import CrossEntropy, Focal
from tfmtl.losses.per_example import product_log_prob
from tfmtl.model.multitask import MultiTaskModel

CLICKS = np.array([1, 1, 0, 0, 0, 1, 0, 0, 1, 0], np.float32)
BUYS = CLICKS * np.array([1, 0, 0, 0, 0, 1, 0, 0, 1, 0], np.float32)
IDS = tf.constant(np.arange(10)[:, np.newaxis] % 5 + 2, tf.int32)


def problem(ctr=None, cvr=None, ctcvr=None):
    return ProblemSpec(
        features=(categorical("ad", encoding="identity", size=9),),
        tasks=(
            binary("ctr", label="click", **(ctr or {})),
            binary("cvr", label="buy", observed_if="click", **(cvr or {})),
            binary("ctcvr", label="buy", **(ctcvr or {})),
        ),
    )


def rows(weights=1.0):
    observed = np.stack([np.ones(10), CLICKS, np.ones(10)], axis=1) * weights
    labels = np.stack([CLICKS, BUYS, BUYS], axis=1)
    return {
        "ids_context": IDS,
        LABELS: tf.constant(labels, tf.float32),
        WEIGHTS: tf.constant(observed, tf.float32),
    }


def model_of(semantics="ctcvr_direct", **tasks):
    model = MultiTaskModel.build_from(
        problem(**tasks),
        {"ad": 11},
        Model(
            backbone={"name": "shared_bottom", "bottom_units": (4,)},
            dim=2,
            tower_units=(3,),
            l2=0.0,
            conv_semantics=semantics,
        ),
    )
    model(rows())
    for i, v in enumerate(model.trainable_variables):
        v.assign(np.random.default_rng(i).normal(0, 0.7, v.shape))
    return model


def per_task(model, batch=None):
    return dict(zip(model.heads.trained, model.compute_loss(batch or rows())[1], strict=True))


def cross_entropy(p, y):
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def test_a_rows_loss_is_multiplied_by_the_weight_of_its_class_and_the_mean_is_over_rows():
    model = model_of(ctr={"positive_weight": 5.0, "negative_weight": 0.5})
    p = model(rows())["ctr"].numpy()
    want = np.mean(cross_entropy(p, CLICKS) * np.where(CLICKS == 1, 5.0, 0.5))
    np.testing.assert_allclose(per_task(model)["ctr"], want, rtol=1e-5)
    own = np.arange(1.0, 11.0)
    batch = rows(own[:, np.newaxis])
    weighed = own * np.where(CLICKS == 1, 5.0, 0.5)
    # The rows' own weights are divided by, the classes' are not.
    want = np.sum(cross_entropy(p, CLICKS) * weighed) / own.sum()
    np.testing.assert_allclose(per_task(model, batch)["ctr"], want, rtol=1e-5)


def test_a_class_weight_on_a_sample_space_is_of_its_rows_alone():
    model = model_of(cvr={"positive_weight": 3.0})
    p = model(rows())["cvr"].numpy()[CLICKS == 1]
    y = BUYS[CLICKS == 1]
    want = np.mean(cross_entropy(p, y) * np.where(y == 1, 3.0, 1.0))
    np.testing.assert_allclose(per_task(model)["cvr"], want, rtol=1e-5)


def test_twice_of_both_weights_is_twice_the_gradient():
    both = {"positive_weight": 2.0, "negative_weight": 2.0}
    found = []
    for model in (model_of(), model_of(ctr=both, cvr=both, ctcvr=both)):
        with tf.GradientTape() as tape:
            loss, _ = model.compute_loss(rows())
        gradients = tape.gradient(loss, model.trainable_variables)
        found.append([tf.convert_to_tensor(g).numpy() for g in gradients])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, 2 * one, rtol=1e-5, atol=1e-8)


def test_a_soft_label_has_parts_of_both_weights():
    model = model_of(ctr={"positive_weight": 4.0, "negative_weight": 2.0, "soft": True})
    found = model.heads.class_weights("ctr", tf.constant([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(found, [2.0, 0.25 * 4 + 0.75 * 2, 4.0])


def test_without_weights_there_is_nothing_to_multiply_by():
    assert model_of().heads.class_weights("ctr", tf.ones([2])) is None


@pytest.mark.parametrize("semantics", ["ctcvr_direct", "esmm"])
def test_focal_loss_is_that_of_the_heads_probability(semantics):
    focal = {
        "loss": {"name": "focal", "gamma": 1.5, "alpha": 0.3},
        "positive_weight": 2.0,
    }
    model = model_of(semantics, ctcvr=focal)
    p = model(rows())["ctcvr"].numpy().astype(np.float64)
    positive = 2.0 * 0.3 * (1 - p) ** 1.5 * -np.log(p)
    negative = 0.7 * p**1.5 * -np.log(1 - p)
    want = np.mean(np.where(BUYS == 1, positive, negative))
    np.testing.assert_allclose(per_task(model)["ctcvr"], want, rtol=1e-4)


def test_the_losses_and_metrics_of_validation_have_neither():
    changed = {"positive_weight": 9.0, "loss": "focal"}
    plain, other = model_of(), model_of(ctr=changed, cvr=changed)
    want, found = (model.evaluate([rows()]) for model in (plain, other))
    assert found == want and {"loss", "ctr/log_loss@imp"} <= set(want)
    assert abs(float(per_task(other)["ctr"]) - float(per_task(plain)["ctr"])) > 0.01


def means():
    return np.array([CLICKS.mean(), BUYS[CLICKS == 1].mean(), BUYS.mean()])


def test_balanced_sqrt_is_the_root_of_negatives_by_positives_of_observed_rows():
    balanced = {"positive_weight": "balanced_sqrt"}
    model = model_of(ctr=balanced, cvr=balanced)
    model.heads.adapt(means(), np.ones(3))
    weights = {t: float(w) for t, w in model.heads.balance.items()}
    assert weights == pytest.approx({"ctr": (6 / 4) ** 0.5, "cvr": (1 / 3) ** 0.5})
    p = model(rows())["ctr"].numpy()
    want = np.mean(cross_entropy(p, CLICKS) * np.where(CLICKS == 1, 1.5**0.5, 1.0))
    np.testing.assert_allclose(per_task(model)["ctr"], want, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0, np.nan])
def test_balanced_sqrt_stays_at_1_where_a_class_is_missing(rate):
    model = model_of(ctr={"positive_weight": "balanced_sqrt"})
    model.heads.adapt(np.array([rate, 0.5, 0.5]), np.ones(3))
    assert float(model.heads.balance["ctr"]) == 1.0
    assert np.isfinite(model.heads.logits["ctr"].bias.numpy()).all()


def test_in_its_literal_form_mtms_balances_by_the_rows_that_it_trains_on():
    model = model_of("mtms_literal", cvr={"positive_weight": "balanced_sqrt"})
    model.heads.adapt(means(), np.ones(3))
    assert float(model.heads.balance["cvr"]) == pytest.approx((7 / 3) ** 0.5)


def test_the_balance_is_trained_by_no_optimizer_and_not_exported():
    model = model_of(ctr={"positive_weight": "balanced_sqrt"})
    balance = model.heads.balance["ctr"]
    assert id(balance) in {id(v) for v in model.non_trainable_variables}
    assert id(balance) not in {id(v) for v in model.trainable_variables}
    kept = tf.Module()
    kept.parts = model.served_parts()
    found = {id(v) for v in kept.variables}
    assert id(balance) not in found and id(model.heads.logits["ctr"].bias) in found


@pytest.mark.parametrize(
    "weights",
    [{}, {"positive_weight": 6.0, "negative_weight": 0.5}, {"positive_weight": "balanced_sqrt"}],
)
def test_heads_start_where_a_constants_weighted_loss_is_least(weights):
    model = model_of(ctr=weights)
    model.heads.logits["ctr"].kernel.assign(tf.zeros([3, 1]))
    model.heads.adapt(means(), np.ones(3))
    bias = model.heads.logits["ctr"].bias
    with tf.GradientTape() as tape:
        loss = per_task(model)["ctr"]
    assert abs(float(tape.gradient(loss, bias)[0])) < 1e-6


def test_a_head_without_a_loss_of_its_own_starts_at_the_plain_rate():
    model = model_of("esmm", cvr={"positive_weight": 6.0})
    model.heads.adapt(means(), np.ones(3))
    assert float(model.heads.logits["cvr"].bias[0]) == pytest.approx(np.log(3.0))


def test_a_problem_with_weights_and_focal_loss_comes_back_from_json():
    spec = problem(
        ctr={"positive_weight": "balanced_sqrt", "negative_weight": 2.0},
        cvr={"loss": {"name": "focal", "gamma": 0.5, "alpha": 0.25}},
        ctcvr={"positive_weight": 10},
    )
    plain = json.loads(json.dumps(spec.to_json()))
    assert ProblemSpec.from_json(plain) == spec
    assert plain["tasks"][1]["loss"] == {"name": "focal", "gamma": 0.5, "alpha": 0.25}
    assert plain["tasks"][0]["loss"] == {"name": "cross_entropy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive_weight": "balanced"}, "'balanced' is neither .* mean 'balanced_sqrt'"),
        ({"positive_weight": 0.0}, "positive_weight=0.0 must be above 0; .* observed_if="),
        ({"positive_weight": float("nan")}, "positive_weight=nan must be a finite number"),
        ({"negative_weight": -1.0}, "negative_weight=-1.0 must be above 0"),
        ({"negative_weight": float("inf")}, "negative_weight=inf"),
        (
            {"head": "ctr", "trained": False, "served": False, "positive_weight": 2.0},
            "trained=False it has no loss",
        ),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(SpecError, match=f"task 'cvr': .*{message}"):
        binary("cvr", label="buy", **arguments)


# --- focal loss ----------------------------------------------------------------------------


def test_focal_loss_with_gamma_0_is_the_cross_entropy():
    y, x = tf.constant([0.0, 1.0, 0.3, 1.0]), tf.constant([-30.0, 2.0, 0.5, -90.0])
    plain = CrossEntropy()(y, x)
    np.testing.assert_allclose(Focal(gamma=0.0)(y, x), plain, rtol=1e-6)
    log_prob = product_log_prob(x, x)
    plain = CrossEntropy().of_log_prob(y, log_prob)
    np.testing.assert_allclose(Focal(gamma=0.0).of_log_prob(y, log_prob), plain, rtol=1e-6)
    half = Focal(gamma=0.0, alpha=0.5)(y, x)
    np.testing.assert_allclose(half, 0.5 * CrossEntropy()(y, x), rtol=1e-6)


def test_alpha_is_of_positives_and_the_rest_of_negatives():
    y, x = tf.constant([1.0, 0.0]), tf.constant([0.4, 0.4])
    plain, other = Focal()(y, x), Focal(alpha=0.25)(y, x)
    np.testing.assert_allclose(other / plain, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_and_its_gradient_keep_their_digits_at_saturated_logits(gamma):
    at = np.array([-200.0, -60.0, -20.0, -9.0, 0.3, 9.0, 15.0, 20.0, 30.0])
    log_p, log_rest = -np.logaddexp(0, -at), -np.logaddexp(0, at)
    p = np.exp(log_p)
    # d/dx of (1 − p)^γ (−log p): the powers of 1 − p would be 0 or 1 in single precision.
    power = np.exp(gamma * log_rest)
    slope = power * (gamma * p * log_p - np.exp(log_rest))
    for labels, sign in ((np.ones(9), 1.0), (np.zeros(9), -1.0)):
        x = tf.constant(sign * at, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = Focal(gamma=gamma)(tf.constant(labels, tf.float32), x)
        np.testing.assert_allclose(loss, -power * log_p, rtol=2e-5, atol=1e-37)
        np.testing.assert_allclose(tape.gradient(loss, x), sign * slope, rtol=2e-5, atol=1e-37)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_focal_loss_of_a_product_has_a_finite_gradient_wherever_its_factors_are(label):
    at = np.array([-200.0, -60.0, -1.0, 8.0, 17.0, 30.0, 200.0])
    x = tf.constant(at, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = product_log_prob(x, x)
        loss = Focal(gamma=0.5).of_log_prob(tf.fill([7], label), log_prob)
    slope = tape.gradient(loss, x).numpy()
    assert np.isfinite(loss).all() and np.isfinite(slope).all()
    # One that is wrong for certain still learns, but where it is saturated beyond its digits.
    wrong = at < 0 if label else (at > 0) & (at < 100)
    assert (np.abs(slope[wrong]) > 1e-6).all()
