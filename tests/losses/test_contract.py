"""What holds of every registered loss per example, and how one's own is declared."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.losses.test_class_weights import BUYS, CLICKS, model_of, per_task, problem, rows
from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec, binary, categorical, regression
from tfmtl.errors import SpecError
from tfmtl.losses import BinaryLoss, LabelSmoothing, Poly1, build
from tfmtl.losses.per_example import product_log_prob

SMALL = {
    "cross_entropy": {},
    "focal": {"gamma": 1.3, "alpha": 0.3},
    "huber": {"delta": 0.7},
    "label_smoothing": {"smoothing": 0.2, "prior": 0.3},
    "log_cosh": {"delta": 0.7},
    "poly1": {"epsilon": -0.5},
    "pseudo_huber": {"delta": 0.7},
    "squared": {},
}
"""Arguments of each loss for these tests, other than its defaults: a new loss is a row here."""

BINARY = [name for name in SMALL if registry.get("loss", name).task_kind == "binary"]
each_loss = pytest.mark.parametrize("name", SMALL)
each_binary = pytest.mark.parametrize("name", BINARY)
Y = np.array([0.0, 1.0, 0.3, 1.0, 0.0])
X = np.array([-2.0, 0.7, 4.0, -1.0, 3.0])


def configured(name):
    return {"name": name, **SMALL[name]}


def made(name):
    return registry.build("loss", configured(name))


def declared(name, **more):
    make = {"binary": binary, "regression": regression}[registry.get("loss", name).task_kind]
    return make("t", label="y", loss=configured(name), **more)


def test_every_registered_loss_is_in_the_table_of_this_file():
    parts = {name: registry.get("loss", name) for name in registry.names("loss")}
    ours = {name for name, part in parts.items() if part.__module__.startswith("tfmtl.")}
    assert ours == set(SMALL), (
        f"losses without a row: {sorted(ours - set(SMALL))}; rows without a loss: "
        f"{sorted(set(SMALL) - ours)}. Add a row to SMALL in {__file__}, as "
        '"focal": {"gamma": 1.3}, with the arguments that its tests take.'
    )


@each_loss
def test_a_loss_keeps_every_argument_as_an_attribute_of_its_name(name):
    for argument, parameter in inspect.signature(registry.get("loss", name)).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
        assert argument in SMALL[name], f"give {argument!r} in the row of {name!r} in SMALL"
        assert getattr(made(name), argument) == SMALL[name][argument] != parameter.default


@each_loss
def test_a_task_with_the_loss_comes_back_from_json(name):
    spec = ProblemSpec(features=(categorical("ad"),), tasks=(declared(name),))
    plain = json.loads(json.dumps(spec.to_json()))
    assert ProblemSpec.from_json(plain) == spec
    assert plain["tasks"][0]["loss"] == configured(name)


@each_loss
def test_a_loss_is_one_number_per_row_and_has_a_slope_there_alone(name):
    x = tf.constant(X, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = build(declared(name))(tf.constant(Y, tf.float32), {"logit": x})
    assert loss.shape == x.shape and loss.dtype == x.dtype
    jacobian = tape.jacobian(loss, x).numpy()
    off = jacobian[~np.eye(len(X), dtype=bool)]
    assert (off == 0).all() and (np.diag(jacobian) != 0).all()


@each_loss
def test_a_prediction_that_moves_away_from_a_hard_label_costs_more(name):
    steps = np.linspace(0, 6, 25)
    for label, away in ((1.0, 2.5 - steps), (0.0, steps - 2.5)):
        if registry.get("loss", name).task_kind == "regression":
            away = label + steps
        loss = made(name)(tf.fill([25], label), tf.constant(away, tf.float32))
        if name == "label_smoothing":
            # Beyond the smoothed label a hard prediction costs more again.
            loss = loss[8:]
        assert (np.diff(loss) > 0).all()


@each_binary
def test_a_soft_label_has_parts_of_a_positive_and_of_a_negative(name):
    x, loss = tf.constant(X), made(name)
    ones, zeros = tf.ones_like(x), tf.zeros_like(x)
    want = Y * loss(ones, x) + (1 - Y) * loss(zeros, x)
    np.testing.assert_allclose(loss(tf.constant(Y), x), want, rtol=1e-12)


@each_binary
def test_a_binary_loss_is_one_function_of_the_probability_for_both_kinds_of_head(name):
    a, b, y = tf.constant(X), tf.constant(X[::-1] + 0.5), tf.constant(Y)
    log_prob = product_log_prob(a, b)
    p = np.exp(log_prob)
    logit = tf.constant(np.log(p) - np.log1p(-p))
    np.testing.assert_allclose(made(name).of_log_prob(y, log_prob), made(name)(y, logit), rtol=1e-9)


@each_binary
def test_a_product_head_is_trained_by_the_declared_loss_and_nothing_else(name):
    model = model_of("esmm", ctcvr={"loss": configured(name), "positive_weight": 3.0})
    p = model(rows())["ctcvr"].numpy().astype(np.float64)
    logits = tf.constant(np.log(p) - np.log1p(-p))
    want = np.mean(made(name)(tf.constant(BUYS), logits) * np.where(BUYS == 1, 3.0, 1.0))
    np.testing.assert_allclose(per_task(model)["ctcvr"], want, rtol=1e-4)
    if name != "cross_entropy":
        plain = per_task(model_of("esmm", ctcvr={"positive_weight": 3.0}))["ctcvr"]
        assert abs(float(plain) - want) > 1e-3


@each_loss
def test_a_misspelt_argument_is_refused_when_the_task_is_declared(name):
    with pytest.raises(SpecError, match=f"task 't': loss '{name}' has no argument 'gama'"):
        kind = registry.get("loss", name).task_kind
        {"binary": binary, "regression": regression}[kind](
            "t", label="y", loss={"name": name, "gama": 1.0}
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: binary("t", label="y", loss="focall"), ["'focall'", "Did you mean 'focal'?"]),
        (lambda: binary("t", label="y", loss="huber"), ["no loss of a binary task", str(BINARY)]),
        (lambda: regression("t", label="y", loss="focal"), ["no loss of a regression task"]),
        (lambda: of("focal", gamma=-0.5), ["gamma=-0.5 must be at least 0"]),
        (lambda: of("focal", gamma=float("nan")), ["gamma=nan must be at least 0"]),
        (lambda: of("focal", alpha=1.0), ["alpha=1.0 must be between 0 and 1"]),
        (lambda: of("poly1", epsilon=-1.5), ["epsilon=-1.5 must be at least -1"]),
        (lambda: of("label_smoothing", smoothing=1.0), ["smoothing=1.0 must be from 0"]),
        (lambda: of("label_smoothing", prior=2.0), ["prior=2.0 must be from 0 to 1"]),
        (lambda: binary("t", label="y", loss={"gamma": 1.0}), ["needs a 'name'"]),
        (lambda: binary("t", label="y", loss=Plain), ["tfmtl.losses.BinaryLoss", "function"]),
        (lambda: binary("t", label="y", loss=lambda y, x: y), ["at the top of a module"]),
        (
            lambda: binary(
                "t", label="y", head="ctr", trained=False, served=False, loss="focal"
            ),
            ["trained=False it has no loss"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_loss_is_named_with_its_task(make, words):
    with pytest.raises(SpecError, match="task 't'") as error:
        make()
    for word in words:
        assert word in str(error.value)


def of(name, **arguments):
    return binary("t", label="y", loss={"name": name, **arguments})


# --- one's own -------------------------------------------------------------------------------


class Brier(BinaryLoss):
    def __init__(self, *, scale=1.0):
        self.scale = scale

    def from_logs(self, labels, log_p, log_rest):
        return self.scale * tf.square(labels - tf.exp(log_p))


class Plain:
    def __call__(self, labels, logits):
        return labels - logits


def hinge(labels, logits, *, margin=1.0):
    return tf.nn.relu(margin - (2 * labels - 1) * logits)


def mean_hinge(labels, logits):
    return tf.reduce_mean(hinge(labels, logits))


@pytest.mark.parametrize("semantics", ["ctcvr_direct", "esmm"])
def test_a_class_of_ones_own_trains_both_kinds_of_head(semantics):
    model = model_of(semantics, ctcvr={"loss": {"name": Brier, "scale": 2.0}})
    p = model(rows())["ctcvr"].numpy()
    np.testing.assert_allclose(per_task(model)["ctcvr"], np.mean(2 * (BUYS - p) ** 2), rtol=1e-5)


def test_a_function_of_ones_own_is_a_loss_of_logits_and_comes_back_from_json():
    loss = {"name": hinge, "margin": 3.0}
    model = model_of(ctr={"loss": loss, "positive_weight": 2.0})
    p = model(rows())["ctr"].numpy().astype(np.float64)
    logits = np.log(p) - np.log1p(-p)
    rowwise = np.maximum(3 - (2 * CLICKS - 1) * logits, 0) * np.where(CLICKS == 1, 2.0, 1.0)
    np.testing.assert_allclose(per_task(model)["ctr"], np.mean(rowwise), rtol=1e-4)
    spec = problem(ctr={"loss": loss})
    assert ProblemSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_registered_function_is_known_by_its_name_to_tasks_of_both_kinds():
    registry.register("loss", "hinge_of_a_test")(hinge)
    try:
        config = {"name": "hinge_of_a_test", "margin": 2.0}
        loss = build(binary("t", label="y", loss=config))
        np.testing.assert_allclose(loss(tf.ones([1]), {"logit": tf.zeros([1])}), [2.0])
        assert regression("t", label="y", loss=hinge).loss == {"name": "hinge_of_a_test"}
        with pytest.raises(SpecError, match="'hinge_of_a_test'"):
            binary("t", label="y", loss="squared")
    finally:
        # There is no public way to forget a part, and other tests count them.
        registry._PARTS["loss"].pop("hinge_of_a_test")


def test_a_loss_without_a_form_on_log_probabilities_is_refused_by_a_product_head():
    with pytest.raises(SpecError, match="task 'ctcvr': .*hinge' has no form on log-prob.*Binary"):
        model_of("esmm", ctcvr={"loss": hinge})
    # The conversion head of ESMM has a loss only where it is trained by itself.
    assert "cvr" not in model_of("esmm", cvr={"loss": hinge}).heads.trained


def test_a_loss_that_takes_the_mean_by_itself_is_refused():
    loss = build(binary("t", label="y", loss=mean_hinge))
    with pytest.raises(ValueError, match=r"labels \[2\], losses \[\]"):
        loss(tf.ones([2]), {"logit": tf.ones([2])})


# --- exact values ----------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 2.0])
def test_poly1_adds_epsilon_times_the_probability_of_the_other_label(epsilon):
    x = tf.constant(X)
    p = 1 / (1 + np.exp(-X))
    for label, of_label in ((1.0, p), (0.0, 1 - p)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = Poly1(epsilon=epsilon)(tf.fill(X.shape, label), x)
        want = -np.log(of_label) + epsilon * (1 - of_label)
        np.testing.assert_allclose(loss, want, rtol=1e-12)
        # dL/dPₜ = −1/Pₜ − ε, and dPₜ/dx = ± p (1 − p).
        slope = -(1 / of_label + epsilon) * p * (1 - p) * (2 * label - 1)
        np.testing.assert_allclose(tape.gradient(loss, x), slope, rtol=1e-12)


def test_poly1_with_minus_1_starts_with_the_square_of_the_error():
    # Without its first power, (1 − p)² / 2 is the largest part of the cross-entropy left.
    loss = Poly1(epsilon=-1.0)(tf.ones([1], tf.float64), tf.constant([7.0], tf.float64))
    error = 1 / (1 + np.exp(7.0))
    np.testing.assert_allclose(loss, [error**2 / 2 + error**3 / 3], rtol=1e-5)


def test_a_smoothed_label_is_mixed_with_the_prior():
    x = tf.constant([0.4, 0.4])
    log_p, log_rest = -np.logaddexp(0, -0.4), -np.logaddexp(0, 0.4)
    loss = LabelSmoothing(smoothing=0.2)(tf.constant([1.0, 0.0]), x)
    want = [-0.9 * log_p - 0.1 * log_rest, -0.1 * log_p - 0.9 * log_rest]
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    with_prior = LabelSmoothing(smoothing=0.2, prior=0.05)(tf.constant([1.0, 0.0]), x)
    want = [-0.81 * log_p - 0.19 * log_rest, -0.01 * log_p - 0.99 * log_rest]
    np.testing.assert_allclose(with_prior, want, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_with_its_own_rate_as_prior_a_constant_stays_calibrated(smoothing):
    rate = 0.04
    y = tf.constant([1.0] * 4 + [0.0] * 96, tf.float64)
    x = tf.Variable(np.log(rate) - np.log1p(-rate), dtype=tf.float64)
    with tf.GradientTape() as tape:
        rows_ = LabelSmoothing(smoothing=smoothing, prior=rate)(y, tf.fill([100], x))
        loss = tf.reduce_mean(rows_)
    assert abs(float(tape.gradient(loss, x))) < 1e-12
