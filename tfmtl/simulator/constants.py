"""The numbers that make the simulated world. All of them are our choice.

They follow what is known of ads: clicks are rare and conversions rarer, what attracts clicks
(clickbait) repels conversions and good ratings, and irrelevant ads are closed. One set serves
every experiment, so that no comparison is won by tuning the world.
"""

import dataclasses
import itertools
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effects:
    """The logit of one event: `bias` plus each other field times the term of its name.

    Args:
        bias: The logit where every term is zero.
        relevance: Of `r = z · v / √d`, the match of user and ad latents.
        curve: Of `tanh(z₀ v₁)`, what no dot product of the latents expresses.
        clickbait: Of the ad's eye-catching share; hidden.
        skill: Of how well the ad's landing page converts; hidden.
        creative: Of how annoying the ad's creative is; hidden.
        appeal: Of the ad's further attraction, which drifts from day to day; hidden.
        clicker: Of how readily the user clicks; hidden.
        closer: Of how readily the user closes ads; hidden.
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
    """Where ads are shown, by `Constants` to the same users as elsewhere or to others.

    Args:
        name: Its value in the log.
        share: Its share of the requests, relative to the other scenes'.
        click: Added to the click logit.
        conversion: Added to the logit of a conversion after a click.
        age: How much more often older users come: the log of the factor for one standard
            deviation of age.
        pool: The share of all ads that can be shown here; where scenes share no ads, its size
            relative to the other scenes'.
    """

    name: str
    share: float = 1.0
    click: float = 0.0
    conversion: float = 0.0
    age: float = 0.0
    pool: float = 1.0


# The bare click logit gives about 2 % of clicks and so a conversion in some 400 rows. The scenes
# lift it, so that 200,000 rows hold enough conversions to learn from and to measure.
FEED = Scene(name="feed", share=0.65, click=0.9, conversion=-0.25, age=-0.3, pool=0.8)
SEARCH = Scene(name="search", share=0.35, click=1.5, age=0.4, pool=0.6)

# The bare logits. A funnel ranks most ads away, so that those shown need no lift.
PLAIN_FEED = Scene(name="feed")
# It differs from the plain feed as SEARCH does from FEED.
PLAIN_SEARCH = Scene(name="search", share=0.5, click=0.6, conversion=0.25, age=0.4, pool=0.6)

EVENTS: Mapping[str, Effects] = {
    "click": Effects(
        bias=-4.3, relevance=0.75, clickbait=0.12, clicker=0.3, appeal=0.3, curve=0.25
    ),
    # After a click.
    "conversion": Effects(bias=-2.6, relevance=0.5, clickbait=-0.4, skill=0.3),
    # After an impression, with or without a click.
    "view_conversion": Effects(bias=-6.0, relevance=0.55, clickbait=-0.3, skill=0.3),
    "xout": Effects(bias=-4.6, relevance=-0.9, clickbait=0.5, closer=0.4),
    "hide": Effects(bias=-4.6, relevance=-0.7, clickbait=0.3, creative=0.8),
    "report": Effects(bias=-6.5, relevance=-0.5, clickbait=0.7),
    # Of those who are asked, who rates the ad well.
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
        interests: Categories a user is known to be interested in.
        category_spread: Standard deviation of an ad's latents that its category explains.
        ad_spread: And the one it does not.
        dense_noise: Standard deviation of the noise on the dense features; see `World`.
        activity: Standard deviation of the log of how often a user comes.
        drift: How far an ad's appeal moves in a day, in standard deviations of all appeals.
        objectives: Share of the ads that pay for a click, a conversion after a click, and a
            conversion after an impression.
        bid_factors: Of a bid, by objective: rarer actions are worth more.
        advertiser_bid: Standard deviation of the log bid between advertisers.
        ad_bid: And between the ads of one.
        position: Added to the click logit for each doubling of the position (1, 2, 4, ...).
        final_noise: Standard deviation of the final stage's error on a logit.
        scalars: What an event adds to an ad's quality. A survey counts by how far its
            probability lies from a half.
        events: The events' true logits.
        scenes: The scenes, with different names.
        shared_users: Whether a user is the same person in every scene. Otherwise every scene but
            the first has people of its own, drawn independently, under the same user ids: what
            is learnt of an id in one scene says nothing in another. What a feature means of a
            person is the same everywhere.
        shared_ads: Whether scenes may show the same ads. Otherwise each ad belongs to one scene,
            so that users are all that scenes can have in common.

    Raises:
        ValueError: Scenes or objectives contradict each other, a size is not positive, or there
            are too few ads for scenes that share none.
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
    """How many ads of a request reach each stage, and by which rules. All are our choice.

    Args:
        retrieved: Ads that retrieval finds for a request, `N`.
        passed: Ads that the early stage passes on to the final one.
        slots: Ads that are shown at most.
        matched: Share of the retrieved ads that are drawn from the user's interests; the others
            are drawn from all ads.
        reserve: Total value that an ad must exceed to be shown; below zero, ads are shown whose
            quality costs more than they pay.
        reserve_bid: Least price of an action, where the bid is not below it.
        survey_rate: Share of the shown ads whose user is asked to rate them.
        early_noise: Standard deviation of the early conversion model's error on a logit: larger
            than the final stage's 0.15, for it is the simpler model.

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
    """The constants of the funnel's world: bare rates, for a funnel shows the best ads only.

    Args:
        scenes: 1 for a feed alone, 2 for a search too.

    Raises:
        ValueError: `scenes` is neither 1 nor 2.
    """
    known = (PLAIN_FEED, PLAIN_SEARCH)
    if not 1 <= scenes <= len(known):
        raise ValueError(f"scenes={scenes}; 1 to {len(known)} are known.")
    return Constants(scenes=known[:scenes])
