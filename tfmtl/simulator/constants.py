"""The constants of the simulated world. All of them are our choice.

They follow what is known about ads. Clicks are rare and conversions are rarer. Clickbait attracts
clicks, but lowers conversion rates and ratings. Users close irrelevant ads. All experiments use
the same constants, so that no comparison is won by tuning the world.
"""

import dataclasses
import itertools
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effects:
    """The logit of one event: `bias`, plus each other field times the term with its name.

    Args:
        bias: The logit where every term is zero.
        relevance: Coefficient of `r = z · v / √d`, the match of user and ad latents.
        curve: Coefficient of `tanh(z₀ v₁)`, which no dot product of the latents can express.
        clickbait: Coefficient of how eye-catching the ad is (hidden).
        skill: Coefficient of how well the ad's landing page converts (hidden).
        creative: Coefficient of how annoying the ad's creative is (hidden).
        appeal: Coefficient of the ad's further attraction, which drifts from day to day (hidden).
        clicker: Coefficient of how readily the user clicks (hidden).
        closer: Coefficient of how readily the user closes ads (hidden).
    """

    bias: float = 0.0
    relevance: float = 0.0
    curve: float = 0.0
    clickbait: float = 0.0
    skill: float = 0.0
    creative: float = 0.0
    appeal: float = 0.0
    clicker: float = 0.0
    closer: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A place where ads are shown. `Constants` says whether scenes share users and ads.

    Args:
        name: Its value in the log.
        share: Its share of the requests, relative to the shares of the other scenes.
        click: Added to the click logit.
        conversion: Added to the logit of a conversion after a click.
        age: How much more often older users come: the logarithm of the factor per standard
            deviation of age.
        pool: The share of all ads that can be shown here. Where scenes share no ads, it is the
            pool's size relative to the pools of the other scenes.
    """

    name: str
    share: float = 1.0
    click: float = 0.0
    conversion: float = 0.0
    age: float = 0.0
    pool: float = 1.0


# Without a scene's bias, the click rate is about 2 % and about one row in 400 has a conversion.
# The scenes raise both, so that 200,000 rows hold enough conversions for training and for metrics.
FEED = Scene(name="feed", share=0.65, click=0.9, conversion=-0.25, age=-0.3, pool=0.8)
SEARCH = Scene(name="search", share=0.35, click=1.5, age=0.4, pool=0.6)

# No bias. A funnel shows only the best of many ads, so their rates need not be raised.
PLAIN_FEED = Scene(name="feed")
# It differs from PLAIN_FEED as SEARCH differs from FEED.
PLAIN_SEARCH = Scene(name="search", share=0.5, click=0.6, conversion=0.25, age=0.4, pool=0.6)

EVENTS: Mapping[str, Effects] = {
    "click": Effects(
        bias=-4.3, relevance=0.75, clickbait=0.12, clicker=0.3, appeal=0.3, curve=0.25
    ),
    # Given a click.
    "conversion": Effects(bias=-2.6, relevance=0.5, clickbait=-0.4, skill=0.3),
    # Given an impression, with or without a click.
    "view_conversion": Effects(bias=-6.0, relevance=0.55, clickbait=-0.3, skill=0.3),
    "xout": Effects(bias=-4.6, relevance=-0.9, clickbait=0.5, closer=0.4),
    "hide": Effects(bias=-4.6, relevance=-0.7, clickbait=0.3, creative=0.8),
    "report": Effects(bias=-6.5, relevance=-0.5, clickbait=0.7),
    # Given that the user is asked: a good rating.
    "survey": Effects(relevance=0.8, clickbait=-0.8, creative=-0.3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """Sizes, spreads and effects of a world.

    Args:
        users: Number of users.
        ads: Number of ads.
        advertisers: Number of advertisers.
        categories: Number of ad categories, which are also the users' segments and interests.
        latent: Width `d` of the latent vectors.
        interests: Number of categories known as interests per user.
        category_spread: Standard deviation of an ad's latents that its category explains.
        ad_spread: Standard deviation of an ad's latents that its category does not explain.
        dense_noise: Standard deviation of the noise on the dense features; see `World`.
        activity: Standard deviation of the logarithm of how often a user comes.
        drift: How far an ad's appeal moves in a day, in standard deviations of all appeals.
        objectives: Share of the ads that pay for a click, a conversion after a click, and a
            conversion after an impression.
        bid_factors: A factor of the bid per objective: rarer actions are worth more.
        advertiser_bid: Standard deviation of the log bid between advertisers.
        ad_bid: Standard deviation of the log bid between the ads of one advertiser.
        position: Added to the click logit for each doubling of the position (1, 2, 4, ...).
        final_noise: Standard deviation of the final stage's error on a logit.
        scalars: The weight of each event in an ad's quality score. For a survey, the weight
            multiplies the probability minus one half.
        events: The events' true logits.
        scenes: The scenes, with different names.
        shared_users: Whether a user id is the same person in every scene. Otherwise each scene
            after the first draws its own people independently, under the same user ids. What a
            model learns about an id in one scene then says nothing about it in another. The
            meaning of features is the same in all scenes.
        shared_ads: Whether scenes may show the same ads. Otherwise each ad belongs to one scene,
            and scenes can share nothing but users.

    Raises:
        ValueError: Scenes or objectives contradict each other, a size is not positive, or there
            are too few ads for scenes without shared ads.
    """

    users: int = 3_000
    ads: int = 2_000
    advertisers: int = 200
    categories: int = 20
    latent: int = 8
    interests: int = 3
    category_spread: float = 0.8
    ad_spread: float = 0.6
    dense_noise: float = 0.3
    activity: float = 0.4
    drift: float = 0.1
    objectives: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"click": 0.5, "conversion": 0.3, "view_conversion": 0.2}
    )
    bid_factors: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"click": 1.0, "conversion": 12.0, "view_conversion": 7.0}
    )
    advertiser_bid: float = 0.3
    ad_bid: float = 0.2
    position: float = -0.3
    final_noise: float = 0.15
    scalars: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"xout": -1.5, "hide": -1.5, "report": -1.5, "survey": 0.12}
    )
    events: Mapping[str, Effects] = dataclasses.field(default_factory=lambda: dict(EVENTS))
    scenes: tuple[Scene, ...] = (FEED, SEARCH)
    shared_users: bool = True
    shared_ads: bool = True

    def __post_init__(self) -> None:
        for name in ("users", "ads", "advertisers", "categories", "interests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; at least 1 makes sense.")
        if self.latent < 2:
            raise ValueError(f"latent={self.latent}; tanh(z0 v1) needs at least 2.")
        if self.interests > self.categories:
            raise ValueError(
                f"interests={self.interests} of categories={self.categories}; a user has at most "
                "all of them."
            )
        names = [scene.name for scene in self.scenes]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"scenes are named {names}; give one or more, with different names.")
        if min(self.pool_sizes) < 1:
            raise ValueError(
                f"ads={self.ads}, of which pools of {[scene.pool for scene in self.scenes]} leave "
                f"a scene none; give more ads, or shared_ads=True."
            )
        if set(self.objectives) != set(self.bid_factors):
            raise ValueError(
                f"objectives={dict(self.objectives)}, but bid_factors={dict(self.bid_factors)}; "
                "both name the same objectives."
            )
        unknown = set(self.objectives) - set(self.events) | set(self.scalars) - set(self.events)
        if unknown:
            raise ValueError(f"no event {sorted(unknown)}; events are {list(self.events)}.")

    @property
    def pool_sizes(self) -> tuple[int, ...]:
        """How many ads each scene can show."""
        pools = [scene.pool for scene in self.scenes]
        if self.shared_ads:
            return tuple(min(self.ads, max(1, round(pool * self.ads))) for pool in pools)
        totals = list(itertools.accumulate(pools))
        ends = [round(self.ads * total / (totals[-1] or 1.0)) for total in totals]
        return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Funnel:
    """How many ads per request reach each stage, and by which rules. All are our choice.

    Args:
        retrieved: Ads that retrieval finds per request, `N`.
        passed: Ads per request that the early stage passes to the final stage.
        slots: The greatest number of ads shown per request.
        matched: Share of the retrieved ads that is drawn from the user's interests. The others are
            drawn from all ads.
        reserve: Total value that an ad must exceed to be shown. With a reserve below zero, an ad
            can be shown although its quality cost is greater than its payment.
        reserve_bid: The lowest price of an action, unless the bid is lower.
        survey_rate: Share of the impressions where the user is asked to rate the ad.
        early_noise: Standard deviation of the early conversion model's error on a logit. It is
            larger than the final stage's 0.15, because the early model is simpler.

    Raises:
        ValueError: The stages do not narrow, or a share or a spread makes no sense.
    """

    retrieved: int = 150
    passed: int = 20
    slots: int = 2
    matched: float = 0.6
    reserve: float = 0.0
    reserve_bid: float = 0.0
    survey_rate: float = 0.02
    early_noise: float = 0.3

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= self.passed <= self.retrieved:
            raise ValueError(
                f"slots={self.slots}, passed={self.passed}, retrieved={self.retrieved}; "
                "each stage has at least as many ads as the next, and at least one."
            )
        for name in ("matched", "survey_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}; a share lies from 0 to 1.")
        if not abs(self.reserve) < float("inf"):
            raise ValueError(f"reserve={self.reserve}; a finite total value makes sense.")
        for name in ("reserve_bid", "early_noise"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; zero or more makes sense.")


def funnel_constants(scenes: int = 1) -> Constants:
    """The constants of the funnel's world: no raised rates, because a funnel shows the best ads.

    Args:
        scenes: 1 for a feed, 2 for a feed and a search.

    Raises:
        ValueError: `scenes` is neither 1 nor 2.
    """
    known = (PLAIN_FEED, PLAIN_SEARCH)
    if not 1 <= scenes <= len(known):
        raise ValueError(f"scenes={scenes}; 1 to {len(known)} are known.")
    return Constants(scenes=known[:scenes])
