"""A/B tests in the simulated world: common random numbers, and metrics as ratios over requests."""

import dataclasses

import numpy as np
import pytest

from tfmtl.simulator import (
    Funnel,
    draw_world,
    final_stage,
    funnel_constants,
    logging_policy,
    retrieve,
    run_funnel,
)
from tfmtl.simulator.online import METRICS, STEP, request_sums, run_online

FUNNEL = Funnel(retrieved=40, passed=8)
REQUESTS, FIRST, SEED, DAY = 300, 5_000, 7, 1


@pytest.fixture(scope="module")
def world():
    return draw_world(3, days=3, constants=funnel_constants())


def oracle(world, seed=SEED):
    return lambda candidates: final_stage(world, candidates, seed=seed).total_value


def bids(candidates):
    return candidates.bid


@pytest.fixture(scope="module")
def arms(world):
    policy = logging_policy(world, seed=SEED)
    return {"policy": policy, "again": policy, "oracle": oracle(world), "bids": bids}


@pytest.fixture(scope="module")
def found(world, arms):
    where = {"requests": REQUESTS, "first_request": FIRST, "day": DAY, "seed": SEED}
    return run_online(world, FUNNEL, arms, samples=200, **where)


def test_an_arm_against_itself_differs_by_exactly_nothing(found):
    for name, pair in found.compare("policy", "again").items():
        for interval in (pair.difference, pair.relative):
            assert (interval.value, interval.low, interval.high) == (0, 0, 0), name


def test_another_arm_differs_in_every_metric(found):
    for name, pair in found.compare("policy", "oracle").items():
        if name != "impressions@request":
            assert pair.difference.value != 0, name


def test_the_final_stages_own_values_diverge_by_nothing_and_others_do(found):
    assert (found.sums["oracle"]["divergence"] == 0).all()
    divergence = {arm: found.values(arm)["tvd@final"] for arm in found.arms}
    assert (divergence["oracle"].value, divergence["oracle"].high) == (0, 0)
    assert divergence["policy"].value > 0.1 and divergence["bids"].value > 1


def test_twice_the_final_value_diverges_by_one_though_it_ranks_alike(world):
    twice = run_online(
        world,
        FUNNEL,
        {"once": oracle(world), "twice": lambda c: 2 * oracle(world)(c)},
        requests=50,
        seed=SEED,
        samples=10,
    )
    assert twice.values("twice")["tvd@final"].value == pytest.approx(1, rel=1e-12)
    pair = twice.compare("once", "twice")["total_value@request"]
    assert pair.difference.value == 0


@pytest.mark.parametrize("arm", ["policy", "bids"])
def test_the_final_stages_own_values_are_worth_most_to_the_auction(found, arm):
    pair = found.compare(arm, "oracle")["total_value@request"]
    assert pair.difference.low > 0 and pair.relative.low > 0.1


def totals(world, stage, requests=REQUESTS):
    """What `METRICS` are made of, one request at a time."""
    sums = dict.fromkeys({name for parts in METRICS.values() for name in parts}, 0.0)
    candidates = retrieve(world, FUNNEL, requests=requests, seed=SEED, first_request=FIRST, day=DAY)
    for r in range(requests):
        one = candidates.select([r])
        early = stage(one)
        done = run_funnel(world, FUNNEL, one, early, seed=SEED)
        final = final_stage(world, one, seed=SEED).total_value[0]
        sums["requests"] += 1
        for column in done.passed[0]:
            sums["divergence"] += abs(final[column] - early[0, column])
            sums["final_value"] += abs(final[column])
        for s in np.flatnonzero(done.shown[0]):
            p = {name: float(chance[0, s]) for name, chance in done.true.items()}
            drawn = {name: bool(happened[0, s]) for name, happened in done.outcomes.items()}
            sums["impressions"] += 1
            sums["clicks"] += p["click"]
            sums["conversions"] += p["click"] * p["conversion"]
            sums["xouts"] += p["xout"]
            sums["hides"] += p["hide"]
            sums["good_surveys"] += p["survey"]
            ad = done.ad[0, s]
            objective = list(world.constants.objectives)[world.objective[ad]]
            paid = {
                "click": p["click"],
                "conversion": p["click"] * p["conversion"],
                "view_conversion": p["view_conversion"],
            }[objective]
            scalars = world.constants.scalars
            quality = sum(scalars[e] * p[e] for e in ("xout", "hide", "report"))
            quality += scalars["survey"] * (p["survey"] - 0.5)
            sums["total_value"] += world.bid[ad] * paid + quality
            sums["spend"] += done.price[0, s] * paid
            sums["sampled_clicks"] += drawn["click"]
            sums["sampled_conversions"] += drawn["conversion"]
            sums["sampled_xouts"] += drawn["xout"]
            sums["sampled_surveys"] += drawn["survey_shown"]
            sums["sampled_good_surveys"] += drawn["survey"]
    return sums


@pytest.mark.parametrize("arm", ["policy", "oracle"])
def test_metrics_are_those_of_a_loop_over_requests_and_slots(world, arms, found, arm):
    sums = totals(world, arms[arm])
    values = found.values(arm)
    assert set(values) == set(METRICS) - {"macs@request"}
    for name in values:
        numerator, denominator = METRICS[name]
        expected = sums[numerator] / sums[denominator] if sums[denominator] else np.nan
        np.testing.assert_allclose(values[name].value, expected, rtol=1e-9, err_msg=name)


def test_what_a_request_costs_is_told_where_it_is_given(world, arms):
    costs = {"policy": 3e6, "oracle": 6e6}
    chosen = {name: arms[name] for name in costs}
    test = run_online(world, FUNNEL, chosen, requests=20, seed=SEED, samples=5, costs=costs)
    assert test.values("policy")["macs@request"].value == 3e6
    assert test.compare("policy", "oracle")["macs@request"].relative.value == 1
    with pytest.raises(ValueError, match=r"costs are of \['policy'\], but arms are"):
        run_online(world, FUNNEL, chosen, requests=20, costs={"policy": 3e6})


def test_a_stream_is_the_same_however_long_the_steps_it_is_served_in(world, arms):
    assert STEP < 1_100
    arm = {"policy": arms["policy"]}
    whole = run_online(world, FUNNEL, arm, requests=1_100, seed=SEED, samples=2).sums["policy"]
    rest = run_online(
        world, FUNNEL, arm, requests=100, first_request=1_000, seed=SEED, samples=2
    ).sums["policy"]
    for name, values in rest.items():
        np.testing.assert_array_equal(whole[name][1_000:], values, err_msg=name)


def test_drawn_events_are_as_frequent_as_their_true_probabilities_say(world, arms):
    # Many slots: what is drawn of few impressions says little.
    funnel = dataclasses.replace(FUNNEL, passed=30, slots=20, survey_rate=0.2)
    sums = run_online(
        world, funnel, {"policy": arms["policy"]}, requests=3_000, seed=SEED, samples=2
    ).sums["policy"]
    for event in ("clicks", "conversions", "xouts"):
        drawn, expected = sums[f"sampled_{event}"].sum(), sums[event].sum()
        # Of rare events the variance is the mean.
        assert expected > 30 and abs(drawn - expected) < 4 * np.sqrt(expected), event
    asked = 0.2 * sums["impressions"].sum()
    assert abs(sums["sampled_surveys"].sum() - asked) < 4 * np.sqrt(0.8 * asked)
    good = 0.2 * sums["good_surveys"].sum()
    assert abs(sums["sampled_good_surveys"].sum() - good) < 4 * np.sqrt(good)


def test_intervals_hold_their_value_and_repeat_with_their_seed(world, arms, found):
    for name, interval in found.values("policy").items():
        if np.isfinite(interval.value):
            assert interval.low <= interval.value <= interval.high, name
    assert found.values("policy") == found.values("policy")
    other = dataclasses.replace(found, seed=SEED + 1)
    assert other.values("policy")["ctr@imp"] != found.values("policy")["ctr@imp"]
    pair, of_one = found.compare("policy", "oracle")["ctr@imp"], found.values("policy")["ctr@imp"]
    assert pair.difference.low < pair.difference.high and of_one.low < of_one.high


def test_a_request_without_a_shown_ad_counts_as_a_request_alone(world, arms):
    funnel = dataclasses.replace(FUNNEL, reserve=1e9)
    candidates = retrieve(world, funnel, requests=5, seed=SEED)
    early = arms["policy"](candidates)
    sums = request_sums(run_funnel(world, funnel, candidates, early, seed=SEED), early)
    assert (sums["requests"] == 1).all() and (sums["final_value"] > 0).all()
    for name, values in sums.items():
        if name not in ("requests", "final_value", "divergence"):
            assert not values.any(), name


def test_what_cannot_be_served_is_refused(world):
    with pytest.raises(ValueError, match="at least one arm"):
        run_online(world, FUNNEL, {}, requests=5)
    for wrong, message in (
        (lambda c: c.bid[:, :-1], "the shape"),
        (lambda c: np.where(c.ad == c.ad[0, 0], np.nan, c.bid), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            run_online(world, FUNNEL, {"wrong": wrong}, requests=5)
