"""The later stages of the funnel: early stage → final stage → auction → impressions → events."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.declare.total_value import TotalValue, expected_action
from tfmtl.simulator.constants import Constants, Funnel
from tfmtl.simulator.noise import LOGGING_POLICY, OUTCOME, keyed_normal, keyed_uniform
from tfmtl.simulator.retrieval import RATES, Candidates, rate_of
from tfmtl.simulator.truth import cqs, final_predictions, probabilities, true_logits
from tfmtl.simulator.world import Floats, Ints, World

EarlyStage = Callable[[Candidates], Floats]
"""Returns the early total value of each candidate, `[R, N]`."""

ACTIONS = {
    "click": "click",
    "conversion": "click_conversion",
    "view_conversion": "view_conversion",
}
PER_IMPRESSION = ("view_conversion", "xout", "hide", "report")
OUTCOMES = ("click", "conversion", *PER_IMPRESSION, "survey_shown", "survey")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Valued:
    """Predictions for ads and the values computed from them, all of one shape.

    Attributes:
        ctr: Probability of a click. The final stage predicts it for the first position.
        rate: Conversion rate: per impression if the ad's objective is a conversion after an
            impression, per click otherwise.
        cqs: Consolidated quality score.
        total_value: Total value in the auction.
        action: Probability of the action that the advertiser pays for.
    """

    ctr: Floats
    rate: Floats
    cqs: Floats
    total_value: Floats
    action: Floats


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Funnelled:
    """The result of `R` requests. Slot `s` shows the ad in column `s` of `passed`.

    Attributes:
        passed: `[R, P]`, columns of the candidates that reached the final stage, in descending
            order of its total value. Ties are broken by the lower ad id.
        final: The final stage's predictions for them, `[R, P]`.
        shown: `[R, S]`, whether a slot shows an ad. Only ads above the reserve are shown, so empty
            slots come last.
        ad: `[R, S]`, shown ads; -1 where no ad is shown.
        price: `[R, S]`, price per action; 0 where no ad is shown.
        true: The true probability of each event, `[R, S]`, at the ad's position. "conversion" is
            given a click, "survey" (a good rating) is given that the user is asked. 0 where no ad
            is shown.
        worth: `[R, S]`, the auction's values computed from the true probabilities; 0 where no ad
            is shown.
        outcomes: Whether each event of `OUTCOMES` happened, boolean `[R, S]`; "survey" is a good
            rating.
    """

    passed: Ints
    final: Valued
    shown: NDArray[np.bool_]
    ad: Ints
    price: Floats
    true: Mapping[str, Floats]
    worth: Valued
    outcomes: Mapping[str, NDArray[np.bool_]]


def auction_value(constants: Constants) -> TotalValue:
    """The world's total value: `bid · eAction + CQS`, by the objectives' names.

    Raises:
        ValueError: An objective is an event that no advertiser pays for.
    """
    unknown = set(constants.objectives) - set(ACTIONS)
    if unknown:
        raise ValueError(f"objectives {sorted(unknown)} have no action; known are {list(ACTIONS)}.")
    return TotalValue(actions={name: ACTIONS[name] for name in constants.objectives})


def logging_policy(world: World, *, noise: float = 0.5, seed: int = 0) -> EarlyStage:
    """The early stage before there is a model: bid times an average rate, times random noise.

    The rate of each objective is that of an average user and ad. The policy therefore prefers high
    bids and ignores match and quality. The noise is a function of request and ad, and its spread
    is larger than that of the bids (0.36). So nearly every ad passes sometimes, and the log still
    has the selection bias of a real log.

    Args:
        world: The world that gives the rates.
        noise: Standard deviation of the logarithm of the noise.
        seed: Seed of the noise.
    """
    c = world.constants
    value = auction_value(c)
    names = np.asarray(list(c.objectives))
    typical = probabilities({name: np.asarray(e.bias) for name, e in c.events.items()})
    rate = np.asarray([typical[RATES.get(name, "conversion")] for name in names])
    action = expected_action(np.full(len(names), typical["click"]), rate, *value.needs(names))

    def early_value(candidates: Candidates) -> Floats:
        error = keyed_normal(seed, LOGGING_POLICY, candidates.request[:, None], candidates.ad)
        return candidates.bid * action[candidates.objective] * np.exp(noise * error)

    return early_value


def final_stage(
    world: World, candidates: Candidates, index: Ints | None = None, *, seed: int = 0
) -> Valued:
    """The final stage's predictions for all candidates, `[R, N]`, or those at `index`, `[R, k]`.

    The error is a function of seed, request, ad and event. Scoring a candidate again, alone or
    among others, gives the same bits.
    """
    ad = candidates.ad if index is None else np.take_along_axis(candidates.ad, index, axis=1)
    user, day, scene, request = (
        x[:, None] for x in (candidates.user, candidates.day, candidates.scene, candidates.request)
    )
    logits = value_logits(world, user=user, ad=ad, day=day, scene=scene)
    return judge(world, logits, request=request, ad=ad, seed=seed)


def value_logits(
    world: World, *, user: ArrayLike, ad: ArrayLike, day: ArrayLike, scene: ArrayLike
) -> dict[str, Floats]:
    """The true logits, at the first position, of all events that a total value needs."""
    shape = np.broadcast_shapes(*map(np.shape, (user, ad, day, scene)))
    # Flattened, because the last bit of a vectorised function may depend on the memory layout.
    users, ads, days, scenes = (np.broadcast_to(x, shape).ravel() for x in (user, ad, day, scene))
    events = dict.fromkeys(("click", "conversion", "view_conversion", *world.constants.scalars))
    logits = true_logits(world, users, ads, events=events, day=days, scene=scenes)
    return {name: logit.reshape(shape) for name, logit in logits.items()}


def judge(
    world: World, logits: Mapping[str, Floats], *, request: ArrayLike, ad: Ints, seed: int
) -> Valued:
    """The final stage's predictions from the true logits; see `final_predictions`."""
    requests = np.broadcast_to(request, ad.shape).ravel()
    flat = {name: logit.ravel() for name, logit in logits.items()}
    predicted = final_predictions(world, flat, request=requests, ad=ad.ravel(), seed=seed)
    return value_of(world, {name: p.reshape(ad.shape) for name, p in predicted.items()}, ad)


def value_of(world: World, predictions: Mapping[str, Floats], ad: Ints) -> Valued:
    """The auction's values from predictions, either the final stage's or the true ones."""
    c = world.constants
    value = auction_value(c)
    clicks, converts = (
        needs[world.objective[ad]] for needs in value.needs(np.asarray(list(c.objectives)))
    )
    ctr, rate, score = predictions["click"], rate_of(world, ad, predictions), cqs(c, predictions)
    return Valued(
        ctr=ctr,
        rate=rate,
        cqs=score,
        total_value=value.combine(ctr, rate, score, world.bid[ad], clicks, converts, xp=np),
        action=expected_action(ctr, rate, clicks, converts),
    )


def best(value: Floats, ad: Ints, count: int | None = None) -> Ints:
    """Columns of the `count` greatest values of each row, best first, `[R, count]`.

    Ties are broken by the lower ad id, so that the order of candidates has no influence.
    """
    return np.lexsort((ad, -value), axis=-1)[:, :count]


def run_funnel(
    world: World,
    funnel: Funnel,
    candidates: Candidates,
    early_value: Floats,
    *,
    seed: int = 0,
) -> Funnelled:
    """Sends requests through the funnel, from the early stage's choice to the users' reactions.

    The best `funnel.passed` candidates by `early_value` reach the final stage. Its best
    `funnel.slots` candidates above the reserve are shown. The price of an action is the lowest bid
    that keeps the ad's slot: `(V − f(CQS)) / eAction`, where `V` is the next ad's total value. `V`
    is the reserve if the reserve is higher or there is no next ad. The price is at least
    `reserve_bid` and at most the bid.

    Outcomes are drawn from the true probabilities. The uniform values are functions of seed,
    request, ad and event. Two arms that show the same ad in the same slot therefore get the same
    outcome. In different slots they nearly always do: the click probability differs, the uniform
    value does not.

    Args:
        world: Users and ads.
        funnel: Sizes and reserves.
        candidates: Candidates from `retrieve`.
        early_value: `[R, N]`, finite; only its order within a request is used.
        seed: Seed of the final stage's error and of the outcomes.

    Raises:
        ValueError: `early_value` has a wrong shape or values that are not finite.
    """
    early_value = np.asarray(early_value, np.float64)
    if early_value.shape != candidates.ad.shape:
        raise ValueError(
            f"early_value has the shape {early_value.shape}; the candidates' "
            f"{candidates.ad.shape} would be right."
        )
    if not np.isfinite(early_value).all():
        wrong = int((~np.isfinite(early_value)).sum())
        raise ValueError(f"{wrong:,} of {early_value.size:,} early values are not finite.")
    early = best(early_value, candidates.ad, funnel.passed)
    final = final_stage(world, candidates, early, seed=seed)
    order = best(final.total_value, np.take_along_axis(candidates.ad, early, axis=1))
    final = _each(final, lambda x: np.take_along_axis(x, order, axis=1))
    passed = np.take_along_axis(early, order, axis=1)
    columns = passed[:, : funnel.slots]
    shown = final.total_value[:, : funnel.slots] > funnel.reserve
    ad = np.take_along_axis(candidates.ad, columns, axis=1)
    bid = np.take_along_axis(candidates.bid, columns, axis=1)
    true, worth, outcomes = _impressions(world, funnel, candidates, ad, shown, seed)
    return Funnelled(
        passed=passed,
        final=final,
        shown=shown,
        ad=np.where(shown, ad, -1),
        price=np.where(shown, _prices(world, funnel, final, bid), 0.0),
        true=true,
        worth=worth,
        outcomes=outcomes,
    )


def _prices(world: World, funnel: Funnel, final: Valued, bid: Floats) -> Floats:
    slots = funnel.slots
    rivals = np.full((len(bid), slots), funnel.reserve)
    following = final.total_value[:, 1 : slots + 1]
    rivals[:, : following.shape[1]] = np.maximum(following, funnel.reserve)
    quality = auction_value(world.constants).ad_quality(final.cqs[:, :slots])
    price = (rivals - quality) / final.action[:, :slots]
    return np.clip(np.maximum(price, funnel.reserve_bid), 0.0, bid)


def _impressions(
    world: World,
    funnel: Funnel,
    candidates: Candidates,
    ad: Ints,
    shown: NDArray[np.bool_],
    seed: int,
) -> tuple[dict[str, Floats], Valued, dict[str, NDArray[np.bool_]]]:
    c = world.constants
    user, day, scene, request = (
        x[:, None] for x in (candidates.user, candidates.day, candidates.scene, candidates.request)
    )
    logits = true_logits(
        world,
        user,
        ad,
        events=dict.fromkeys(("click", "conversion", *PER_IMPRESSION, "survey", *c.scalars)),
        day=day,
        scene=scene,
        position=np.arange(1, ad.shape[1] + 1),
    )
    probability = probabilities(logits)
    worth = _each(value_of(world, probability, ad), lambda x: np.where(shown, x, 0.0))
    true = {name: np.where(shown, p, 0.0) for name, p in probability.items()}
    streams = {name: OUTCOME + i for i, name in enumerate([*c.events, "survey_shown"])}
    rates = {**true, "survey_shown": np.where(shown, funnel.survey_rate, 0.0)}
    outcomes = {
        name: keyed_uniform(seed, streams[name], request, ad) < rates[name] for name in OUTCOMES
    }
    outcomes["conversion"] &= outcomes["click"]
    outcomes["survey"] &= outcomes["survey_shown"]
    return true, worth, outcomes


def _each(valued: Valued, change: Callable[[Floats], Floats]) -> Valued:
    fields = dataclasses.fields(Valued)
    return Valued(**{field.name: change(getattr(valued, field.name)) for field in fields})
