"""The frozen look-up against a dictionary: component by component, field by field, id by id."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.mtms_rows import DIM, PROBLEM, SIZE, component, experiment
from tfmtl.declare.features import FIRST, MISSING, PADDING, UNKNOWN
from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import categorical
from tfmtl.mtms.frozen import ComponentTables, FrozenFields
from tfmtl.mtms.units import part_of

ALL = ("query", "user", "tags", "ad", "slot")
HAVING = {
    ("feed", "ctr"): ("user", "tags", "ad", "slot"),
    ("feed", "cvr"): ("user", "tags", "ad", "slot"),
    # In another order than the problem's, as a component of an older declaration may have them.
    ("search", "ctr"): ("ad", "tags", "query", "user"),
    ("search", "cvr"): ("query", "user"),
}


def with_dictionary(rng, features, ids=8, highest=SIZE + 1):
    """A component, its dictionary by field and id alongside."""
    made = component(rng, {f: rng.integers(FIRST, highest, ids) for f in features})
    dictionary = {
        f: dict(zip(made.keys[made.block(f)].tolist(), made.table[made.block(f)], strict=True))
        for f in features
    }
    return made, dictionary


def components(seed, **more):
    rng = np.random.default_rng(seed)
    both = {name: with_dictionary(rng, features, **more) for name, features in HAVING.items()}
    return {n: c for n, (c, _) in both.items()}, {n: d for n, (_, d) in both.items()}


def packed_rows(rng, problem, dictionaries, count=60):
    """Packed tensors whose ids are known to some component, or to none, missing or padding."""
    layout = layout_of(problem)
    known = {f: np.concatenate([list(d[f]) for d in dictionaries.values() if f in d]) for f in ALL}
    ids = np.zeros((count, layout.id_width), np.int32)
    for s in layout.ids:
        pool = known.get(s.feature.name, [FIRST])
        drawn = rng.choice(pool, (count, s.width))
        strange = rng.random((count, s.width))
        drawn = np.where(strange < 0.2, rng.integers(FIRST, SIZE, drawn.shape), drawn)
        drawn = np.where(strange > 0.9, MISSING, drawn)
        if getattr(s.feature, "max_values", 0):
            length = rng.integers(0, s.width + 1, count)
            drawn = np.where(np.arange(s.width) < length[:, np.newaxis], drawn, PADDING)
        ids[:, s.start : s.start + s.width] = drawn
    numbers = rng.normal(size=(count, layout.number_width)).astype(np.float32)
    for start in layout.weights.values():
        numbers[:, start : start + 3] = rng.random((count, 3))
        numbers[::5, start : start + 3] = 0
    packed = {}
    for what, array, widths in (
        ("ids", ids, layout.id_columns),
        ("numbers", numbers, layout.number_columns),
    ):
        at = 0
        for side in layout.sides:
            if widths[side]:
                packed[f"{what}_{side}"] = tf.constant(array[:, at : at + widths[side]])
            at += widths[side]
    return packed, ids, numbers


def naive_list(vectors, weights, pooling):
    if not vectors:
        return np.zeros(DIM)
    if pooling == "max":
        return np.max(vectors, axis=0)
    total = sum((w * v for w, v in zip(weights, vectors, strict=True)), np.zeros(DIM))
    if pooling == "sum":
        return total
    return total / sum(weights) if sum(weights) else np.zeros(DIM)


def naive(problem, part, dictionaries, read, ids, numbers, names):
    """What `names` say each column is, looked up one by one."""
    layout = layout_of(problem)
    place = {s.feature.name: s for s in layout.ids}
    number = {s.feature.name: s.start for s in layout.numbers}
    found = np.zeros((len(ids), len(names)))
    for column, name in enumerate(names):
        what, at = name.rsplit(":", 1)
        if what.count("/") != 2:
            found[:, column] = numbers[:, number[what] + int(at)]
            continue
        scene, owner, field = what.split("/")
        rows, slots = dictionaries[scene, owner][field], place[field]
        for i, row in enumerate(ids):
            own = row[slots.start : slots.start + slots.width]
            given = [int(v) for v in own if v != PADDING]
            vectors = [rows.get(v, rows[UNKNOWN]) for v in given]
            if not slots.feature.max_values:
                (vector,) = vectors
            else:
                start = layout.weights.get(field)
                weights = [1.0] * len(given)
                if start is not None:
                    weights = numbers[i, start : start + len(given)]
                vector = naive_list(vectors, weights, slots.feature.pooling)
            found[i, column] = vector[int(at)]
    return found


def declared(pooling):
    """The problem with its list pooled in one way or another; `max` has no weights."""
    tags = categorical(
        "tags",
        side="ad",
        encoding="hash",
        size=SIZE,
        max_values=3,
        pooling=pooling,
        weights=None if pooling == "max" else "tag_weights",
    )
    features = [tags if f.name == "tags" else f for f in PROBLEM.features]
    return dataclasses.replace(PROBLEM, features=features)


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("scene", ["feed", "search"])
@pytest.mark.parametrize("ids", [8, 1, 300])
def test_fields_are_those_of_a_dictionary(pooling, scene, ids):
    problem = declared(pooling)
    # Few possible ids make the same id known to some components and unknown to others.
    made, dictionaries = components(ids, ids=ids, highest=3 * ids + FIRST)
    tables = ComponentTables(made, ALL)
    config = experiment(problem)
    part = part_of(problem, config.mtms.features_of(problem, scene), ["ctr"])
    read = list(made)[:3] if scene == "feed" else list(made)[::-1]
    fields = FrozenFields(problem, part, tables, read)
    packed, ids, numbers = packed_rows(np.random.default_rng(1), problem, dictionaries)
    expected = naive(problem, part, dictionaries, read, ids, numbers, fields.input_names)
    np.testing.assert_allclose(fields(packed), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).sum(axis=0).all()


@pytest.mark.parametrize("scene", ["feed", "search"])
def test_the_width_is_that_of_the_fields_which_a_component_and_the_scene_both_have(scene):
    made, _ = components(0)
    config = experiment()
    own = config.mtms.features_of(PROBLEM, scene)
    fields = FrozenFields(PROBLEM, part_of(PROBLEM, own, ["ctr"]), ComponentTables(made, ALL), made)
    scene_fields = {f.name for f in own}
    common = sum(len(scene_fields & set(having)) for having in HAVING.values())
    # price with its indicator, the target encoding, and search's hour.
    numbers = 3 + ("hour" in scene_fields)
    assert fields.width == common * DIM + numbers
    assert common == {"feed": 4 + 4 + 3 + 1, "search": 3 + 3 + 4 + 2}[scene]
    assert len(set(fields.input_names)) == fields.width


def test_keys_are_sorted_and_name_every_row_once():
    made, _ = components(0, ids=50)
    tables = ComponentTables(made, ALL)
    keys = tables.keys.numpy()
    assert (np.diff(keys) > 0).all()
    assert len(keys) == tables.table.shape[0] == sum(len(c.keys) for c in made.values())


def test_an_id_above_all_others_of_the_last_field_is_unknown():
    made, dictionaries = components(0, highest=100)
    name = next(reversed(made))
    tables = ComponentTables(made, ALL)
    key = tf.constant([SIZE + tables.prefix(name, "user")], tf.int64)
    found = tables.look_up(key, tf.constant([tables.start(name, "user")]))
    np.testing.assert_array_equal(found[0], dictionaries[name]["user"][UNKNOWN])


def test_no_gradient_reaches_the_tables_and_they_are_no_variables_to_train():
    made, dictionaries = components(0)
    tables = ComponentTables(made, ALL)
    part = part_of(PROBLEM, experiment().mtms.features_of(PROBLEM, "feed"), ["ctr"])
    fields = FrozenFields(PROBLEM, part, tables, list(made))
    packed, _, _ = packed_rows(np.random.default_rng(1), PROBLEM, dictionaries)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fields(packed) ** 2)
    assert tape.gradient(loss, tables.table) is None
    assert not fields.trainable_variables and not tables.trainable_variables


def test_a_scene_of_lists_alone_or_of_single_ids_alone_reads_them():
    made, dictionaries = components(0)
    tables = ComponentTables(made, ALL)
    packed, ids, numbers = packed_rows(np.random.default_rng(1), PROBLEM, dictionaries)
    for names in (["tags"], ["user", "slot"], ["ad", "hour"]):
        own = [f for f in PROBLEM.features if f.name in names]
        part = part_of(PROBLEM, own, ["ctr"])
        fields = FrozenFields(PROBLEM, part, tables, list(made))
        expected = naive(PROBLEM, part, dictionaries, list(made), ids, numbers, fields.input_names)
        np.testing.assert_allclose(fields(packed), expected, rtol=1e-5, atol=1e-6)
