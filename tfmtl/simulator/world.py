"""Users and ads with hidden properties, and the features that a model may see."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.simulator.constants import Constants

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rngs = Sequence[np.random.Generator]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """`U` users, `A` ads and `S` scenes; see `draw_world`.

    There are `P` people: `P = U` if scenes share users, otherwise `P = S · U`, ordered by scene.
    The method `people` maps a user id to a person.

    The latents, biases and effects are hidden: a model has only ids, categories and dense
    features. The dense features are the latents after a rotation, with added noise. Users and ads
    have different rotations, so a model must learn which dimensions match.

    Attributes:
        constants: The constants that the world was drawn with.
        user_latent: `z`, `[P, d]`.
        clicker: `[P]`, how readily a user clicks.
        closer: `[P]`, how readily a user closes ads.
        segment: `[P]`, the category that matches the user best.
        interests: `[P, interests]`, the categories that match the user best, best first.
        age: `[P]`, whole years.
        user_dense: `[P, d]`.
        ad_latent: `v`, `[A, d]`, centred on the latents of the ad's category.
        category: `[A]`.
        advertiser: `[A]`.
        objective: `[A]`, index into `constants.objectives`.
        bid: `[A]`, value of one action of the ad's objective.
        clickbait: `[A]`.
        skill: `[A]`.
        creative: `[A]`.
        appeal: `[days, A]`; each day has unit variance.
        ad_dense: `[A, d]`.
        visits: `[S, U]`, the share of a scene's requests per user.
        pool: `[S]` arrays of the ads of a scene, ordered by category.
        pool_start: `[S, categories + 1]`, where a category begins in `pool`.
    """

    constants: Constants
    user_latent: Floats
    clicker: Floats
    closer: Floats
    segment: Ints
    interests: Ints
    age: Ints
    user_dense: Floats
    ad_latent: Floats
    category: Ints
    advertiser: Ints
    objective: Ints
    bid: Floats
    clickbait: Floats
    skill: Floats
    creative: Floats
    appeal: Floats
    ad_dense: Floats
    visits: Floats
    pool: tuple[Ints, ...]
    pool_start: Ints

    @property
    def days(self) -> int:
        """Number of days that the world was drawn for."""
        return len(self.appeal)

    def people(self, user: ArrayLike, scene: ArrayLike) -> Ints:
        """The persons behind user ids in scenes: indices, in the shape the arguments broadcast to.

        Args:
            user: User ids, as in the logs.
            scene: Indices into `constants.scenes`.
        """
        user, scene = np.broadcast_arrays(np.asarray(user, np.int64), np.asarray(scene, np.int64))
        return user if self.constants.shared_users else scene * self.constants.users + user


def draw_world(seed: int = 0, *, days: int = 30, constants: Constants | None = None) -> World:
    """Draws a world. The same arguments give the same world; more days only add days.

    `shared_users` does not change the first scene. Two worlds with the same seed can therefore be
    compared there person by person. The rows of their logs are equal too, to the bit, if every
    request finds as many ads as it shows. Pools of a few hundred ads are enough for this.

    Args:
        seed: Seed of all random draws.
        days: Number of days over which the ads' appeal drifts.
        constants: Sizes and effects.

    Raises:
        ValueError: `days` is not positive.
    """
    if days < 1:
        raise ValueError(f"days={days}; at least 1 makes sense.")
    c = constants or Constants()
    # Each part has its own random stream, so that a change to one part leaves the others
    # unchanged.
    *streams, scene_users = np.random.SeedSequence(seed, spawn_key=(0,)).spawn(6)
    shared, of_users, of_ads, of_days, of_scenes = map(np.random.default_rng, streams)
    further = [] if c.shared_users else scene_users.spawn(len(c.scenes))[1:]
    crowds = [np.random.default_rng(stream) for stream in further]
    centres = shared.standard_normal((c.categories, c.latent))
    people = _draw_people([of_users, *crowds], c, centres)
    ads = _draw_ads(of_ads, c, centres)
    visits = _draw_visits([of_scenes, *crowds], c, people["age"])
    pool, pool_start = _draw_pools(of_scenes, c, ads["category"])
    return World(
        constants=c,
        **people,
        **ads,
        appeal=_drifting(of_days, c, days),
        visits=visits,
        pool=pool,
        pool_start=pool_start,
    )


def _draw_people(rngs: Rngs, c: Constants, centres: Floats) -> dict[str, NDArray]:
    """`c.users` people from each generator."""
    crowds = [_draw_users(rng, c, centres) for rng in rngs]
    # One rotation for all, so that a feature has the same meaning for everyone.
    rotation = _rotation(rngs[0], c)
    for rng, crowd in zip(rngs, crowds, strict=True):
        crowd["user_dense"] = _blurred(rng, crowd["user_latent"], rotation, c)
    return {name: np.concatenate([crowd[name] for crowd in crowds]) for name in crowds[0]}


def _draw_users(rng: np.random.Generator, c: Constants, centres: Floats) -> dict[str, NDArray]:
    latent = rng.standard_normal((c.users, c.latent))
    liking = latent @ centres.T
    interests = np.argsort(-liking, axis=1, kind="stable")[:, : c.interests]
    # Part of the taste depends on age, so that age carries information too.
    years = 0.6 * latent[:, 0] + 0.8 * rng.standard_normal(c.users)
    return {
        "user_latent": latent,
        "clicker": rng.standard_normal(c.users),
        "closer": rng.standard_normal(c.users),
        "segment": interests[:, 0],
        "interests": interests,
        "age": np.clip(np.rint(40 + 12 * years), 18, 85).astype(np.int64),
    }


def _draw_ads(rng: np.random.Generator, c: Constants, centres: Floats) -> dict[str, NDArray]:
    category = rng.integers(c.categories, size=c.ads)
    deviation = rng.standard_normal((c.ads, c.latent))
    latent = c.category_spread * centres[category] + c.ad_spread * deviation
    advertiser = rng.integers(c.advertisers, size=c.ads)
    shares = np.asarray(list(c.objectives.values()), np.float64)
    objective = rng.choice(len(shares), size=c.ads, p=shares / shares.sum())
    log_bid = c.advertiser_bid * rng.standard_normal(c.advertisers)[advertiser]
    log_bid += c.ad_bid * rng.standard_normal(c.ads)
    factor = np.asarray([c.bid_factors[name] for name in c.objectives])[objective]
    return {
        "ad_latent": latent,
        "category": category,
        "advertiser": advertiser,
        "objective": objective,
        "bid": np.exp(log_bid) * factor,
        "clickbait": rng.standard_normal(c.ads),
        "skill": rng.standard_normal(c.ads),
        "creative": rng.standard_normal(c.ads),
        "ad_dense": _blurred(rng, latent, _rotation(rng, c), c),
    }


def _rotation(rng: np.random.Generator, c: Constants) -> Floats:
    rotation, _ = np.linalg.qr(rng.standard_normal((c.latent, c.latent)))
    return rotation


def _blurred(rng: np.random.Generator, latent: Floats, rotation: Floats, c: Constants) -> Floats:
    return latent @ rotation + c.dense_noise * rng.standard_normal(latent.shape)


def _drifting(rng: np.random.Generator, c: Constants, days: int) -> Floats:
    appeal = np.empty((days, c.ads))
    appeal[0] = rng.standard_normal(c.ads)
    # The correlation of one day with the next: the appeal moves by `drift` and keeps variance 1.
    correlation = 1.0 - c.drift**2 / 2.0
    for day in range(1, days):
        innovation = rng.standard_normal(c.ads)
        appeal[day] = correlation * appeal[day - 1] + np.sqrt(1.0 - correlation**2) * innovation
    return appeal


def _draw_visits(rngs: Rngs, c: Constants, age: Ints) -> Floats:
    """How often people come. Each generator draws the activity of one group of people."""
    activity = [c.activity * rng.standard_normal(c.users) for rng in rngs]
    crowds = list(zip(activity, age.reshape(len(rngs), c.users), strict=True))
    visits = []
    for index, scene in enumerate(c.scenes):
        active, years = crowds[index % len(crowds)]
        older = (years - years.mean()) / max(years.std(), 1.0)
        weight = np.exp(active + scene.age * older)
        visits.append(weight / weight.sum())
    return np.stack(visits)


def _draw_pools(
    rng: np.random.Generator, c: Constants, category: Ints
) -> tuple[tuple[Ints, ...], Ints]:
    if c.shared_ads:
        drawn = [rng.permutation(c.ads)[:size] for size in c.pool_sizes]
    else:
        drawn = np.split(rng.permutation(c.ads), np.cumsum(c.pool_sizes)[:-1])
    pools, starts = [], []
    for ads in map(np.sort, drawn):
        pools.append(ads[np.argsort(category[ads], kind="stable")])
        counts = np.bincount(category[ads], minlength=c.categories)
        starts.append(np.concatenate([[0], np.cumsum(counts)]))
    return tuple(pools), np.stack(starts)
