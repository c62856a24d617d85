"""A component's ids and rows, and what the next slot takes over: tables, networks, moments."""

import dataclasses
import os

import numpy as np
import pytest

from tests.doubles.mtms_rows import PROBLEM, as_rows, changed, experiment, packed
from tfmtl.declare.features import FIRST, MISSING, UNKNOWN
from tfmtl.declare.layout import layout_of
from tfmtl.errors import SpecError
from tfmtl.mtms import embedding_update
from tfmtl.mtms.embedding_update import update_embeddings
from tfmtl.mtms.store import Component
from tfmtl.mtms.units import by_scene, columns_of, part_of

FUNNEL = ("ctr", "cvr", "ctcvr")
EXPERIMENT = experiment()
FIELDS = ("user", "tags", "ad", "slot")


def scene_rows(arrays, scene="feed"):
    return by_scene(PROBLEM, [scene], as_rows(arrays))[scene]


@pytest.fixture(scope="module")
def rows():
    return scene_rows(packed())


@pytest.fixture(scope="module")
def tomorrow(rows):
    """Rows of the next day: other labels, one user gone, another new, one ad rare."""
    gone, new = ids_of(rows, "user")[0], 12345
    kept = rows.take(rows.ids[:, column("user")] != gone)
    ids = kept.ids.copy()
    ids[:5, column("user")] = new
    return dataclasses.replace(kept, ids=ids), gone, new


def column(name):
    return next(s.start for s in layout_of(PROBLEM).ids if s.feature.name == name)


def ids_of(rows, name):
    part = part_of(PROBLEM, EXPERIMENT.mtms.features_of(PROBLEM, "feed"), FUNNEL)
    columns, _ = columns_of(PROBLEM, part)
    slots = next(s for s in layout_of(part).ids if s.feature.name == name)
    found = rows.ids[:, columns[slots.start : slots.start + slots.width]]
    return np.unique(found[found >= FIRST]).tolist()


def update(rows, folder, slot=1, config=EXPERIMENT, previous=None):
    os.makedirs(folder)
    update_embeddings(
        config, "feed", FUNNEL, rows, slot=slot, folder=str(folder), previous=previous
    )
    return {
        owner: Component.load(os.path.join(folder, f"{owner}.npz"))
        for owner in config.mtms.owners(FUNNEL)
    }


def by_id(component, name, what="table"):
    block = component.block(name)
    values = getattr(component, what)
    values = values[:, block].swapaxes(0, 1) if what == "moments" else values[block]
    return dict(zip(component.keys[block].tolist(), values, strict=True))


@pytest.fixture(scope="module")
def first(rows, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("first") / "update")
    return folder, update(rows, folder)


@pytest.fixture
def untrained(monkeypatch):
    """Passes that change nothing, so that what is saved is where a slot started."""
    models = []

    def start(model, rows, **kwargs):
        models.append((model, rows))
        return []

    monkeypatch.setattr(embedding_update, "train_passes", start)
    return models


def test_a_component_holds_the_ids_of_its_rows_and_no_others(first, rows):
    _, components = first
    for component in components.values():
        assert component.features == ("user", "tags", "ad", "slot")
        for name in FIELDS:
            expected = [UNKNOWN, MISSING, *ids_of(rows, name)]
            assert list(by_id(component, name)) == expected
        assert component.table.shape == (sum(component.sizes), EXPERIMENT.model.dim)
        assert component.moments.shape == (2, *component.table.shape)
        assert set(component.seen) == {1}


def test_without_rare_ids_the_row_of_unknown_ones_stays_zero(first):
    for component in first[1].values():
        for name in FIELDS:
            assert not by_id(component, name)[UNKNOWN].any()
            moved = [v for i, v in by_id(component, name, "moments").items() if i >= FIRST]
            assert np.any(moved, axis=(1, 2)).mean() > 0.9


def test_rare_ids_have_no_row_and_train_that_of_unknown_ones(rows, tmp_path):
    ids = rows.ids.copy()
    ids[:40, column("user")] = 10**6 + np.arange(40)
    rare = dataclasses.replace(rows, ids=ids)
    components = update(rare, tmp_path / "u", config=changed(EXPERIMENT, min_count=2))
    for component in components.values():
        assert max(by_id(component, "user")) != 10**6 + 39
        assert not set(range(10**6, 10**6 + 40)) & set(by_id(component, "user"))
        assert by_id(component, "user")[UNKNOWN].any()


def test_with_clicks_and_conversions_apart_conversions_have_the_ids_of_clicks(
    rows, tmp_path, untrained
):
    ids = rows.ids.copy()
    clicked = rows.weights[:, 1] > 0
    ids[~clicked, column("user")] += 10**6
    apart = dataclasses.replace(rows, ids=ids)
    for losses, conversions in (("cvr_click", apart.take(clicked)), ("mtms", apart)):
        components = update(apart, tmp_path / losses, config=changed(EXPERIMENT, losses=losses))
        for owner, own in (("ctr", apart), ("cvr", conversions)):
            for name in FIELDS:
                found = list(by_id(components[owner], name))
                assert found == [UNKNOWN, MISSING, *ids_of(own, name)]


def test_shared_tables_are_one_component(rows, tmp_path, untrained):
    folder = tmp_path / "u"
    components = update(rows, folder, config=changed(EXPERIMENT, shared=True))
    assert list(components) == ["ctr+cvr"]
    assert sorted(os.listdir(folder)) == ["ctr+cvr.npz", "network.npz"]
    ((model, _),) = untrained
    assert len(model.tables) == 1


def test_the_next_slot_starts_where_the_last_one_ended(first, tomorrow, tmp_path, untrained):
    folder, former = first
    rows, gone, new = tomorrow
    second = update(rows, tmp_path / "2", slot=2, previous=folder)
    for owner, component in second.items():
        for name in FIELDS:
            for what in ("table", "moments"):
                before, now = by_id(former[owner], name, what), by_id(component, name, what)
                assert set(now) - set(before) == ({new} if name == "user" else set())
                for i in before:
                    np.testing.assert_array_equal(now[i], before[i])
        # A new id has a row of its own, and no moments.
        assert by_id(component, "user")[new].any()
        assert not by_id(component, "user", "moments")[new].any()
        seen = by_id(component, "user", "seen")
        assert seen[gone] == 1 and seen[new] == 2 and list(seen.values()).count(1) == 1
    with np.load(f"{folder}/network.npz") as a, np.load(tmp_path / "2" / "network.npz") as b:
        steps = len(scene_rows(packed())) // EXPERIMENT.training.batch_size
        assert a["steps"].tolist() == [steps] * 2 == b["steps"].tolist()
        assert set(a) == set(b) and sum(k.startswith("moment/") for k in a) > 8
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], key)


def test_the_network_of_the_update_starts_from_those_very_rows(
    first, tomorrow, tmp_path, untrained
):
    folder, former = first
    update(tomorrow[0], tmp_path / "2", slot=2, previous=folder)
    ((model, packed_rows),) = untrained
    batch = next(iter(packed_rows.batches(packed_rows.count())))
    fields = {owner: e(batch) for owner, e in model.embedding.items()}
    part = model.problem
    user = next(i for i, s in enumerate(layout_of(part).ids) if s.feature.name == "user")
    ids = tomorrow[0].ids[:, column("user")]
    for owner, component in former.items():
        rows = by_id(component, "user")
        known = [i for i, v in enumerate(ids) if v in rows]
        assert 0 < len(known) < len(ids)
        expected = np.stack([rows[ids[i]] for i in known])
        np.testing.assert_array_equal(fields[owner].numpy()[known, user], expected)


def test_ids_that_no_row_had_for_long_are_dropped_and_no_others(
    first, tomorrow, tmp_path, untrained
):
    folder, former = first
    rows, gone, new = tomorrow
    for slot, after, dropped in ((2, 1, True), (2, 2, False), (3, 2, True), (9, None, False)):
        config = changed(EXPERIMENT, expire_after=after)
        found = update(rows, tmp_path / f"{slot}-{after}", slot, config, previous=folder)
        for owner, component in found.items():
            users = by_id(component, "user")
            before = by_id(former[owner], "user")
            assert (gone not in users) == dropped
            # Those with rows go on with what they had, however long ago that was.
            for i in set(before) - {gone}:
                np.testing.assert_array_equal(users[i], before[i])
            assert set(users) == (set(before) - ({gone} if dropped else set())) | {new}


def test_a_component_without_some_ids_keeps_the_others_rows(first):
    component = first[1]["cvr"]
    dropped = np.arange(len(component.keys)) % 2 == 0
    kept = component.without(dropped)
    for name in FIELDS:
        for what in ("table", "moments", "seen"):
            before, now = by_id(component, name, what), by_id(kept, name, what)
            at = dict(zip(before, dropped[component.block(name)], strict=True))
            assert set(now) == {i for i in before if not at[i] or i < FIRST}
            for i in now:
                np.testing.assert_array_equal(now[i], before[i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mtms": {"update_units": (5,)}}, "of another shape: .* cannot change between slots"),
        ({"mtms": {"shared": True}}, "no tables of 'ctr.cvr': whether .* are shared cannot"),
        (
            {"mtms": {"fields": {"feed": ("query", "tags", "ad", "slot", "price", "ad_ctr")}}},
            "of .*'user .*; now it is of .*'query ",
        ),
        ({"training": {"optimizer": "adagrad"}}, "'Adam', .* now it is of .*'Adagrad'"),
        ({"training": {"embedding_optimizer": "rowwise_adagrad"}}, "now it is of .*RowwiseAdagrad"),
        ({"reversed": True}, "with their order and encoding, cannot change between slots"),
        ({"problem": {"user": {"size": 64}}}, "'user .*size=1073741824.* now .*'user .*size=64,"),
        ({"problem": {"price": {"encoding": "standard"}}}, "=log.* now .*'price .encoding=standa"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(
    first, rows, tmp_path, untrained, change, message
):
    config = changed(EXPERIMENT, **change.get("mtms", {}))
    training = dataclasses.replace(config.training, **change.get("training", {}))
    config = dataclasses.replace(config, training=training)
    own = rows
    if "problem" in change:
        features = [
            dataclasses.replace(f, **change["problem"].get(f.name, {})) for f in PROBLEM.features
        ]
        config = dataclasses.replace(
            config, problem=dataclasses.replace(PROBLEM, features=tuple(features))
        )
    if change.get("reversed"):
        problem = dataclasses.replace(PROBLEM, features=PROBLEM.features[::-1])
        config = dataclasses.replace(config, problem=problem)
        own = by_scene(problem, ["feed"], as_rows(packed(problem=problem)))["feed"]
    with pytest.raises(SpecError, match=message):
        update(own, tmp_path / "2", slot=2, config=config, previous=first[0])
