"""STAR: what scenes share, what they add, and what a scene that was never seen gets."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl.backbones import STAR
from tfmtl.backbones.star import StarNetwork
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.layers.grouped import tiles_of
from tfmtl.layers.mlp import MLP
from tfmtl.layers.partitioned_norm import EPSILON, PartitionedNorm
from tfmtl.model.multitask import MultiTaskModel

RNG = np.random.default_rng(0)
CTR = binary("ctr", label="click")


def drawn(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def test_with_neutral_factors_a_star_network_is_a_plain_mlp():
    x, tiles = drawn(20, 5), tiles_of(tf.constant(RNG.integers(0, 3, 20), tf.int32))
    star, plain = StarNetwork(3, (8, 4)), MLP((8, 4))
    star(x, tiles)
    plain(x)
    randomise(plain)
    for i in range(2):
        star.kernels[i].assign(plain.dense[i].kernel)
        star.biases[i].assign(plain.dense[i].bias)
    np.testing.assert_allclose(star(x, tiles), plain(x), atol=1e-6)


def test_a_scene_s_weights_are_the_shared_ones_times_its_own_and_its_biases_the_sum():
    x, scene = drawn(30, 5), RNG.integers(0, 3, 30)
    star = StarNetwork(3, (8, 4))
    star(x, tiles_of(tf.constant(scene, tf.int32)))
    randomise(star)
    found = star(x, tiles_of(tf.constant(scene, tf.int32))).numpy()
    for row, s in enumerate(scene):
        h = x[row].numpy()
        for i, width in enumerate((8, 4)):
            kernel = star.kernels[i].numpy() * (1 + star.scene_kernels[i].numpy()[s])
            bias = star.biases[i].numpy() + star.scene_biases[i].numpy().reshape(3, width)[s]
            h = np.maximum(h @ kernel + bias, 0)
        np.testing.assert_allclose(found[row], h * (1 + star.scene_readout[s]), atol=1e-4)


def test_one_layer_above_both_networks_is_the_sum_of_their_logits():
    star = STAR(["ctr"], num_scenes=2, units=(6,), aux_units=(3,))
    fields, scene = drawn(10, 4, 2), tf.constant([0, 1] * 5)
    joint = star(fields, scene=scene)["ctr"]
    kernel = drawn(9, 1)
    x, tiles = tf.reshape(fields, [10, 8]), tiles_of(scene)
    main = star.stars["ctr"](star.norm(x, tiles), tiles) @ kernel[:6]
    auxiliary = star.auxiliary["ctr"](x) @ kernel[6:]
    np.testing.assert_allclose(joint @ kernel, main + auxiliary, atol=1e-5)


def test_a_frozen_norm_works_as_at_inference_and_its_moments_stay():
    x, tiles = drawn(20, 3), tiles_of(tf.constant(RNG.integers(0, 2, 20), tf.int32))
    norm = PartitionedNorm(2)
    norm(x, tiles, training=True)
    norm.trainable = False
    before = [v.numpy() for v in norm.weights]
    np.testing.assert_array_equal(norm(2 * x, tiles, training=True), norm(2 * x, tiles))
    for variable, value in zip(norm.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_rows_are_normalised_by_the_moments_of_their_own_scene():
    x, scene = drawn(40, 3) * 5 + 2, RNG.integers(0, 2, 40)
    norm = PartitionedNorm(2)
    found = norm(x, tiles_of(tf.constant(scene, tf.int32)), training=True).numpy()
    for s in range(2):
        own = x.numpy()[scene == s]
        expected = (own - own.mean(axis=0)) / np.sqrt(own.var(axis=0) + EPSILON)
        np.testing.assert_allclose(found[scene == s], expected, atol=1e-4)


def test_scale_and_shift_join_the_shared_and_the_scene_s_own():
    x = drawn(6, 2)
    norm = PartitionedNorm(2)
    norm(x, tiles_of(tf.zeros([6], tf.int32)))
    norm.gamma.assign([2.0, 3.0])
    norm.beta.assign([1.0, -1.0])
    norm.scene_gamma.assign([0.0, 0.0, 0.5, -0.5])
    norm.scene_beta.assign([0.0, 0.0, 4.0, 5.0])
    unit = x / np.sqrt(1 + EPSILON)
    first, second = (norm(x, tiles_of(tf.fill([6], s))) for s in (0, 1))
    np.testing.assert_allclose(first, unit * [2.0, 3.0] + [1.0, -1.0], atol=1e-5)
    np.testing.assert_allclose(second, unit * [3.0, 1.5] + [5.0, 4.0], atol=1e-5)


def test_a_scene_without_rows_in_the_batch_keeps_its_moments_bit_for_bit():
    norm = PartitionedNorm(4)
    for scene in ([0, 1, 3] * 8, [1, 3] * 12):
        norm(drawn(24, 3), tiles_of(tf.constant(scene)), training=True)
    before = [v.numpy() for v in norm.moments]
    norm(drawn(24, 3) * 9, tiles_of(tf.constant([1] * 24)), training=True)
    for old, new in zip(before, norm.moments, strict=True):
        moved = {s for s in range(4) if not np.array_equal(old[s], new.numpy()[s])}
        assert moved == {1}


def test_moving_moments_of_a_scene_of_one_row_a_batch_are_those_of_its_rows():
    rows = drawn(60, 2) * [3.0, 0.1] + [10.0, -1.0]
    norm = PartitionedNorm(3, momentum=1.0)
    for row in rows:
        x = tf.stack([row, *tf.unstack(drawn(2, 2))])
        norm(x, tiles_of(tf.constant([2, 0, 0])), training=True)
    _, mean, variance = norm.moments
    np.testing.assert_allclose(mean[2], rows.numpy().mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(variance[2], rows.numpy().var(axis=0), rtol=1e-3)


def test_moving_moments_forget():
    norm = PartitionedNorm(1, momentum=0.5)
    tiles = tiles_of(tf.zeros([64], tf.int32))
    norm(drawn(64, 1) * 100 + 1000, tiles, training=True)
    for _ in range(40):
        norm(drawn(64, 1), tiles, training=True)
    assert abs(norm.moments[1].numpy()[0, 0]) < 0.5
    assert 0.5 < norm.moments[2].numpy()[0, 0] < 2


def of_scenes(backbone, **settings):
    """A model of a problem where the scene turns the effect of the only other feature round."""
    problem = ProblemSpec(
        features=(
            categorical("x", encoding="identity", size=2),
            categorical("scene", encoding="identity", size=8),
        ),
        tasks=(CTR,),
        scene="scene",
    )
    if backbone == "shared_bottom without the scene":
        backbone = "shared_bottom"
        # The model reads one id; packed rows have the scene beside it.
        problem = ProblemSpec(features=problem.features[:1], tasks=(CTR,))
    config = Model(
        backbone={"name": backbone, **settings}, dim=4, tower_units=(), balancer={"name": "fixed"}
    )
    model = MultiTaskModel.build_from(problem, {"x": 4, "scene": 10}, config)
    model.compile(keras.optimizers.Adam(0.03))
    return model


def opposed(rows, scenes=(2, 3)):
    """Clicks on `x = 1` in one scene and on `x = 0` in the other, 9 times in 10."""
    x, scene = RNG.integers(2, 4, rows), RNG.choice(scenes, rows)
    click = (x == scene) == (RNG.random(rows) < 0.9)
    return {
        "ids_context": tf.constant(np.stack([x, scene], axis=1), tf.int32),
        LABELS: tf.constant(click[:, np.newaxis], tf.float32),
        WEIGHTS: tf.ones([rows, 1]),
    }


def loss_after_training(model, steps=150):
    only = model.problem.scene is None
    step = tf.function(model.train_step, autograph=False)
    for _ in range(steps):
        batch = opposed(256)
        if only:
            batch["ids_context"] = batch["ids_context"][:, :1]
        step(batch)
    test = opposed(4000)
    if only:
        test["ids_context"] = test["ids_context"][:, :1]
    return float(model.compute_loss(test)[0])


ENTROPY = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("star", {"units": (8,), "aux_units": (4,)}),
        ("star", {"units": (8,), "aux_units": (4,), "partitioned_norm": False}),
        ("per_scene", {"bottom_units": (8,), "task_units": (4,)}),
    ],
    ids=["star", "star without norm", "per_scene"],
)
def test_scenes_of_opposite_effects_are_learnt(name, settings):
    assert loss_after_training(of_scenes(name, **settings)) < ENTROPY + 0.03


def test_a_model_that_does_not_see_the_scene_cannot_learn_opposite_effects():
    model = of_scenes("shared_bottom without the scene", bottom_units=(8,))
    assert loss_after_training(model) > np.log(2) - 0.01


def test_a_scene_never_seen_is_answered_by_what_all_scenes_share():
    model = of_scenes("star", units=(8,), aux_units=(4,))
    model.l2 = 1e-3  # weight decay must not draw unseen factors away from neutral
    step = tf.function(model.train_step, autograph=False)
    for _ in range(60):
        step(opposed(256))
    star = model.backbone.stars["ctr"]
    for v in (*star.scene_kernels, star.scene_readout):
        assert not v.numpy()[[0, 1, 4]].any() and v.numpy()[[2, 3]].any()
    norm = model.backbone.norm
    x = tf.reshape(model.embedding({"ids_context": tf.constant([[2, 0], [3, 0]])}), [2, -1])
    tiles = tiles_of(tf.constant([0, 0]))
    # Moments of all scenes, and the shared weights alone.
    _, mean, variance = norm.all_moments
    by_hand = (x - mean) / tf.sqrt(variance + EPSILON) * norm.gamma + norm.beta
    np.testing.assert_allclose(norm(x, tiles), by_hand, rtol=1e-4, atol=1e-5)
    shared = tf.nn.relu(by_hand @ star.kernels[0] + star.biases[0])
    np.testing.assert_allclose(star(norm(x, tiles), tiles), shared, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["star", "per_scene"])
def test_without_a_scene_to_read_the_declaration_that_is_missing_is_named(name):
    config = Model(backbone={"name": name}, dim=4)
    rows = {"x": 4, "scenes": 4}
    x = categorical("x")
    problem = ProblemSpec(features=(x,), tasks=(CTR,))
    with pytest.raises(SpecError, match=r"ProblemSpec\(scene='scene'\)"):
        MultiTaskModel.build_from(problem, rows, config)
    lists = categorical("scenes", column="scene", max_values=2)
    problem = ProblemSpec(features=(x, lists), tasks=(CTR,), scene="scene")
    with pytest.raises(SpecError, match=r"Declare categorical\('scene'\)"):
        MultiTaskModel.build_from(problem, rows, config)


def test_the_number_of_scenes_is_the_table_s_and_not_to_be_given():
    assert of_scenes("star").backbone.num_scenes == 10
    with pytest.raises(SpecError, match="Leave it out"):
        of_scenes("star", num_scenes=2)


def test_a_scene_is_found_on_its_own_side_and_under_another_name():
    problem = ProblemSpec(
        features=(
            categorical("u", side="user"),
            categorical("tags", max_values=3),
            categorical("where", column="scene", side="user"),
        ),
        tasks=(CTR,),
        scene="scene",
    )
    rows = {"u": 5, "tags": 5, "where": 6}
    backbone = {"name": "star", "units": (4,), "aux_units": (2,)}
    model = MultiTaskModel.build_from(problem, rows, Model(backbone=backbone, dim=4))
    read = []
    own = model.backbone.call
    model.backbone.call = lambda fields, scene, training=False: (
        read.append(scene.numpy().tolist()) or own(fields, scene, training=training)
    )
    ids = {"ids_user": tf.constant([[2, 5], [3, 0]]), "ids_context": tf.constant([[2, -1, -1]] * 2)}
    model(ids)
    assert read == [[5, 0]]
