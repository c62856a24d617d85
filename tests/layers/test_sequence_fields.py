"""Histories in a model: shared rows, empty ones, search, and what reads them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.histories import problem, rows
from tests.doubles.small_parts import SMALL
from tfmtl.declare.columns import UNKNOWN
from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import ProblemSpec, categorical, event
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.layers.embedding import Embedding
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

COLUMNS = rows(96)


def packed_of(declared, columns=COLUMNS):
    preprocessor = Preprocessor(declared)
    batch = next(iter(ArrayRows(preprocessor.fit(columns)).batches(96)))
    return preprocessor, dict(batch)


def embedding_of(declared, dim=8, **more):
    preprocessor, batch = packed_of(declared)
    embedding = Embedding(declared, preprocessor.table_rows(), dim=dim, stddev=0.5, **more)
    embedding(batch)
    return embedding, batch


def model_of(declared, backbone="shared_bottom", **more):
    preprocessor, batch = packed_of(declared)
    config = Model(
        backbone={"name": backbone, **SMALL["backbone"][backbone], **more}, dim=8, tower_units=(4,)
    )
    model = MultiTaskModel.build_from(declared, preprocessor.table_rows(), config)
    compile_model(model, Training(learning_rate=0.01))
    return model, batch


def test_a_sequence_has_one_field_per_event_column_or_one_joint_field():
    embedding, batch = embedding_of(problem("mean"))
    names = ("clicked/clicked_ads", "clicked/clicked_categories", "clicked/clicked_actions")
    # Behind the ids and before the numbers.
    assert embedding.field_names[-4:] == (*names, "numbers")
    assert embedding(batch).shape == (96, 4 + 3 + 1, 8)
    joint, batch = embedding_of(problem("mean", fields="joint"))
    assert joint.field_names[-2:] == ("clicked", "numbers")
    assert embedding_of(problem("bst"))[0].field_names[-2:] == ("clicked", "numbers")


def test_events_are_the_rows_of_the_features_own_table():
    embedding, batch = embedding_of(problem("mean", max_length=1))
    field = embedding(batch).numpy()[:, embedding.field_names.index("clicked/clicked_ads")]
    (slots,) = embedding.layout.sequences
    ids = batch["ids_user"].numpy()[:, slots.start]
    own = embedding.look_up("ad", tf.constant(ids, tf.int32)).numpy()
    np.testing.assert_allclose(field[ids >= 0], own[ids >= 0], rtol=1e-6)
    assert len(embedding.tables) == 3  # Of widths 3, 6 and 8.


def test_a_vocabulary_that_is_shared_alone_gives_events_a_table_of_their_own():
    events = (event("clicked_ads", of="ad", share="vocabulary"),)
    declared = problem("mean", events=events)
    preprocessor, _ = packed_of(declared)
    rows_of = preprocessor.table_rows()
    assert rows_of["clicked/clicked_ads"] == rows_of["ad"]


def test_a_row_without_events_is_a_learned_vector_and_its_gradient_comes_from_such_rows_alone():
    embedding, batch = embedding_of(problem())
    layer = embedding._sequences[0]
    layer.nothing.assign(tf.random.normal(layer.nothing.shape, seed=1))
    at = [embedding.field_names.index(name) for name in layer.names]
    empty = batch["ids_user"].numpy()[:, embedding.layout.sequences[0].start] < 0
    assert 0 < empty.sum() < len(empty)
    with tf.GradientTape() as tape:
        fields = tf.gather(embedding(batch), at, axis=1)
    np.testing.assert_allclose(fields[empty], np.tile(layer.nothing, [empty.sum(), 1, 1]))
    gradient = tape.gradient(fields, layer.nothing)
    np.testing.assert_allclose(gradient, float(empty.sum()), rtol=1e-6)


def test_a_shared_row_learns_from_the_target_and_from_histories():
    """Finite differences, in a batch where one row occurs in both."""
    model, batch = model_of(problem())
    model(batch)
    table = next(t for t in model.tables if t.shape[1] == 8)
    history_id = batch["ids_user"].numpy()[1, 1]
    name, start, _ = model.embedding._starts["ad"]
    row = start + int(history_id)
    batch["ids_ad"] = tf.tensor_scatter_nd_update(
        batch["ids_ad"], [[1, 0]], tf.constant([history_id], batch["ids_ad"].dtype)
    )
    table.assign(tf.random.normal(table.shape, stddev=0.5, seed=2))
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(batch)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()[row]
    step, numeric = 1e-2, []
    for d in range(3):
        changed = []
        for sign in (1, -1):
            value = table.numpy()
            value[row, d] += sign * step
            kept = table.numpy()
            table.assign(value)
            changed.append(float(model.compute_loss(batch)[0]))
            table.assign(kept)
        numeric.append((changed[0] - changed[1]) / (2 * step))
    np.testing.assert_allclose(gradient[:3], numeric, atol=2e-4, rtol=0.05)


def test_the_padding_row_is_zero_bit_for_bit_after_a_hundred_steps():
    model, batch = model_of(problem())
    step = tf.function(model.train_step)
    for _ in range(100):
        step(batch)
    for table in model.tables:
        assert not table.numpy()[0].any()
    slots = [v for v in model.embedding_optimizer.variables if v.shape.rank == 2]
    assert slots and all(not v.numpy()[0].any() for v in slots)


@pytest.mark.parametrize("pooling", ["din", "target_attention", "bst", "tim", "self_attention"])
def test_nothing_is_nan_in_a_batch_of_empty_histories(pooling):
    model, batch = model_of(problem(pooling))
    (slots,) = layout_of(model.problem).sequences
    ids = batch["ids_user"].numpy()
    ids[:, slots.start : slots.start + slots.width] = -1
    batch["ids_user"] = tf.constant(ids)
    tf.debugging.enable_check_numerics()
    try:
        for part in (batch, {k: v[:1] for k, v in batch.items()}):
            assert np.isfinite(float(model.train_step(part)["loss"]))
    finally:
        tf.debugging.disable_check_numerics()


def test_a_search_pools_only_events_of_the_targets_value():
    whole, batch = embedding_of(problem("sum"))
    searched, _ = embedding_of(problem("sum", search="clicked_categories"))
    searched.set_weights(whole.get_weights())
    (slots,) = whole.layout.sequences
    ids = batch["ids_user"].numpy()
    category = batch["ids_ad"].numpy()[:, 1]
    of_events = ids[:, slots.columns(1)]
    keep = of_events == category[:, None]
    for column in range(4):
        part = ids[:, slots.columns(column)]
        ids[:, slots.columns(column)] = np.where(keep, part, -1)
    # Gaps in the middle change nothing for a sum.
    filtered = {**batch, "ids_user": tf.constant(ids)}
    np.testing.assert_allclose(searched(batch), whole(filtered), atol=1e-5)
    assert not np.allclose(whole(batch), whole(filtered))


def test_an_unknown_value_matches_no_unknown_event():
    declared = problem("sum", search="clicked_ads")
    embedding, batch = embedding_of(declared)
    (slots,) = embedding.layout.sequences
    ids = batch["ids_user"].numpy()
    ids[:, slots.columns(0)] = UNKNOWN
    batch |= {
        "ids_user": tf.constant(ids),
        "ids_ad": tf.constant(np.full_like(batch["ids_ad"].numpy(), UNKNOWN)),
    }
    at = embedding.field_names.index("clicked/clicked_actions")
    assert not embedding(batch).numpy()[:, at].any()


def test_searching_a_history_of_one_value_is_no_search():
    plain, batch = embedding_of(problem("mean"))
    searched, _ = embedding_of(problem("mean", search="clicked_categories"))
    searched.set_weights(plain.get_weights())
    (slots,) = plain.layout.sequences
    ids, ads = batch["ids_user"].numpy(), batch["ids_ad"].numpy()
    part = ids[:, slots.columns(1)]
    ids[:, slots.columns(1)] = np.where(part >= 0, 3, -1)
    ads[:, 1] = 3
    batch |= {"ids_user": tf.constant(ids), "ids_ad": tf.constant(ads)}
    np.testing.assert_allclose(searched(batch), plain(batch), atol=1e-6)


@pytest.mark.parametrize("pooling", ["din", "target_attention", "bst", "tim"])
def test_a_pooling_that_reads_the_target_needs_an_event_of_a_feature(pooling):
    events = (event("clicked_actions", encoding="identity", size=4),)
    with pytest.raises(SpecError, match=r"no event has of=\. Give event"):
        embedding_of(problem(pooling, events=events))


def test_a_pooling_of_a_users_own_is_taken_by_name_and_by_class():
    from tests.doubles import own_sequence_pooling

    embedding, batch = embedding_of(problem(own_sequence_pooling.NewestEvent))
    plain, _ = embedding_of(problem("mean", max_length=1))
    plain.set_weights(embedding.get_weights())
    name = "clicked/clicked_ads"
    one, two = (
        e(batch_of)[:, e.field_names.index(name)]
        for e, batch_of in (
            (embedding, batch),
            (plain, packed_of(problem("mean", max_length=1))[1]),
        )
    )
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_two_towers_read_one_table_and_the_users_is_served_without_the_ad():
    declared = problem("mean")
    declared = dataclasses.replace(
        declared, features=(*declared.features, categorical("last_ad", of="ad", side="user"))
    )
    columns = {**COLUMNS, "last_ad": COLUMNS["ad"]}
    preprocessor, batch = packed_of(declared, columns)
    config = Model(
        backbone={"name": "two_tower", **SMALL["backbone"]["two_tower"]}, dim=8, tower_units=(4,)
    )
    model = MultiTaskModel.build_from(declared, preprocessor.table_rows(), config)
    compile_model(model, Training(learning_rate=0.01))
    model.train_step(batch)
    user, ad = model.embedding["user"], model.embedding["ad"]
    assert not any("ad" in starts for starts in (user._starts,)) and "ad" in ad._starts
    assert len({id(t) for t in model.tables}) == len(model.tables)
    at = user.field_names.index("last_ad")
    np.testing.assert_allclose(user(batch)[:, at], ad(batch)[:, ad.field_names.index("ad")])
    # The variable moves by a history alone.
    row = ad._starts["ad"][1] + int(batch["ids_user"].numpy()[1, 1])
    with tf.GradientTape() as tape:
        out = tf.reduce_sum(user(batch) ** 2)
    gradient = tf.convert_to_tensor(tape.gradient(out, ad.tables["table_8"]))
    assert np.abs(gradient[row]).max() > 0


@pytest.mark.parametrize(
    "changes", [{"pooling": "din"}, {"pooling": "mean", "search": "clicked_ads"}]
)
def test_what_one_tower_cannot_serve_is_refused_with_what_can(changes):
    declared = problem(**changes)
    with pytest.raises(SpecError, match=r"compares events with 'ad' of side 'ad'.*'mean'"):
        model_of(declared, "two_tower")


def test_scenes_that_share_nothing_take_poolings_without_weights():
    with pytest.raises(SpecError, match=r"per_scene: sequence 'clicked' has pooling='din'"):
        preprocessor, _ = packed_of(problem())
        config = Model(
            backbone={"name": "per_scene", **SMALL["backbone"]["per_scene"]}, dim=8, tower_units=()
        )
        MultiTaskModel.build_from(problem(), preprocessor.table_rows(), config)


def test_a_problem_is_made_whole_from_its_json_with_its_sequence():
    declared = problem({"name": "din", "units": (8,)})
    assert ProblemSpec.from_json(declared.to_json()) == declared
