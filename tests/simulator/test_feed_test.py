import dataclasses
import math

import numpy as np
import pytest

from tfmtl.simulator import (
    FEED,
    Constants,
    Effects,
    Scene,
    draw_world,
    impression_log,
    probabilities,
    true_logits,
)
from tfmtl.simulator.constants import EVENTS
from tfmtl.simulator.feed_test import BLOCK, METRICS, feed_test

FLAT = {name: Effects(bias=0.0) for name in EVENTS}


@pytest.fixture(scope="module")
def world():
    constants = Constants(objectives={"conversion": 1.0}, bid_factors={"conversion": 12.0})
    return draw_world(3, days=3, constants=constants)


def column(table, name):
    return table[name].to_numpy()


def true_rates(world, table):
    names = [scene.name for scene in world.constants.scenes]
    scene = np.array([names.index(name) for name in table["scene"].to_pylist()])
    ids = column(table, "user_id"), column(table, "ad_id")
    events = ("click", "conversion")
    return probabilities(
        true_logits(world, *ids, events=events, day=column(table, "day"), scene=scene)
    )


def oracle(world):
    return lambda table: column(table, "bid") * true_rates(world, table)["conversion"]


def chance(table):
    return np.random.default_rng(0).random(len(table))


@pytest.fixture(scope="module")
def found(world):
    best = oracle(world)
    arms = {"random": chance, "bid": lambda t: column(t, "bid"), "oracle": best, "again": best}
    return feed_test(world, arms, scene="feed", requests=1_500, day=1, seed=7, samples=200)


def test_bid_times_the_true_rate_earns_more_than_chance_and_than_bids_alone(found):
    for arm in ("random", "bid"):
        pair = found.compare(arm, "oracle")["t_charge@click"]
        assert pair.difference.low > 0 and pair.relative.low > 0.1
    assert found.compare("random", "oracle")["cvr@click"].difference.low > 0


def test_ranking_by_the_true_product_converts_best_of_all_impressions(world, found):
    def product(table):
        true = true_rates(world, table)
        return true["click"] * true["conversion"]

    # Positions lower clicks of all arms alike, so without them no choice of ads can do better.
    level = dataclasses.replace(world, constants=dataclasses.replace(world.constants, position=0.0))
    arms = {"product": product, "oracle": oracle(world), "random": chance}
    values = feed_test(level, arms, scene="feed", requests=500, samples=20)
    rates = {arm: values.values(arm)["ctcvr@imp"].value for arm in arms}
    assert rates["product"] == max(rates.values()) > 1.5 * rates["random"]


def test_one_arm_twice_gives_exactly_equal_measures(found):
    assert found.values("oracle") == found.values("again")
    for pair in found.compare("oracle", "again").values():
        for interval in (pair.difference, pair.relative):
            assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def three_ads(shown=2, **changes):
    """One user, three ads with bids 1, 2 and 3, half of all seen ads clicked."""
    events = {**FLAT, "conversion": Effects(bias=math.log(1 / 3))}
    small = Constants(users=1, ads=3, scenes=(Scene(name="feed"),), events=events, **changes)
    world = dataclasses.replace(
        draw_world(0, days=1, constants=small), bid=np.array([1.0, 2.0, 3.0])
    )
    arms = {"dear": lambda t: column(t, "bid"), "cheap": lambda t: -column(t, "bid")}
    return feed_test(world, arms, scene="feed", requests=5, candidates=20, shown=shown, samples=10)


def test_measures_are_those_computed_by_hand():
    # Clicks: 1/2 in the first position, 1 / (1 + e^0.3) = 0.42556 in the second; of them 1/4
    # convert, and bids 3 and 2, or 1 and 2, are paid for a conversion.
    first, second = 0.5, 0.425557483
    test = three_ads()
    for arm, bids in (("dear", (3, 2)), ("cheap", (1, 2))):
        values = {name: interval.value for name, interval in test.values(arm).items()}
        charge = (bids[0] * first + bids[1] * second) / 4
        assert values == {
            "ctr@imp": pytest.approx((first + second) / 2),
            "cvr@click": pytest.approx(1 / 4),
            "ctcvr@imp": pytest.approx((first + second) / 8),
            "t_charge@click": pytest.approx(charge / (first + second)),
        }
    assert test.values("dear")["t_charge@click"].value == pytest.approx(0.635054, abs=1e-6)


def test_a_scene_with_fewer_ads_than_are_shown_shows_those_it_has():
    test = three_ads(shown=20)
    assert test.sums["dear"]["impressions"].tolist() == [3.0] * 5


def test_measures_are_those_of_a_loop_over_requests(world):
    tables = []

    def kept(table):
        tables.append(table)
        return oracle(world)(table)

    test = feed_test(
        world, {"oracle": kept}, scene="search", requests=60, candidates=12, shown=3, day=2
    )
    (table,) = tables
    rows = table.drop(["interests"]).to_pandas().assign(score=oracle(world)(table))
    clicks = conversions = charge = shown = 0.0
    for _, request in rows.groupby("request_id"):
        best = request.sort_values("score", ascending=False).iloc[:3]
        for position, row in enumerate(best.itertuples(), start=1):
            p = probabilities(
                true_logits(world, row.user_id, row.ad_id, day=2, scene=1, position=position)
            )
            clicks += p["click"]
            conversions += p["click"] * p["conversion"]
            charge += world.bid[row.ad_id] * p["click"] * p["conversion"]
            shown += 1
    expected = [clicks / shown, conversions / clicks, conversions / shown, charge / clicks]
    values = [test.values("oracle")[name].value for name in METRICS]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_candidates_are_columns_of_the_log_without_what_users_did(world):
    log = impression_log(world, impressions=10, days=1)
    labels = {"click", "conversion", "xout", "hide", "report", "final_cqs"}
    known = [n for n in log.column_names if n not in labels and not n.startswith("true_")]

    def arm(table):
        assert table.column_names == known
        assert table.schema.equals(log.select(known).schema)
        assert set(table["scene"].to_pylist()) == {"search"} and set(column(table, "day")) == {2}
        assert (column(table, "position") == 1).all()
        rows = table.drop(["interests"]).to_pandas()
        sizes = rows.groupby("request_id").ad_id.agg(["size", "nunique"])
        assert (sizes == 25).all(axis=None) and list(sizes.index) == list(range(90))
        assert set(rows.ad_id) <= set(world.pool[1])
        interests = np.array(table["interests"].to_pylist())
        matched = (interests == rows.category.to_numpy()[:, None]).any(axis=1).mean()
        assert 0.5 < matched < 0.75
        return np.zeros(len(table))

    feed_test(world, {"arm": arm}, scene="search", requests=90, candidates=25, day=2, samples=2)


def test_a_request_is_the_same_however_many_there_are(world):
    sums = [
        feed_test(world, {"a": lambda t: column(t, "bid")}, scene="feed", requests=n, candidates=8)
        for n in (BLOCK + 70, BLOCK + 9)
    ]
    more, fewer = (test.sums["a"] for test in sums)
    for name, values in fewer.items():
        assert len(values) == BLOCK + 9
        np.testing.assert_array_equal(values, more[name][: BLOCK + 9])


def test_the_order_of_equal_scores_is_that_of_the_ads(world):
    arms = {"equal": lambda t: np.zeros(len(t)), "lowest": lambda t: -column(t, "ad_id")}
    test = feed_test(world, arms, scene="feed", requests=40, samples=2)
    for name, values in test.sums["equal"].items():
        np.testing.assert_array_equal(values, test.sums["lowest"][name])


def test_in_the_first_scene_worlds_of_shared_and_of_own_users_are_tested_alike():
    worlds = [draw_world(1, days=1, constants=Constants(shared_users=s)) for s in (True, False)]
    for scene, equal in (("feed", True), ("search", False)):
        shared, own = (
            feed_test(w, {"a": oracle(w)}, scene=scene, requests=50, samples=2).sums["a"]
            for w in worlds
        )
        assert all((own[name] == shared[name]).all() for name in METRICS_OF) == equal


METRICS_OF = ("clicks", "conversions", "charge")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scene": "fed"}, r"scene='fed', but the world's scenes are \['feed', 'search'\]"),
        ({"arms": {}}, "at least one arm"),
        ({"requests": 0}, "requests=0"),
        ({"shown": 41}, "shown=41, candidates=40"),
        ({"day": 3}, r"draw_world\(..., days=4\)"),
        ({"arms": {"a": lambda t: np.zeros((len(t), 1))}}, "arm 'a' gave scores of shape"),
        ({"arms": {"a": lambda t: np.full(len(t), np.nan)}}, "not finite"),
    ],
)
def test_what_cannot_be_tested_is_refused(world, wrong, message):
    arguments = {"arms": {"bid": lambda t: column(t, "bid")}, "scene": FEED.name, "requests": 4}
    arguments.update(wrong)
    arms = arguments.pop("arms")
    with pytest.raises(ValueError, match=message):
        feed_test(world, arms, **arguments)
