"""Rows of one scene as a problem of its own, against loops over rows."""

import dataclasses

import numpy as np
import pytest

from tests.doubles.mtms_rows import FIELDS, PROBLEM, as_rows, experiment, of_scene, packed
from tfmtl.declare.features import FIRST, MISSING, PADDING, UNKNOWN
from tfmtl.declare.layout import LABELS, WEIGHTS, layout_of
from tfmtl.declare.problem import binary, categorical
from tfmtl.errors import DataError, SpecError
from tfmtl.mtms.units import (
    SceneRows,
    by_scene,
    columns_of,
    digest,
    joined_keys,
    keys_of,
    pack,
    part_of,
    places,
    scene_ids,
)

FUNNEL = ("ctr", "cvr", "ctcvr")
SIDES = ("user", "ad", "context")


@pytest.fixture(scope="module")
def arrays():
    return packed()


@pytest.fixture(scope="module")
def feed(arrays):
    return by_scene(PROBLEM, ["feed", "search"], as_rows(arrays))["feed"]


def part(scene="feed", tasks=FUNNEL):
    return part_of(PROBLEM, experiment().mtms.features_of(PROBLEM, scene), tasks)


def column(arrays, problem, name, what):
    """A feature's columns in packed arrays, found side by side."""
    layout = layout_of(problem)
    slots = {s.feature.name: s for s in getattr(layout, what)}[name]
    side_by_side = np.concatenate(
        [arrays[f"{what}_{s}"] for s in SIDES if f"{what}_{s}" in arrays], axis=1
    )
    return side_by_side[:, slots.start : slots.start + slots.width]


def test_every_row_is_in_its_own_scene_in_the_order_it_came(arrays):
    config = experiment()
    found = by_scene(PROBLEM, ["search", "feed"], as_rows(arrays))
    assert list(found) == ["search", "feed"]
    for scene, rows in found.items():
        own = of_scene(arrays, config, scene)
        assert 100 < own.sum() == len(rows) < 200
        np.testing.assert_array_equal(rows.labels, arrays[LABELS][own])
        np.testing.assert_array_equal(rows.weights, arrays[WEIGHTS][own])
        for what in ("ids", "numbers"):
            sides = [arrays[f"{what}_{s}"][own] for s in SIDES if f"{what}_{s}" in arrays]
            np.testing.assert_array_equal(getattr(rows, what), np.concatenate(sides, axis=1))


def test_rows_of_no_named_scene_are_refused_and_of_some_left_out(arrays):
    assert len(by_scene(PROBLEM, ["feed", "mail"], as_rows(arrays))["mail"]) == 0
    with pytest.raises(DataError, match=r"scenes are \['mail'\]. Is 'scene' the column"):
        by_scene(PROBLEM, ["mail"], as_rows(arrays))


def test_two_scenes_of_one_hash_are_refused():
    small = categorical("scene", encoding="hash", size=1)
    features = [small if f.name == "scene" else f for f in PROBLEM.features]
    with pytest.raises(SpecError, match="'feed' and 'mail' have one hash in size=1; give feature"):
        scene_ids(dataclasses.replace(PROBLEM, features=features), ["feed", "mail"])


def test_rows_read_back_are_the_rows(feed, tmp_path):
    path = str(tmp_path / "rows.npz")
    feed.save(path)
    for field in dataclasses.fields(SceneRows):
        np.testing.assert_array_equal(
            getattr(SceneRows.load(path), field.name), getattr(feed, field.name)
        )


def test_keys_are_the_ids_that_occur_often_enough(feed):
    own = part()
    columns, _ = columns_of(PROBLEM, own)
    for min_count in (1, 2, 5):
        keys = keys_of(PROBLEM, own, feed, min_count)
        for slots in layout_of(own).ids:
            counts = {}
            for i in columns[slots.start : slots.start + slots.width]:
                for value in feed.ids[:, i].tolist():
                    counts[value] = counts.get(value, 0) + 1
            often = {v for v, n in counts.items() if v >= FIRST and n >= min_count}
            assert keys[slots.feature.name].tolist() == sorted({UNKNOWN, MISSING} | often)
            assert keys[slots.feature.name].dtype == np.int32
    assert len(keys_of(PROBLEM, own, feed)["tags"]) == 6 + FIRST


def test_no_rows_have_the_keys_that_every_table_has(feed):
    keys = keys_of(PROBLEM, part(), feed.take(np.zeros(len(feed), bool)))
    assert {name: ids.tolist() for name, ids in keys.items()} == dict.fromkeys(
        keys, [UNKNOWN, MISSING]
    )


@pytest.mark.parametrize("seed", range(5))
def test_an_ids_place_is_where_the_keys_have_it(seed):
    rng = np.random.default_rng(seed)
    keys = joined_keys(rng.integers(FIRST, 30, 8), rng.integers(FIRST, 30, 8))
    ids = rng.integers(-1, 40, (50, 3)).astype(np.int32)
    known = keys.tolist()
    expected = [
        [i if i == PADDING else known.index(i) if i in known else UNKNOWN for i in row]
        for row in ids.tolist()
    ]
    found = places(keys, ids)
    assert found.tolist() == expected and found.dtype == np.int32
    assert (found[ids == MISSING] == MISSING).all() and keys.tolist() == sorted(set(known))


@pytest.mark.parametrize("scene", ["feed", "search"])
def test_packed_rows_have_the_parts_columns_with_places_for_ids(arrays, scene):
    rows = by_scene(PROBLEM, ["feed", "search"], as_rows(arrays))[scene]
    own, whole = part(scene), of_scene(arrays, experiment(), scene)
    keys = keys_of(PROBLEM, own, rows, 3)
    found = pack(PROBLEM, own, rows, keys)
    layout = layout_of(own)
    assert {s.feature.name for s in (*layout.ids, *layout.numbers)} == set(FIELDS[scene])
    for slots in layout.ids:
        name = slots.feature.name
        before = column(arrays, PROBLEM, name, "ids")[whole]
        np.testing.assert_array_equal(
            column(found, own, name, "ids"), places(keys[name], before), name
        )
    for slots in layout.numbers:
        name = slots.feature.name
        before = column(arrays, PROBLEM, name, "numbers")[whole]
        np.testing.assert_array_equal(column(found, own, name, "numbers"), before, name)
    np.testing.assert_array_equal(found[LABELS], rows.labels)
    numbers = np.concatenate([found[f"numbers_{s}"] for s in SIDES if f"numbers_{s}" in found], 1)
    whole_numbers = np.concatenate(
        [arrays[f"numbers_{s}"][whole] for s in SIDES if f"numbers_{s}" in arrays], 1
    )
    start, former = layout.weights["tags"], layout_of(PROBLEM).weights["tags"]
    np.testing.assert_array_equal(
        numbers[:, start : start + 3], whole_numbers[:, former : former + 3]
    )
    assert whole_numbers[:, former : former + 3].any()


def test_a_part_has_the_labels_of_its_tasks_in_its_own_order(feed):
    own = part(tasks=["cvr"])
    found = pack(PROBLEM, own, feed, keys_of(PROBLEM, own, feed))
    np.testing.assert_array_equal(found[LABELS], feed.labels[:, [1]])
    np.testing.assert_array_equal(found[WEIGHTS], feed.weights[:, [1]])
    # What it is observed on is in the weights, and its label's column no more at hand.
    assert own.task("cvr").observed_if is None and own.funnel() is None
    assert part().funnel() == FUNNEL


def test_a_part_encodes_by_a_task_that_it_does_not_have():
    # The encoding reads the column of another feature, and its task is none of the part's.
    own = part(tasks=["cvr"])
    assert [s.width for s in layout_of(own).numbers] == [2, 1]
    assert {f.name for f in own.features} == set(FIELDS["feed"])


def test_a_task_that_is_not_served_is_a_part_like_any_other():
    hidden = binary("ctr", label="click", served=False)
    problem = dataclasses.replace(PROBLEM, tasks=(hidden, *PROBLEM.tasks[1:]))
    assert part_of(problem, problem.features, ["ctr"]).task_names == ("ctr",)


def test_the_digest_is_of_what_a_part_reads_and_of_nothing_else(feed):
    own = part("feed", ["cvr"])
    before = digest(PROBLEM, own, feed)
    ids, numbers = columns_of(PROBLEM, own)
    for name, read in (("ids", ids), ("numbers", numbers), ("labels", [1]), ("weights", [1])):
        width = getattr(feed, name).shape[1]
        for at in range(width):
            array = getattr(feed, name).copy()
            array[7, at] += 1
            now = digest(PROBLEM, own, dataclasses.replace(feed, **{name: array}))
            assert (now != before) == (at in read), (name, at)
