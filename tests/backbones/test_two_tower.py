"""Two towers: what each reads, where they meet, and what an index could serve."""

import numpy as np
import pytest
import tensorflow as tf

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.random_weights import randomise
from tfmtl.backbones.two_tower import Tower, TwoTower, dot_products
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.layers.embedding import Embedding
from tfmtl.model.multitask import MultiTaskModel

USERS, ADS, WIDTH = 7, 11, 3
TASKS = (binary("ctr", label="click"), regression("cqs", label="quality"))
PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        numerical("age", side="user"),
        categorical("slot"),
        numerical("hour"),
        categorical("ad", side="ad"),
        categorical("brand", side="ad"),
        numerical("price", side="ad"),
    ),
    tasks=TASKS,
)


def pairs(count=60, seed=0):
    """Raw columns of users in contexts, and of ads."""
    rng = np.random.default_rng(seed)
    return {
        "user": np.char.add("u", rng.integers(0, USERS, count).astype(str)),
        "age": rng.normal(40, 10, count).astype(np.float32),
        "slot": np.char.add("s", rng.integers(0, 3, count).astype(str)),
        "hour": rng.uniform(0, 24, count).astype(np.float32),
        "ad": np.char.add("a", rng.integers(0, ADS, count).astype(str)),
        "brand": np.char.add("b", rng.integers(0, 4, count).astype(str)),
        "price": rng.lognormal(size=count).astype(np.float32),
        "click": (rng.random(count) < 0.4).astype(np.float32),
        "quality": rng.normal(size=count).astype(np.float32),
    }


PREPROCESSOR = Preprocessor(PROBLEM)
PACKED = PREPROCESSOR.fit(pairs())


def model_of(tower_units=None, numeric_units=(), **backbone):
    config = Model(
        backbone={"name": "two_tower", "user_units": (8,), "ad_units": (6,), "width": WIDTH}
        | backbone,
        dim=4,
        tower_units=tower_units,
        numeric_units=numeric_units,
    )
    model = MultiTaskModel.build_from(PROBLEM, PREPROCESSOR.table_rows(), config)
    model(PACKED)
    randomise(model)
    return model


def vector(model, tower, packed=PACKED):
    return getattr(model.backbone, tower)(model.embedding[tower](packed)).numpy()


def test_dot_products_are_those_of_every_two_different_fields_once():
    fields = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    expected = [
        [fields[b, i] @ fields[b, j] for i in range(4) for j in range(i + 1, 4)] for b in range(5)
    ]
    np.testing.assert_allclose(dot_products(tf.constant(fields)), expected, rtol=1e-5)
    assert dot_products(tf.ones([5, 1, 3])).shape == (5, 0)


def test_dot_products_computed_by_hand():
    fields = tf.constant([[[1.0, 2.0], [3.0, -1.0], [0.0, 4.0]]])
    np.testing.assert_array_equal(dot_products(fields), [[1.0, 8.0, -4.0]])


@pytest.mark.parametrize("keep_fields", [True, False])
@pytest.mark.parametrize(
    ("tower", "sides"), [("user", ("user", "context")), ("ad", ("ad",))], ids=["user", "ad"]
)
def test_a_towers_vector_is_that_of_its_own_sides_bit_for_bit(tower, sides, keep_fields):
    model = model_of(keep_fields=keep_fields)
    other = PREPROCESSOR(pairs(seed=1))
    mixed = {n: (PACKED if n.split("_")[-1] in sides else other)[n] for n in PACKED}
    np.testing.assert_array_equal(vector(model, tower, mixed), vector(model, tower))
    only = {n: v for n, v in PACKED.items() if n.split("_")[-1] in sides}
    np.testing.assert_array_equal(vector(model, tower, only), vector(model, tower))


@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("ids_user", "user"),
        ("numbers_user", "user"),
        ("ids_context", "user"),
        ("numbers_context", "user"),
        ("ids_ad", "ad"),
        ("numbers_ad", "ad"),
    ],
)
def test_a_side_reaches_its_tower_and_a_context_the_users(name, tower):
    model = model_of()
    moved = {**PACKED, name: tf.reverse(PACKED[name], [0])}
    for each in ("user", "ad"):
        changed = (vector(model, each, moved) != vector(model, each)).any()
        assert changed == (each == tower)


def test_every_task_reads_the_product_and_both_vectors():
    model = model_of()
    user, ad = vector(model, "user"), vector(model, "ad")
    fields, _ = model.backbone.embed(model.embedding, PACKED)
    for h in model.backbone(fields).values():
        np.testing.assert_allclose(h, np.hstack([user * ad, user, ad]), rtol=1e-6)


@pytest.mark.parametrize("interaction", ["joint", "dot"])
def test_a_task_reads_the_other_towers_vector(interaction):
    # A product alone would leave a user's taste for all ads to the bias.
    model = model_of(interaction=interaction)
    other = PREPROCESSOR(pairs(seed=1))
    for side in ("user", "ad"):
        mixed = {n: (other if n.endswith(f"_{side}") else PACKED)[n] for n in PACKED}
        for task, prediction in model(mixed).items():
            assert (prediction.numpy() != model(PACKED)[task].numpy()).mean() > 0.9


@pytest.mark.parametrize("interaction", ["joint", "dot"])
def test_one_user_meets_many_ads_as_if_repeated(interaction):
    model = model_of(interaction=interaction)
    user, ads = vector(model, "user")[:1], vector(model, "ad")
    once = model.backbone.join(tf.constant(user), tf.constant(ads))
    repeated = model.backbone.join(tf.constant(np.repeat(user, len(ads), 0)), tf.constant(ads))
    other_way = model.backbone.join(tf.constant(vector(model, "user")), tf.constant(ads[:1]))
    for task, expected in repeated.items():
        np.testing.assert_allclose(once[task], expected, rtol=1e-5, atol=1e-6)
        assert once[task].shape == other_way[task].shape == expected.shape


def logit_matrix(model, task):
    """Logits `[users, ads]` of every user vector with every ad vector."""
    user, ads = vector(model, "user"), vector(model, "ad")
    joined = model.backbone.join(
        tf.constant(np.repeat(user, len(ads), 0)), tf.constant(np.tile(ads, (len(user), 1)))
    )
    return model.heads(joined)[task]["logit"].numpy().reshape(len(user), len(ads))


@pytest.mark.parametrize("task", ["ctr", "cqs"])
def test_a_logit_of_dot_is_an_inner_product_of_the_vectors_and_a_bias(task):
    model = model_of(interaction="dot")
    logit = model.heads.logits[task]
    # The head's kernel goes into the user's matrix, so that an index needs no more than a dot.
    of_user = model.backbone.user_kernels[task].numpy() * logit.kernel.numpy().T
    of_ad = model.backbone.ad_kernels[task].numpy()
    found = (vector(model, "user") @ of_user) @ (vector(model, "ad") @ of_ad).T
    found = found + logit.bias.numpy()
    np.testing.assert_allclose(logit_matrix(model, task), found, rtol=1e-4, atol=1e-5)


def test_an_index_can_serve_dot_and_not_the_joint_towers():
    def rank(model):
        singular = np.linalg.svd(logit_matrix(model, "ctr").astype(np.float64), compute_uv=False)
        return (singular > 1e-5 * singular[0]).sum()

    dot = model_of(interaction="dot")
    assert not dot.heads.towers["ctr"].trainable_variables
    assert rank(dot) <= WIDTH + 1
    assert rank(model_of(tower_units=(8,))) > WIDTH + 1


def test_tasks_of_dot_have_matrices_of_their_own():
    model = model_of(interaction="dot")
    before = {t: v.numpy() for t, v in model(PACKED).items()}
    kernel = model.backbone.user_kernels["cqs"]
    kernel.assign(2.0 * kernel)
    after = model(PACKED)
    np.testing.assert_array_equal(after["ctr"], before["ctr"])
    assert (after["cqs"].numpy() != before["cqs"]).all()


@pytest.mark.parametrize("keep_fields", [True, False])
def test_without_its_fields_a_tower_reads_products_and_the_numbers_alone(keep_fields):
    fields = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    tower = Tower((5,), 2, keep_fields=keep_fields, dropout=0.0, batch_norm=False)
    tower(tf.constant(fields))
    randomise(tower)
    turn = np.float32([[0.6, -0.8], [0.8, 0.6]])

    def moved(fields):
        found = [tower(tf.constant(x)).numpy() for x in (fields, fields @ turn)]
        return np.abs(found[1] - found[0]).max()

    # Turning all fields keeps their products.
    assert moved(fields) > 1e-2
    without_numbers = fields * np.float32([1, 1, 0])[:, None]
    assert (moved(without_numbers) > 1e-2) == keep_fields


def test_the_numbers_are_the_last_field_whatever_the_order_of_declaration():
    problem = ProblemSpec(
        features=(
            numerical("price", side="ad"),
            categorical("brand", side="ad", dim=9),
            categorical("ad", side="ad"),
        ),
        tasks=TASKS,
    )
    layer = Embedding(problem, {"ad": 5, "brand": 5}, dim=4, sides=("ad",))
    assert layer.field_names[-1] == "numbers"


@pytest.mark.parametrize(("numeric_units", "layers"), [((), 1), ((5,), 2), ((6, 5), 3)])
def test_numbers_pass_through_their_own_layers(numeric_units, layers):
    model = model_of(numeric_units=numeric_units)
    embedding = model.embedding["user"]
    widths = [2, *numeric_units, 4]  # Age and hour, to fields of width 4.
    kernels = [w for w in embedding.number_dense.weights if len(w.shape) == 2]
    assert [tuple(k.shape) for k in kernels] == list(zip(widths[:-1], widths[1:], strict=True))
    assert len(kernels) == layers
    x = np.hstack([PACKED["numbers_user"], PACKED["numbers_context"]])
    weights = embedding.number_dense.get_weights()
    for i in range(layers):
        x = x @ weights[2 * i] + weights[2 * i + 1]
        x = np.maximum(x, 0) if i < layers - 1 else x
    np.testing.assert_allclose(embedding(PACKED)[:, -1], x, rtol=1e-4, atol=1e-5)


def test_layers_below_the_joint_field_are_refused_where_there_is_none():
    with pytest.raises(SpecError, match=r"numeric_units=\(8,\) are layers below the one joint"):
        Embedding(PROBLEM, {}, numeric_mode="fieldwise", numeric_units=(8,))


@pytest.mark.parametrize(("side", "tower"), [("ad", "ad"), ("user", "user")])
def test_a_problem_without_features_for_a_tower_is_refused(side, tower):
    features = tuple(f for f in PROBLEM.features if f.side not in (side, "context"))
    problem = ProblemSpec(features=features, tasks=TASKS)
    with pytest.raises(SpecError, match=f"so the {tower} tower would read nothing"):
        MultiTaskModel.build_from(problem, {}, Model(backbone={"name": "two_tower"}))


def test_a_context_is_enough_for_the_users_tower():
    features = tuple(f for f in PROBLEM.features if f.side != "user")
    problem = ProblemSpec(features=features, tasks=TASKS)
    TwoTower(["ctr"]).check(problem, (32,))


def test_what_makes_no_tower_is_refused():
    with pytest.raises(SpecError, match="Did you mean 'joint'"):
        TwoTower(["ctr"], interaction="jiont")
    with pytest.raises(SpecError, match="no dot product any more"):
        TwoTower(["ctr"], interaction="dot").check(PROBLEM, (8,))
    with pytest.raises(SpecError, match="width=0"):
        TwoTower(["ctr"], width=0)
