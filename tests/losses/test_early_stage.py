"""What each row of the consolidated log teaches: losses, gradients, optima, measured rows."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.early_rows import ASKED, KIND, NAN, E, log, pack, problem
from tfmtl.declare import early_stage
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.problem import binary
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.model.multitask import MultiTaskModel

CLICK = log()["click"]
TOWERS = {"name": "two_tower", "user_units": (8,), "ad_units": (8,), "width": 4}
SHARED = {"name": "mmoe", "num_experts": 2, "expert_units": (8,)}
DOT = {**TOWERS, "interaction": "dot"}


def model_of(spec=None, teacher="separate", backbone=None, seed=0):
    spec = spec or problem(early_stage.tasks(teacher=teacher))
    names = spec.task_names
    weights = early_stage.loss_weights(teacher=teacher)
    preprocessor = Preprocessor(spec)
    packed = preprocessor.fit(log())
    config = Model(
        backbone=backbone or TOWERS,
        dim=4,
        tower_units=() if backbone == DOT else (8,),
        balancer={
            "name": "fixed",
            "task_weights": {n: w for n, w in weights.items() if n in names},
            "reduction": "sum",
        },
        l2=0.0,
    )
    keras.utils.set_random_seed(seed)
    model = MultiTaskModel.build_from(spec, preprocessor.table_rows(), config)
    model(packed)
    for table in model.tables:
        table.assign(tf.random.normal(table.shape, seed=seed))
    return model


def rows(packed, chosen):
    return {name: tf.boolean_mask(value, chosen) for name, value in packed.items()}


def gradients(model, batch, variables=None):
    variables = model.trainable_variables if variables is None else variables
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(batch)
    found = tape.gradient(loss, variables, unconnected_gradients="zero")
    return float(loss), [tf.convert_to_tensor(g).numpy() for g in found]


def head(model, task):
    return [*model.heads.towers[task].trainable_variables, *model.heads.logits[task].variables]


@pytest.mark.parametrize("kinds", [["R2"], ["R3", "R4"]])
@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_a_click_column_where_no_click_was_asked_moves_no_bit_of_the_loss(kinds, value):
    model = model_of(teacher="both")
    loss, found = gradients(model, pack(log(), model.problem))
    flipped = log(click=np.where(np.isin(KIND, kinds), np.float32(value), CLICK))
    other, changed = gradients(model, pack(flipped, model.problem))
    assert loss == other
    for one, two in zip(found, changed, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_click_of_an_impression_moves_the_loss_and_the_click_head():
    model = model_of()
    batch = pack(log())
    labels = batch[LABELS].numpy()
    labels[1, 0] = 1
    loss, found = gradients(model, batch, head(model, "ctr"))
    other, changed = gradients(model, {**batch, LABELS: labels}, head(model, "ctr"))
    assert loss != other
    assert all((one != two).any() for one, two in zip(found, changed, strict=True))


@pytest.mark.parametrize(
    ("chosen", "taught"),
    [
        (KIND == "R1", {"ctr", "cqs", "teacher"}),
        (KIND == "R2", {"cqs"}),
        ((KIND == "R3") & ASKED, {"ctr", "cqs", "teacher"}),
        ((KIND == "R3") & ~ASKED, {"cqs"}),
        ((KIND == "R4") & ASKED, {"ctr", "cqs", "teacher"}),
        ((KIND == "R4") & ~ASKED, {"cqs"}),
    ],
    ids=["R1", "R2", "R3", "R3 by quality", "R4", "R4 by quality"],
)
def test_rows_of_a_type_teach_the_heads_of_their_masks_and_no_other(chosen, taught):
    model = model_of()
    batch = rows(pack(log()), chosen)
    for task in model.problem.task_names:
        _, found = gradients(model, batch, head(model, task))
        assert any(g.any() for g in found) == (task in taught), task


def test_without_pseudo_labels_an_ad_that_was_not_shown_teaches_no_click_rate():
    model = model_of(problem(early_stage.tasks(pseudo_labels=False)))
    batch = rows(pack(log(), model.problem), np.isin(KIND, ["R3", "R4"]))
    _, found = gradients(model, batch, head(model, "ctr"))
    assert not any(g.any() for g in found)


def test_a_pseudo_labelled_row_counts_as_its_weight_in_the_mean():
    task = {"label": "click", "observed_if": "ctr_traffic", "labelled_if": "is_impression"}
    spec = problem((binary("ctr", pseudo_label="final_pctr", pseudo_weight=0.5, **task),))
    model = model_of(spec)
    batch = pack(log(), spec)
    p = model(batch)["ctr"].numpy().astype(np.float64)
    y = np.where(KIND == "R1", CLICK, E)
    entropy = -y * np.log(p) - (1 - y) * np.log(1 - p)
    w = np.select([KIND == "R1", ASKED], [1.0, 0.5], 0.0)
    expected = (w * np.nan_to_num(entropy)).sum() / w.sum()
    assert float(model.compute_loss(batch)[1][0]) == pytest.approx(expected, rel=1e-5)


def say(model, task, p):
    """Makes a head predict `p` of everything, by its bias alone."""
    logit = model.heads.logits[task]
    logit.kernel.assign(tf.zeros_like(logit.kernel))
    logit.bias.assign([np.log(p) - np.log1p(-p)])
    return logit.bias


def slope_at(model, batch, task, p):
    (slope,) = gradients(model, batch, [say(model, task, p)])[1]
    return float(slope[0])


@pytest.mark.parametrize("row", [0, 3, 6, 8])
def test_the_teachers_entropy_is_least_where_the_student_agrees_with_it(row):
    model = model_of()
    batch = rows(pack(log()), np.arange(10) == row)
    e = float(E[row])
    found = {}
    for p in (e / 2, e * 0.98, e, e * 1.02, (1 + e) / 2):
        # Twice, the paper's weight, the cross-entropy's p - e.
        assert slope_at(model, batch, "teacher", p) == pytest.approx(2 * (p - e), abs=1e-6)
        found[p] = float(model.compute_loss(batch)[1][2])
    assert min(found, key=found.get) == e
    assert found[e] == pytest.approx(-e * np.log(e) - (1 - e) * np.log(1 - e), rel=1e-5)


@pytest.mark.parametrize(("mode", "distilled"), [("shared", 2.0), ("both", 1.0)])
@pytest.mark.parametrize("row", [0, 1])
def test_a_teacher_on_the_click_head_settles_between_click_and_teacher(mode, distilled, row):
    model = model_of(teacher=mode)
    batch = rows(pack(log(), model.problem), np.arange(10) == row)
    y, e = float(CLICK[row]), float(E[row])
    optimum = (1.0 * y + distilled * e) / (1.0 + distilled)
    assert slope_at(model, batch, "ctr", optimum) == pytest.approx(0, abs=1e-6)
    for p in (e, optimum - 0.01, optimum + 0.01):
        slope = slope_at(model, batch, "ctr", p)
        assert slope == pytest.approx((1 + distilled) * (p - optimum), abs=1e-6)
    # Where nobody saw the ad, both say the same.
    unseen = rows(pack(log(), model.problem), np.arange(10) == 6)
    assert slope_at(model, unseen, "ctr", float(E[6])) == pytest.approx(0, abs=1e-6)


def test_a_separate_teacher_leaves_the_click_head_to_the_clicks():
    model = model_of()
    batch = rows(pack(log()), np.arange(10) == 0)
    for p in (0.2, 0.7):
        assert slope_at(model, batch, "ctr", p) == pytest.approx(p - CLICK[0], abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "heads", "trained"),
    [
        ("separate", ("ctr", "cqs", "teacher"), ("ctr", "cqs", "teacher")),
        ("shared", ("ctr", "cqs"), ("ctr", "cqs", "teacher_on_ctr")),
        ("both", ("ctr", "cqs", "teacher"), ("ctr", "cqs", "teacher", "teacher_on_ctr")),
        ("none", ("ctr", "cqs"), ("ctr", "cqs")),
    ],
)
def test_each_mode_has_its_heads_and_serves_the_click_rate_and_the_quality(mode, heads, trained):
    model = model_of(teacher=mode)
    assert model.heads.tasks == heads and set(model.heads.logits) == set(heads)
    assert model.heads.trained == model.problem.task_names == trained
    batch = pack(log(), model.problem)
    assert set(model(batch)) == set(trained)
    assert set(model.predict_served(batch)) == {"ctr", "cqs"}
    if "teacher_on_ctr" in trained:
        np.testing.assert_array_equal(model(batch)["teacher_on_ctr"], model(batch)["ctr"])


@pytest.mark.parametrize("backbone", [TOWERS, DOT, SHARED], ids=["joint", "dot", "mmoe"])
def test_the_teachers_weights_change_nothing_that_is_served(backbone):
    model = model_of(backbone=backbone)
    batch = pack(log())
    before, taught = model.predict_served(batch), model(batch)["teacher"].numpy()
    for variable in head(model, "teacher"):
        variable.assign(tf.random.normal(variable.shape))
    after = model.predict_served(batch)
    for task in before:
        np.testing.assert_array_equal(before[task], after[task])
        np.testing.assert_allclose(after[task], model(batch)[task], rtol=1e-6)
    assert (model(batch)["teacher"].numpy() != taught).all()


def test_a_teachers_head_is_not_computed_where_it_is_not_served(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the teacher was asked")

    model, batch = model_of(), pack(log())
    monkeypatch.setattr(model.heads.logits["teacher"], "call", refuse)
    model.predict_served(batch)
    with pytest.raises(AssertionError, match="the teacher was asked"):
        model(batch)


def test_clicks_are_measured_on_the_impressions_that_were_asked_for_them():
    model = model_of()
    batch = pack(log())
    found = model.evaluate(ArrayRows(batch).batches(4))
    seen = KIND == "R1"
    p, y = model(batch)["ctr"].numpy()[seen].astype(np.float64), CLICK[seen]
    pairs = p[y == 1][:, None] - p[y == 0]
    assert found["ctr/auc@ctr_traffic&is_impression"] == ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    entropy = np.mean(-y * np.log(p) - (1 - y) * np.log(1 - p))
    rate = y.mean()
    base = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert found["ctr/ne@ctr_traffic&is_impression"] == pytest.approx(entropy / base, rel=1e-6)
    assert found["mean_auc"] == found["ctr/auc@ctr_traffic&is_impression"]
    error = model(batch)["cqs"].numpy() - batch[LABELS][:, 1]
    assert found["cqs/mse@imp"] == pytest.approx(np.mean(error**2), rel=1e-5)


def test_no_prediction_is_measured_by_a_pseudo_label():
    model = model_of()
    batch = pack(log())
    pseudo = (batch[PSEUDO] > 0).numpy()
    assert pseudo.any()
    spoilt = np.where(pseudo, 1 - batch[LABELS].numpy(), batch[LABELS].numpy())
    one = model.evaluate([batch])
    other = model.evaluate([{**batch, LABELS: tf.constant(spoilt, tf.float32)}])
    np.testing.assert_equal(other, one)
    assert float(model.compute_loss({**batch, LABELS: spoilt})[0]) != float(
        model.compute_loss(batch)[0]
    )
    observed = model.predict_rows([batch]).observed
    np.testing.assert_array_equal(observed, (batch[WEIGHTS] > 0) & ~pseudo)
