import dataclasses
import time

import numpy as np
import pytest

from tfmtl.simulator import (
    Candidates,
    Constants,
    Funnel,
    draw_world,
    final_stage,
    funnel_constants,
    logging_policy,
    retrieve,
    run_funnel,
    true_logits,
)
from tfmtl.simulator.noise import keyed_uniform

FUNNEL = Funnel()


@pytest.fixture(scope="module")
def world():
    return draw_world(3, constants=funnel_constants())


@pytest.fixture(scope="module")
def candidates(world):
    return retrieve(world, FUNNEL, requests=800, seed=5, day=2)


@pytest.fixture(scope="module")
def early_value(world, candidates):
    return logging_policy(world, seed=5)(candidates)


@pytest.fixture(scope="module")
def done(world, candidates, early_value):
    return run_funnel(world, FUNNEL, candidates, early_value, seed=5)


@pytest.fixture(scope="module")
def shown_to_all(world):
    """A million impressions: every candidate has a slot."""
    funnel = Funnel(passed=150, slots=150, reserve=-1e9)
    candidates = retrieve(world, funnel, requests=6_700, seed=1)
    return run_funnel(world, funnel, candidates, logging_policy(world)(candidates), seed=1)


def equal(one, other):
    """Whether two dataclasses of arrays hold the same bits."""
    if isinstance(one, dict):
        return all(equal(one[k], other[k]) for k in one)
    if not dataclasses.is_dataclass(one):
        return np.array_equal(one, other)
    fields = dataclasses.fields(one)
    return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields)


def test_the_retrieved_ads_of_a_request_differ(candidates):
    assert candidates.ad.shape == (800, 150)
    assert (np.diff(np.sort(candidates.ad, axis=1), axis=1) > 0).all()


@pytest.mark.parametrize(("matched", "low", "high"), [(0.0, 0.1, 0.2), (0.6, 0.62, 0.67)])
def test_a_share_of_the_retrieved_ads_match_the_user_and_the_rest_by_chance(
    world, matched, low, high
):
    found = retrieve(world, Funnel(matched=matched), requests=500)
    match = world.interests[found.user][:, None, :] == world.category[found.ad][:, :, None]
    assert low < match.any(axis=-1).mean() < high


def test_every_matching_ad_is_as_likely_to_be_retrieved_as_any_other(world):
    found = retrieve(world, Funnel(retrieved=60, matched=1.0), requests=20_000, seed=2)
    matching = np.zeros((3_000, 20), bool)
    np.put_along_axis(matching, world.interests, True, axis=1)
    # Of each request's matching ads 60 are drawn, however many they are.
    chances = matching[found.user] / (matching @ np.bincount(world.category))[found.user][:, None]
    expected = 60 * chances.sum(axis=0)[world.category]
    count = np.bincount(found.ad.ravel(), minlength=2_000)
    deviation = (count - expected) / np.sqrt(expected)
    assert abs(deviation.mean()) < 0.1 and 0.75 < deviation.std() < 1.1


def test_where_too_few_ads_match_chance_fills_the_request():
    world = draw_world(0, constants=dataclasses.replace(funnel_constants(), ads=400))
    found = retrieve(world, FUNNEL, requests=2_000)
    match = world.interests[found.user][:, None, :] == world.category[found.ad][:, :, None]
    # Three of twenty categories hold some 60 ads, fewer than the 90 that should match.
    other = np.bincount(found.ad[~match.any(axis=-1)], minlength=400)
    first, second = other[:200].sum(), other[200:].sum()
    assert match.any(axis=-1).sum(axis=1).mean() < 90
    assert 0.9 < first / second < 1.1


def test_a_request_is_the_same_however_the_stream_is_cut(world):
    whole = retrieve(world, FUNNEL, requests=700, seed=9, first_request=100)
    parts = [(100, 1), (101, 155), (256, 256), (512, 288)]
    for first, count in parts:
        part = retrieve(world, FUNNEL, requests=count, seed=9, first_request=first)
        assert equal(part, whole.select(slice(first - 100, first - 100 + count)))


def test_another_seed_asks_for_other_users_and_ads(world, candidates):
    other = retrieve(world, FUNNEL, requests=800, seed=6)
    assert (other.user != candidates.user).mean() > 0.99


def test_the_early_conversion_rate_is_a_fixed_error_of_user_and_ad(world):
    def errors(seed):
        found = retrieve(world, FUNNEL, requests=4_000, seed=seed)
        logits = true_logits(world, found.user[:, None], found.ad)
        after_view = found.objective == 2
        true = np.where(after_view, logits["view_conversion"], logits["conversion"])
        error = np.log(found.early_cvr / (1 - found.early_cvr)) - true
        return (found.user[:, None] * 2_000 + found.ad).ravel(), error.ravel()

    (pairs, one), (others, other) = errors(0), errors(1)
    assert one.std() == pytest.approx(0.3, rel=0.01) and abs(one.mean()) < 0.01
    both, here, there = np.intersect1d(pairs, others, return_indices=True)
    assert len(both) > 10_000
    np.testing.assert_allclose(one[here], other[there], atol=1e-9)


def test_a_scene_s_requests_retrieve_ads_of_its_pool():
    world = draw_world(0, constants=funnel_constants(2))
    found = retrieve(world, FUNNEL, requests=600)
    for scene in (0, 1):
        ads = set(found.ad[found.scene == scene].ravel())
        assert ads <= set(world.pool[scene]) and len(ads) > 0.95 * len(world.pool[scene])
    assert set(world.pool[0]) != set(world.pool[1])


def test_a_pool_as_small_as_what_is_retrieved_is_retrieved_whole():
    world = draw_world(0, constants=dataclasses.replace(funnel_constants(), ads=150))
    found = retrieve(world, FUNNEL, requests=50)
    assert (found.ad == np.arange(150)).all()


def test_the_final_stage_scores_a_candidate_the_same_alone_and_among_others(world, candidates):
    whole = final_stage(world, candidates, seed=5)
    some = np.random.default_rng(0).permuted(np.tile(np.arange(150), (800, 1)), axis=1)[:, :7]
    part = final_stage(world, candidates, some, seed=5)
    alone = final_stage(world, candidates.select([17]), some[[17]], seed=5)
    for field in dataclasses.fields(whole):
        expected = np.take_along_axis(getattr(whole, field.name), some, axis=1)
        np.testing.assert_array_equal(getattr(part, field.name), expected)
        np.testing.assert_array_equal(getattr(alone, field.name), expected[[17]])


def test_total_value_is_bid_times_the_paid_action_plus_quality(world, candidates):
    final = final_stage(world, candidates)
    paid = [final.ctr, final.ctr * final.rate, final.rate]
    for objective, action in enumerate(paid):
        rows = candidates.objective == objective
        assert rows.sum() > 10_000
        expected = candidates.bid * action + final.cqs
        np.testing.assert_allclose(final.total_value[rows], expected[rows], rtol=1e-12)
        np.testing.assert_array_equal(final.action[rows], action[rows])


def test_the_early_stage_s_best_are_passed_on_and_the_final_stage_s_best_are_shown(
    world, candidates, early_value, done
):
    total_value = final_stage(world, candidates, seed=5).total_value
    for r in range(100):
        early = sorted(range(150), key=lambda i: (-early_value[r, i], candidates.ad[r, i]))[:20]
        final = sorted(early, key=lambda i: (-total_value[r, i], candidates.ad[r, i]))
        np.testing.assert_array_equal(done.passed[r], final)
        expected = [candidates.ad[r, i] if total_value[r, i] > 0 else -1 for i in final[:2]]
        np.testing.assert_array_equal(done.ad[r], expected)


def test_equal_early_values_pass_on_the_lowest_ad_ids(world, candidates):
    constant = run_funnel(world, FUNNEL, candidates, np.zeros(candidates.ad.shape))
    passed = np.take_along_axis(candidates.ad, constant.passed, axis=1)
    np.testing.assert_array_equal(np.sort(passed), np.sort(candidates.ad)[:, :20])


def test_the_order_of_candidates_changes_nothing_that_happens(world, candidates, early_value, done):
    order = np.random.default_rng(0).permuted(np.tile(np.arange(150), (800, 1)), axis=1)
    rounded = np.round(early_value, 3)
    moved = run_funnel(
        world,
        FUNNEL,
        candidates.permuted(order),
        np.take_along_axis(rounded, order, axis=1),
        seed=5,
    )
    kept = run_funnel(world, FUNNEL, candidates, rounded, seed=5)
    np.testing.assert_array_equal(np.take_along_axis(order, moved.passed, axis=1), kept.passed)
    assert equal(dataclasses.replace(moved, passed=kept.passed), kept)


def test_an_oracle_early_stage_shows_what_an_unlimited_final_stage_shows(world, candidates):
    oracle = final_stage(world, candidates, seed=5).total_value
    narrow = run_funnel(world, FUNNEL, candidates, oracle, seed=5)
    anything = np.zeros(candidates.ad.shape)
    unlimited = run_funnel(world, Funnel(passed=150), candidates, anything, seed=5)
    np.testing.assert_array_equal(narrow.passed, unlimited.passed[:, :20])
    for name in ("ad", "price", "true", "outcomes"):
        assert equal(getattr(narrow, name), getattr(unlimited, name))


def test_bidding_the_price_would_have_tied_with_the_next_candidate(world, candidates, done):
    tied = 0
    for r in range(len(candidates)):
        for s in np.flatnonzero(done.shown[r]):
            ad, price = done.ad[r, s], done.price[r, s]
            assert 0 <= price <= world.bid[ad]
            value = price * done.final.action[r, s] + done.final.cqs[r, s]
            following = max(done.final.total_value[r, s + 1], 0)
            if price > 0:
                tied += 1
                assert value == pytest.approx(following, abs=1e-12)
            else:
                # Its quality alone beats the next.
                assert value >= following
    assert tied > 1_000 and (done.price == 0).any()


def test_a_price_computed_by_hand(world, candidates):
    early = np.zeros(candidates.ad.shape)
    early[:, [3, 8]] = 1.0
    funnel = Funnel(passed=2, reserve=-10.0)
    auction = run_funnel(world, funnel, candidates, early, seed=5)
    final = final_stage(world, candidates, seed=5)
    r = int(np.flatnonzero((candidates.objective[:, 3] == 1) & (auction.passed[:, 0] == 3))[0])
    # A conversion after a click is paid for: the loser's value less the winner's quality, for
    # each conversion of an impression.
    loser = candidates.bid[r, 8] * final.action[r, 8] + final.cqs[r, 8]
    price = (loser - final.cqs[r, 3]) / (final.ctr[r, 3] * final.rate[r, 3])
    expected = min(max(price, 0), candidates.bid[r, 3])
    assert auction.price[r, 0] == pytest.approx(expected)
    # Nobody is behind the loser, and the reserve is far below what its quality costs.
    assert (auction.ad[r] == candidates.ad[r, [3, 8]]).all() and auction.price[r, 1] == 0


def test_a_lonely_ad_pays_the_reserve_and_none_below_the_reserve_is_shown(world, candidates):
    funnel = Funnel(passed=1, slots=1, reserve=0.05)
    lonely = run_funnel(world, funnel, candidates, candidates.bid)
    assert 0 < lonely.shown.mean() < 1
    np.testing.assert_array_equal(lonely.shown, lonely.final.total_value > 0.05)
    value = lonely.price * lonely.final.action + lonely.final.cqs
    paid = lonely.shown & (lonely.price > 0)
    np.testing.assert_allclose(value[paid], 0.05)
    absent = ~lonely.shown
    assert (lonely.ad[absent] == -1).all() and (lonely.price[absent] == 0).all()
    assert all((p[absent] == 0).all() for p in lonely.true.values())
    assert not any(happened[absent].any() for happened in lonely.outcomes.values())


def test_who_has_a_rival_below_the_reserve_pays_the_reserve(world, candidates, early_value):
    funnel = Funnel(passed=3, reserve=0.05)
    auction = run_funnel(world, funnel, candidates, early_value)
    rivals = auction.final.total_value[:, 1:3]
    rows = auction.shown & (rivals < 0.05) & (auction.price > 0)
    assert rows.sum() > 100
    value = auction.price * auction.final.action[:, :2] + auction.final.cqs[:, :2]
    np.testing.assert_allclose(value[rows], 0.05)


def test_the_reserve_bid_is_the_least_price_of_those_who_bid_as_much(
    world, candidates, early_value, done
):
    funnel = Funnel(reserve_bid=0.8)
    price = run_funnel(world, funnel, candidates, early_value, seed=5).price
    bid = world.bid[done.ad]
    expected = np.clip(np.maximum(done.price, 0.8), 0, bid)
    np.testing.assert_allclose(price[done.shown], expected[done.shown])
    assert (price > done.price).any()


def test_the_second_slot_lowers_the_true_click_probability_and_nothing_else(
    world, candidates, done
):
    logits = true_logits(world, candidates.user[:, None], done.ad, day=2, scene=0)
    for name, p in done.true.items():
        logit = np.log(p / (1 - p), where=done.shown, out=np.zeros_like(p))
        fall = [0.0, -0.3] if name == "click" else [0.0, 0.0]
        expected = logits[name] + fall
        np.testing.assert_allclose(logit[done.shown], expected[done.shown])


def test_events_of_a_million_impressions_follow_their_true_probabilities(shown_to_all):
    true, outcomes = shown_to_all.true, shown_to_all.outcomes
    assert shown_to_all.shown.all() and shown_to_all.shown.size > 1_000_000
    chances = {
        **{name: true[name] for name in ("click", "view_conversion", "xout", "hide", "report")},
        "conversion": true["click"] * true["conversion"],
        "survey_shown": np.full(shown_to_all.shown.shape, 0.02),
        "survey": 0.02 * true["survey"],
    }
    for name, p in chances.items():
        error = np.sqrt((p * (1 - p)).sum()) / p.size
        assert abs(outcomes[name].mean() - p.mean()) < 4 * error, name
    assert set(chances) == set(outcomes)


def test_events_of_an_impression_are_independent(shown_to_all):
    true, outcomes = shown_to_all.true, shown_to_all.outcomes
    left = {k: outcomes[k] - true[k] for k in ("click", "xout", "hide", "view_conversion")}
    for a in left:
        for b in left:
            product = left[a] * left[b]
            if a < b:
                assert abs(product.mean()) < 4 * product.std() / np.sqrt(product.size), (a, b)


def test_a_conversion_needs_a_click_and_a_rating_a_question(shown_to_all):
    outcomes = shown_to_all.outcomes
    assert (outcomes["conversion"] <= outcomes["click"]).all()
    assert (outcomes["survey"] <= outcomes["survey_shown"]).all()


def test_an_ad_shown_by_two_arms_has_the_same_outcomes(world):
    funnel = Funnel(passed=60, slots=40)
    candidates = retrieve(world, funnel, requests=3_000, seed=4)
    arms = [
        run_funnel(world, funnel, candidates, logging_policy(world, seed=s)(candidates), seed=4)
        for s in (0, 1)
    ]
    pairs = [
        np.where(arm.shown, candidates.request[:, None] * 2_000 + arm.ad, -1 - i).ravel()
        for i, arm in enumerate(arms)
    ]
    both, *where = np.intersect1d(*pairs, return_indices=True)
    assert len(both) > 10_000
    slot = [index % 40 for index in where]
    click = [arm.outcomes["click"].ravel()[i] for arm, i in zip(arms, where, strict=True)]
    same = slot[0] == slot[1]
    assert click[0].sum() > 100 and same.sum() > 300
    np.testing.assert_array_equal(click[0][same], click[1][same])
    # A click below would have been one above too.
    higher = slot[0] < slot[1]
    assert (click[0] >= click[1])[higher].all() and (click[0] > click[1]).any()
    for name in ("view_conversion", "xout", "hide", "report", "survey_shown", "survey"):
        one, other = (arm.outcomes[name].ravel()[i] for arm, i in zip(arms, where, strict=True))
        np.testing.assert_array_equal(one, other)


def test_worth_is_the_total_value_of_the_true_probabilities(world, done):
    rows = done.shown & (world.objective[done.ad] == 1)
    paid = done.true["click"] * done.true["conversion"]
    expected = world.bid[done.ad] * paid + done.worth.cqs
    np.testing.assert_allclose(done.worth.total_value[rows], expected[rows])
    assert np.corrcoef(done.worth.total_value[done.shown], paid[done.shown])[0, 1] > 0


def test_a_day_moves_predictions_by_the_drift_of_the_ads_appeal(world, candidates):
    later = retrieve(world, FUNNEL, requests=800, seed=5, day=9)
    np.testing.assert_array_equal(later.ad, candidates.ad)
    logit = [
        np.log(v.ctr / (1 - v.ctr)) for v in (final_stage(world, c) for c in (candidates, later))
    ]
    moved = 0.3 * (world.appeal[9] - world.appeal[2])[candidates.ad]
    np.testing.assert_allclose(logit[1] - logit[0], moved, atol=1e-9)
    assert moved.std() > 0.05


def test_the_logging_policy_follows_bids_and_ignores_the_user(world, candidates, early_value):
    final = final_stage(world, candidates)
    for objective in range(3):
        rows = candidates.objective == objective
        value, bid = np.log(early_value[rows]), np.log(candidates.bid[rows])
        assert np.corrcoef(value, bid)[0, 1] > 0.4
        assert abs(np.corrcoef(value - bid, final.ctr[rows])[0, 1]) < 0.03


def test_the_logging_policy_passes_nearly_every_ad_on_and_shows_far_fewer(world):
    candidates = retrieve(world, FUNNEL, requests=4_000)
    done = run_funnel(world, FUNNEL, candidates, logging_policy(world)(candidates))
    passed = np.take_along_axis(candidates.ad, done.passed, axis=1)
    assert len(np.unique(passed)) > 0.93 * 2_000
    assert len(np.unique(done.ad)) < 0.7 * 2_000


def test_keyed_uniform_values_are_uniform_and_independent_of_their_neighbours():
    x = keyed_uniform(0, 100, np.arange(1_000)[:, None], np.arange(1_000))
    assert x.min() >= 0 and x.max() < 1
    counts = np.bincount((x.ravel() * 100).astype(int), minlength=100)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 99 + 4 * np.sqrt(2 * 99)
    for shifted in (x[1:] - x[:-1], x[:, 1:] - x[:, :-1], keyed_uniform(0, 101, 0, [5]) - x):
        assert 0.05 < shifted.var()
    assert abs(np.corrcoef(x[1:].ravel(), x[:-1].ravel())[0, 1]) < 4 / 1_000
    other = keyed_uniform(0, 101, np.arange(1_000)[:, None], np.arange(1_000))
    assert abs(np.corrcoef(x.ravel(), other.ravel())[0, 1]) < 4 / 1_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"passed": 200}, "as many ads as the next"),
        ({"slots": 0}, "at least one"),
        ({"matched": 1.2}, "from 0 to 1"),
        ({"reserve_bid": -1.0}, "zero or more"),
        ({"reserve": float("nan")}, "finite"),
    ],
)
def test_a_funnel_that_does_not_narrow_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Funnel(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"requests": 0}, "at least 1 and 0"),
        ({"requests": 1, "first_request": -1}, "at least 1 and 0"),
        ({"requests": 1, "day": 30}, r"draw_world\(..., days=31\)"),
        ({"requests": 2, "day": [0, -1]}, "days -1 to 0"),
    ],
)
def test_requests_that_cannot_be_are_refused(world, wrong, message):
    with pytest.raises(ValueError, match=message):
        retrieve(world, FUNNEL, **wrong)


def test_more_ads_than_a_scene_has_are_refused():
    world = draw_world(0, constants=Constants(ads=200))
    with pytest.raises(ValueError, match=r"a scene has 120 ads; Funnel\(retrieved=120\)"):
        retrieve(world, FUNNEL, requests=1)


def test_early_values_that_rank_nothing_are_refused(world, candidates, early_value):
    with pytest.raises(ValueError, match=r"\(800, 150\) would be right"):
        run_funnel(world, FUNNEL, candidates, early_value[:, 0])
    broken = early_value.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 of 120,000 early values are not finite"):
        run_funnel(world, FUNNEL, candidates, broken)


def test_an_objective_nobody_pays_for_is_refused():
    constants = Constants(objectives={"xout": 1.0}, bid_factors={"xout": 1.0})
    with pytest.raises(ValueError, match="have no action"):
        final_stage(draw_world(0, constants=constants), _one_candidate())


def _one_candidate():
    index, number = np.zeros(1, np.int64), np.ones((1, 1))
    return Candidates(
        request=index,
        user=index,
        day=index,
        scene=index,
        ad=index[:, None],
        objective=index[:, None],
        bid=number,
        early_cvr=number,
    )


def _seconds(world, requests):
    """Processor time of retrieval, final stage of all, auction and events."""
    started = time.process_time()
    candidates = retrieve(world, FUNNEL, requests=requests)
    oracle = final_stage(world, candidates).total_value
    run_funnel(world, FUNNEL, candidates, oracle)
    return time.process_time() - started


def test_a_hundred_thousand_candidates_take_less_than_three_seconds(world):
    assert _seconds(world, 667) < 3


@pytest.mark.slow
def test_a_million_candidates_take_less_than_ten_seconds_of_one_core(world):
    assert _seconds(world, 6_667) < 10
