"""The model and its one step: spaces, products, exact zeros."""

import numpy as np
import pytest
import tensorflow as tf

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl import registry
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

PREPROCESSOR, DATA = packed()
BATCH = next(iter(DATA.train.batches(64)))


def model_of(backbone="shared_bottom", **changes):
    settings = experiment(backbone={"name": backbone, **SMALL[backbone]}, **changes)
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def gradients(model, batch, variables):
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(batch)
    return [
        tf.convert_to_tensor(g) if g is not None else tf.zeros_like(v)
        for g, v in zip(tape.gradient(loss, variables), variables, strict=True)
    ]


def with_labels(task, values):
    labels = BATCH[LABELS].numpy()
    labels[:, PROBLEM.task_names.index(task)] = values
    return {**BATCH, LABELS: tf.constant(labels)}


@pytest.mark.parametrize("name", registry.names("backbone"))
def test_every_backbone_trains_and_its_loss_falls(name):
    model = model_of(name)
    first = float(model.compute_loss(BATCH)[0])
    step = tf.function(model.train_step)
    for _ in range(30):
        step(BATCH)
    assert float(model.compute_loss(BATCH)[0]) < first


@pytest.mark.parametrize("name", registry.names("backbone"))
def test_rows_do_not_see_each_other_at_inference(name):
    model = model_of(name)
    order = np.random.default_rng(0).permutation(64)
    shuffled = {key: tf.gather(value, order) for key, value in BATCH.items()}
    for task, prediction in model(BATCH).items():
        np.testing.assert_allclose(model(shuffled)[task], tf.gather(prediction, order), atol=1e-6)


def test_a_label_outside_its_space_changes_no_gradient():
    model = model_of(conv_semantics="cvr_click")
    clicked = BATCH[WEIGHTS].numpy()[:, 1] > 0
    flipped = with_labels("cvr", np.where(clicked, BATCH[LABELS][:, 1], 1.0))
    variables = model.trainable_variables
    for one, other in zip(
        gradients(model, BATCH, variables), gradients(model, flipped, variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_without_an_observed_row_a_tasks_tower_gets_exactly_no_gradient():
    model = model_of(l2=0.0)
    weights = BATCH[WEIGHTS].numpy()
    weights[:, 1] = 0
    tower = model.heads.towers["cvr"].trainable_variables
    found = gradients(model, {**BATCH, WEIGHTS: tf.constant(weights)}, tower)
    assert all(not np.any(g) for g in found)
    assert any(np.any(g) for g in gradients(model, BATCH, tower))


def test_esmm_learns_the_conversion_rate_through_the_product_alone():
    model = model_of("esmm", l2=0.0)
    flipped = with_labels("cvr", 1.0 - BATCH[LABELS][:, 1])
    tower = model.backbone.trainable_variables + model.heads.logits["cvr"].trainable_variables
    for one, other in zip(
        gradients(model, BATCH, tower), gradients(model, flipped, tower), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    product = gradients(model, with_labels("ctcvr", 1.0), tower)
    assert any(np.any(g) for g in product)


def test_esmm_with_a_click_rate_of_zero_teaches_the_conversion_tower_nothing():
    model = model_of("esmm", l2=0.0)
    model.heads.logits["ctr"].bias.assign([-200.0])
    without = with_labels("ctcvr", 0.0)
    found = gradients(model, without, model.heads.logits["cvr"].trainable_variables)
    assert all(np.abs(g).max() < 1e-12 for g in found)


@pytest.mark.parametrize("semantics", ["cvr_click", "esmm", "mtms", "mtms_literal"])
def test_a_product_is_the_product_and_never_above_its_factors(semantics):
    model = model_of(conv_semantics=semantics)
    out = {task: p.numpy() for task, p in model(BATCH).items()}
    np.testing.assert_allclose(out["ctcvr"], out["ctr"] * out["cvr"], rtol=1e-5)
    assert np.all(out["ctcvr"] <= np.minimum(out["ctr"], out["cvr"]) + 1e-7)


def test_a_direct_head_is_not_multiplied():
    model = model_of(conv_semantics="ctcvr_direct")
    before = model(BATCH)["ctcvr"].numpy()
    model.heads.logits["ctr"].bias.assign([-5.0])
    np.testing.assert_array_equal(model(BATCH)["ctcvr"], before)


def test_in_cvr_click_the_product_has_no_loss():
    model = model_of(conv_semantics="cvr_click")
    assert model.heads.trained == ("ctr", "cvr", "cqs")
    variables = model.trainable_variables
    flipped = with_labels("ctcvr", 1.0 - BATCH[LABELS][:, 2])
    for one, other in zip(
        gradients(model, BATCH, variables), gradients(model, flipped, variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_in_mtms_the_conversion_head_learns_from_clicks_and_in_its_literal_form_from_all_rows():
    unclicked = BATCH[WEIGHTS][:, 1] == 0
    for semantics, reaches in (("mtms", False), ("mtms_literal", True)):
        model = model_of(conv_semantics=semantics, l2=0.0)
        assert model.heads.trained == ("ctr", "cvr", "ctcvr", "cqs")
        # One batch of rows without a click, on which only ctr and the product are observed: the
        # literal form adds the conversion head's own loss on them.
        rows = {name: tf.boolean_mask(value, unclicked) for name, value in BATCH.items()}
        _, per_task = model.compute_loss(rows)
        assert (float(per_task[1]) > 0) == reaches


def test_esmm_without_a_funnel_is_refused_with_the_three_tasks_it_needs():
    problem = ProblemSpec(
        features=(categorical("x"),), tasks=(binary("a", label="a"), binary("b", label="b"))
    )
    with pytest.raises(SpecError, match=r"binary\('ctcvr', label='conversion'\)"):
        MultiTaskModel.build_from(problem, {"x": 4}, Model(backbone={"name": "esmm"}))


def test_a_wrong_argument_of_a_part_is_named():
    with pytest.raises(SpecError, match="Did you mean 'num_experts'"):
        MultiTaskModel.build_from(
            PROBLEM, DATA.table_rows, Model(backbone={"name": "mmoe", "num_expert": 3})
        )
    with pytest.raises(SpecError, match="Did you mean 'mmoe'"):
        MultiTaskModel.build_from(PROBLEM, DATA.table_rows, Model(backbone={"name": "mmmoe"}))


def test_weight_decay_is_half_the_square_of_kernels_and_of_looked_up_rows_over_the_batch():
    plain, decayed = model_of(l2=0.0), model_of(l2=0.1)
    for one, other in zip(plain.variables, decayed.variables, strict=True):
        other.assign(one)
    kernels = sum(float(np.sum(v.numpy() ** 2)) for v in plain.dense_variables if v.shape.rank > 1)
    _, squares = plain.embedding.embed(BATCH)
    expected = 0.05 * (kernels + float(squares) / 64)
    found = float(decayed.compute_loss(BATCH)[0]) - float(plain.compute_loss(BATCH)[0])
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_table_row_no_batch_looked_up_is_bit_identical_after_training():
    model = model_of()
    before = {t.name: t.numpy() for t in model.tables}
    model.train_step(BATCH)
    for table in model.tables:
        changed = np.flatnonzero((table.numpy() != before[table.name]).any(axis=1))
        assert 0 < len(changed) < table.shape[0]
        assert 0 not in changed


def test_tasks_of_single_task_share_no_variable():
    model = model_of("single_task", l2=0.0)
    only_click = {**BATCH, WEIGHTS: BATCH[WEIGHTS] * tf.constant([1.0, 0, 0, 0])}
    own = gradients(model, only_click, model.embedding["ctr"].trainable_variables)
    others = gradients(model, only_click, model.embedding["cvr"].trainable_variables)
    assert any(np.any(g) for g in own)
    assert all(not np.any(g) for g in others)


def test_heads_start_at_the_base_rate_and_a_regression_in_its_own_unit():
    from tfmtl.features.rows import label_moments

    model = model_of()
    mean, std = label_moments(DATA.train)
    model.heads.adapt(mean, std)
    labels = DATA.train.tensors[LABELS].numpy()
    clicked = DATA.train.tensors[WEIGHTS].numpy()[:, 1] > 0
    np.testing.assert_allclose(mean[1], labels[clicked, 1].mean(), rtol=1e-5)
    np.testing.assert_allclose(std[3], labels[:, 3].std(), rtol=1e-4)
    out = model(BATCH)
    assert float(tf.reduce_mean(out["ctr"])) == pytest.approx(mean[0], rel=0.3)
    assert float(tf.reduce_mean(out["cqs"])) == pytest.approx(mean[3], abs=std[3])


def test_exact_metrics_are_on_each_tasks_own_space():
    model = model_of()
    metrics = model.evaluate(DATA.validation.batches(100))
    rows = model.predict_rows(DATA.validation.batches(77))
    clicked = rows.observed[:, 1]
    p, y = rows.predictions["cvr"][clicked], rows.labels[clicked, 1]
    above = (p[y == 1][:, None] > p[y == 0]).mean() + 0.5 * (p[y == 1][:, None] == p[y == 0]).mean()
    assert metrics["cvr/auc@click"] == pytest.approx(above, abs=1e-9)
    assert {"ctr/gauc@imp", "ctcvr/ne@imp", "cqs/mae@imp", "mean_auc"} <= set(metrics)


def test_the_validation_loss_does_not_depend_on_a_regressions_unit():
    from tfmtl.features.rows import label_moments

    mean, std = label_moments(DATA.train)
    model = model_of()
    model.heads.adapt(mean, std)
    rows = DATA.validation.count()
    one = model.evaluate(DATA.validation.batches(rows))["loss"]
    model.heads.adapt(1000 * mean * [0, 0, 0, 1] + mean * [1, 1, 1, 0], 1000 * std)
    batch = next(iter(DATA.validation.batches(rows)))
    other = model.evaluate([{**batch, LABELS: batch[LABELS] * tf.constant([1.0, 1, 1, 1000])}])
    assert other["loss"] == pytest.approx(one, rel=1e-4)
    model.heads.adapt(mean, std)
    per_task = model.compute_loss(batch)[1]
    assert one == pytest.approx(float(tf.reduce_mean(per_task)), rel=1e-4)


def test_fitted_by_hand_keras_stops_early_and_restores_the_best_weights():
    import tf_keras as keras

    settings = experiment(backbone={"name": "shared_bottom", **SMALL["shared_bottom"]})
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    model.compile(keras.optimizers.Adam(0.05))
    stop = keras.callbacks.EarlyStopping("val_mean_auc", patience=2, restore_best_weights=True)
    history = model.fit(
        DATA.train.batches(64, seed=1),
        validation_data=DATA.validation.batches(512),
        epochs=12,
        verbose=0,
        callbacks=[stop],
    ).history["val_mean_auc"]
    assert len(history) < 12
    again = model.evaluate(DATA.validation.batches(512))["mean_auc"]
    assert again == pytest.approx(max(history), abs=1e-9)


def test_tables_follow_the_schedule_of_the_dense_variables_rate():
    import tf_keras as keras

    model = model_of()
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 4)))
    model.fit(DATA.train.batches(64, seed=1), steps_per_epoch=4, verbose=0)
    rates = [
        float(optimizer.learning_rate.numpy())
        for optimizer in (model.optimizer, model.embedding_optimizer)
    ]
    assert rates[0] == rates[1] < 0.01
