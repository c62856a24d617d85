"""One model a scene: what a scene's training leaves alone, and what a scene's model is."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl.backbones import PerScene, SharedBottom
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.errors import SpecError
from tfmtl.layers.embedding import Embedding
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.model.optimizers import RowwiseAdam

FEATURES = (
    categorical("scene", encoding="identity", size=4),
    categorical("user", encoding="identity", size=5, dim=2),
    categorical("tags", encoding="identity", size=3, max_values=2),
    numerical("x"),
    numerical("y"),
)
PROBLEM = ProblemSpec(
    features=FEATURES,
    tasks=(binary("ctr", label="click"), regression("cqs", label="quality")),
    scene="scene",
)
ROWS = {"scene": 6, "user": 7, "tags": 5}
A, B = 2, 5
BACKBONE = {"name": "per_scene", "bottom_units": (6,), "task_units": (5,)}


def batch_of(scenes, rows=48, seed=0):
    rng = np.random.default_rng(seed)
    scene = rng.choice(scenes, rows)
    tags = np.where(rng.random([rows, 2]) < 0.3, -1, rng.integers(0, 5, [rows, 2]))
    ids = np.concatenate([scene[:, None], rng.integers(0, 7, [rows, 1]), tags], axis=1)
    labels = np.stack([rng.random(rows) < 0.4, rng.normal(3, 2, rows)], axis=1)
    return {
        "ids_context": tf.constant(ids, tf.int32),
        "numbers_context": tf.constant(rng.normal(size=[rows, 2]), tf.float32),
        LABELS: tf.constant(labels, tf.float32),
        WEIGHTS: tf.ones([rows, 2]),
    }


def model_of(optimizer=None, **changes):
    backbone = {**BACKBONE, **changes.pop("backbone", {})}
    settings = {"dim": 3, "balancer": {"name": "fixed"}, **changes}
    model = MultiTaskModel.build_from(PROBLEM, ROWS, Model(backbone=backbone, **settings))
    model.compile(optimizer or keras.optimizers.Adam(0.02))
    model(batch_of([A, B]))
    return model


def of_scene(model, scene):
    """Values of every weight that the scene's predictions are made with."""
    found = {f"heads {i}": v.numpy() for i, v in enumerate(model.heads.weights)}
    tables = {id(table) for table in model.tables}
    for v in (*model.embedding.weights, *model.backbone.weights):
        stacked = v.numpy()[1:] if id(v) in tables else v.numpy()  # after the padding row
        found[v.name] = np.split(stacked, ROWS["scene"])[scene]
    parts = (model.heads, model.embedding, model.backbone)
    assert len(found) == sum(len(part.weights) for part in parts)
    return found


@pytest.mark.parametrize("numeric_mode", ["joint", "fieldwise"])
@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.Adagrad])
def test_training_one_scene_leaves_all_that_another_predicts_with_bit_identical(
    optimizer, numeric_mode
):
    units = (4,) if numeric_mode == "joint" else ()
    model = model_of(
        optimizer(0.05),
        numeric_mode=numeric_mode,
        numeric_units=units,
        backbone={"batch_norm": True},
        l2=0.01,
    )
    # First both: Adam has a momentum by then, which would carry B on.
    for step in range(4):
        model.train_step(batch_of([A, B], seed=step))
    seen = batch_of([B], seed=9)
    predicted, before, of_a = model(seen), of_scene(model, B), of_scene(model, A)
    for step in range(3):
        model.train_step(batch_of([A], seed=20 + step))
    for key, value in of_scene(model, B).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
    for task, prediction in model(seen).items():
        np.testing.assert_array_equal(prediction, predicted[task])
    trained = [k for k, v in of_scene(model, A).items() if not np.array_equal(v, of_a[k])]
    assert len(trained) > 10


def test_nothing_that_is_trained_is_read_by_two_scenes():
    model = model_of(numeric_units=(4,))
    randomise(model.backbone)
    reached = []
    for scene in (A, B):
        with tf.GradientTape() as tape:
            loss, _ = model.compute_loss(batch_of([scene]))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        assert all(isinstance(g, tf.IndexedSlices) for g in gradients)
        reached.append([set(np.flatnonzero(tf.convert_to_tensor(g))) for g in gradients])
    for first, second, v in zip(*reached, variables, strict=True):
        assert first and second and not first & second, v.name


def test_keras_adam_is_taken_row_wise_with_its_settings():
    schedule = keras.optimizers.schedules.CosineDecay(0.02, 10)
    model = model_of(keras.optimizers.Adam(schedule, beta_1=0.8, clipnorm=2.0))
    taken = model.optimizer
    assert type(taken) is RowwiseAdam
    assert (taken.beta_1, taken.clipnorm, taken._learning_rate) == (0.8, 2.0, schedule)
    sgd = keras.optimizers.SGD(0.1)
    assert model_of(sgd).optimizer is sgd
    with pytest.raises(ValueError, match="amsgrad"):
        model_of(keras.optimizers.Adam(amsgrad=True))


def test_a_scene_s_model_is_a_shared_bottom_with_a_tower_a_task():
    model = model_of()
    randomise(model.backbone)
    fields = tf.random.normal([20, 4, 3])
    plain = SharedBottom(["ctr"], bottom_units=(6,))
    plain(fields)
    bottom = model.backbone.bottoms.dense[0]
    plain.bottom.dense[0].kernel.assign(bottom.kernel[B])
    plain.bottom.dense[0].bias.assign(tf.reshape(bottom.bias, [6, 6])[B])
    tower, logit = model.backbone.towers["ctr"].dense[0], model.backbone.logits["ctr"]
    h = tf.nn.relu(plain(fields)["ctr"] @ tower.kernel[B] + tf.reshape(tower.bias, [6, 5])[B])
    expected = h @ logit.kernel[B] + logit.bias[B]
    found = model.backbone(fields, scene=tf.fill([20], B))["ctr"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_scene_never_trained_gets_every_task_s_base_rate():
    model = model_of()
    model.heads.adapt(np.array([0.2, 7.0]), np.array([0.4, 2.0]))
    for step in range(20):
        model.train_step(batch_of([A, B], seed=step))
    found = model(batch_of([0, 1, 3]))
    np.testing.assert_allclose(found["ctr"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(found["cqs"], 7.0, rtol=1e-5)
    assert np.ptp(model(batch_of([A]))["ctr"]) > 0.01


def test_layers_above_which_scenes_would_share_are_refused():
    with pytest.raises(SpecError, match=r"tower_units=\(8,\) would be layers that all scenes"):
        model_of(tower_units=(8,))


@pytest.mark.parametrize("numeric_mode", ["joint", "fieldwise"])
def test_a_copy_s_fields_are_those_of_an_embedding_of_its_own(numeric_mode):
    units = (4,) if numeric_mode == "joint" else ()
    arguments = {"dim": 3, "numeric_mode": numeric_mode, "numeric_units": units}
    copies = Embedding(PROBLEM, ROWS, copies=3, **arguments)
    own = Embedding(PROBLEM, ROWS, **arguments)
    packed = batch_of([A, B], rows=9)
    copy = tf.constant([0, 2, 1, 2, 2, 0, 1, 1, 2])
    copies.embed(packed, copy)
    own.embed(packed)
    randomise(copies)
    found, squares = copies.embed(packed, copy)
    total = 0.0
    for k in range(3):
        for name, table in own.tables.items():
            block = table.shape[0] - 1
            rows = copies.tables[name].numpy()
            table.assign(np.concatenate([rows[:1], rows[1 + k * block : 1 + (k + 1) * block]]))
        (projection,) = (v for v in own.trainable_weights if "projection" in v.name)
        projection.assign(copies.projections["table_2"].kernel[k])
        if numeric_mode == "joint":
            for mine, theirs in zip(own.number_dense.layers, copies.number_layers, strict=True):
                mine.kernel.assign(theirs.kernel[k])
                mine.bias.assign(tf.reshape(theirs.bias, [3, -1])[k])
        else:
            own.number_kernel.assign(tf.reshape(copies.number_kernel[k], [2, 3]))
            own.number_bias.assign(tf.reshape(copies.number_bias[k], [2, 3]))
        index = np.flatnonzero(copy.numpy() == k)
        of_copy = {n: tf.gather(v, index) for n, v in packed.items()}
        expected, own_squares = own.embed(of_copy)
        np.testing.assert_allclose(tf.gather(found, index), expected, atol=1e-5)
        total += float(own_squares)
    assert float(squares) == pytest.approx(total, rel=1e-5)


def test_unknown_rows_of_every_copy_start_at_zero_and_the_others_do_not():
    copies = Embedding(PROBLEM, ROWS, dim=3, copies=4)
    copies.build(None)
    table = copies.tables["table_3"].numpy()
    zero = [0] + [1 + 11 * k + start for k in range(4) for start in (0, 6)]
    np.testing.assert_array_equal(np.flatnonzero(~table.any(axis=1)), zero)


def test_a_copy_is_told_exactly_where_there_are_several():
    packed = batch_of([A])
    with pytest.raises(ValueError, match="copies=3"):
        Embedding(PROBLEM, ROWS, copies=3).embed(packed)
    with pytest.raises(ValueError, match="copies=1"):
        Embedding(PROBLEM, ROWS).embed(packed, packed["ids_context"][:, 0])


def test_a_backbone_s_representation_of_some_tasks_is_that_of_all():
    backbone = PerScene(["a", "b"], num_scenes=3, bottom_units=(4,), task_units=(3,))
    fields, scene = tf.random.normal([6, 2, 2]), tf.constant([0, 1, 2] * 2)
    whole = backbone(fields, scene=scene)
    some = backbone.represent(fields, ["b"], scene=scene)
    assert list(some) == ["b"]
    np.testing.assert_array_equal(some["b"], whole["b"])
    read = {id(v) for part in backbone.served_parts(["b"]) for v in part.weights}
    assert len(read) < len(backbone.weights)
