"""The first stage of the funnel: it retrieves ads by a fixed rule, not by a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.simulator.constants import Funnel
from tfmtl.simulator.noise import EARLY_CVR, keyed_normal
from tfmtl.simulator.requests import draw_requests
from tfmtl.simulator.truth import probabilities, true_logits
from tfmtl.simulator.world import Floats, Ints, World

# Each block of requests has its own random stream, so another size changes the results. The size
# is small, because retrieval holds one number per request of the block and ad.
BLOCK = 256
# The event whose probability is the conversion rate of an ad, for objectives that are not a
# conversion after a click. Ads that pay per click get a rate too, but no total value reads it.
RATES = {"view_conversion": "view_conversion"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The retrieved ads of `R` requests, `N` per request, as the early stage may see them.

    Retrieval orders the ads of a request by id, so that their order carries no information. No
    later stage depends on the order.

    Attributes:
        request: `[R]`, ids.
        user: `[R]`, user ids.
        day: `[R]`.
        scene: `[R]`, index into `constants.scenes`.
        ad: `[R, N]`, different ads within a request.
        objective: `[R, N]`, index into `constants.objectives`.
        bid: `[R, N]`, value of one action of the ad's objective.
        early_cvr: `[R, N]`, prediction of the early conversion model: per impression if the
            objective is a conversion after an impression, per click otherwise.
    """

    request: Ints
    user: Ints
    day: Ints
    scene: Ints
    ad: Ints
    objective: Ints
    bid: Floats
    early_cvr: Floats

    def __len__(self) -> int:
        return len(self.request)

    def select(self, requests: Any) -> "Candidates":
        """The candidates of some requests: a slice, indices, or one boolean per request."""
        fields = dataclasses.fields(self)
        return Candidates(**{f.name: getattr(self, f.name)[requests] for f in fields})

    def permuted(self, order: Ints) -> "Candidates":
        """The same candidates with the ads of each request in the order of `[R, N]` indices."""
        names = ("ad", "objective", "bid", "early_cvr")
        moved = {n: np.take_along_axis(getattr(self, n), order, axis=1) for n in names}
        return dataclasses.replace(self, **moved)


def retrieve(
    world: World,
    funnel: Funnel,
    *,
    requests: int,
    seed: int = 0,
    first_request: int = 0,
    day: ArrayLike = 0,
) -> Candidates:
    """Draws requests and finds `funnel.retrieved` different ads for each.

    A share `funnel.matched` of them is drawn from the categories that the user is interested in,
    as far as the scene has enough of them. The others are drawn from the remaining ads of the
    scene. A request depends only on seed and id, so one call or several calls give the same
    requests.

    The early conversion model is the true logit with a fixed error per person and ad. The error
    depends on neither request nor seed, because no experiment here changes this model.

    Args:
        world: Users and ads.
        funnel: Gives `retrieved`, `matched` and `early_noise`.
        requests: How many requests, `R`.
        seed: Seed of requests and ads; not of the world.
        first_request: Id of the first request; the others follow.
        day: One day, or the day of each request.

    Raises:
        ValueError: A number or day is out of range, or a scene has too few ads.
    """
    check_retrieval(world, funnel, requests, first_request)
    days = np.broadcast_to(np.asarray(day, np.int64), (requests,))
    if days.min() < 0 or days.max() >= world.days:
        raise ValueError(
            f"days {days.min()} to {days.max()}, but the world was drawn for {world.days}, from "
            f"0; draw_world(..., days={max(int(days.max()), 0) + 1}) would do."
        )
    targeting = _targeting(world)
    last = first_request + requests
    parts = []
    for block in range(first_request // BLOCK, (last - 1) // BLOCK + 1):
        start = block * BLOCK
        scene, user, ad = _block(world, funnel, targeting, seed, block)
        kept = slice(max(first_request - start, 0), min(last - start, BLOCK))
        parts.append((np.arange(start, start + BLOCK)[kept], scene[kept], user[kept], ad[kept]))
    request, scene, user, ad = map(np.concatenate, zip(*parts, strict=True))
    return Candidates(
        request=request,
        user=user,
        day=days.copy(),
        scene=scene,
        ad=ad,
        objective=world.objective[ad],
        bid=world.bid[ad],
        early_cvr=_early_cvr(world, funnel, user, ad, scene),
    )


def check_retrieval(world: World, funnel: Funnel, requests: int, first_request: int) -> None:
    """Raises the errors of `retrieve` for numbers that are out of range."""
    if requests < 1 or first_request < 0:
        raise ValueError(
            f"requests={requests}, first_request={first_request}; at least 1 and 0 make sense."
        )
    smallest = min(len(pool) for pool in world.pool)
    if funnel.retrieved > smallest:
        raise ValueError(
            f"retrieved={funnel.retrieved}, but a scene has {smallest} ads; "
            f"Funnel(retrieved={smallest}) would do, or more ads."
        )


def rate_of(world: World, ad: Ints, predictions: Mapping[str, Floats]) -> Floats:
    """The conversion rate of each ad's objective, from the predictions of both conversions."""
    after_view = [RATES.get(name) is not None for name in world.constants.objectives]
    return np.where(
        np.asarray(after_view)[world.objective[ad]],
        predictions["view_conversion"],
        predictions["conversion"],
    )


def _early_cvr(world: World, funnel: Funnel, user: Ints, ad: Ints, scene: Ints) -> Floats:
    users, scenes, ads = (
        np.broadcast_to(x, ad.shape).ravel() for x in (user[:, None], scene[:, None], ad)
    )
    logits = true_logits(world, users, ads, events=("conversion", "view_conversion"), scene=scenes)
    error = funnel.early_noise * keyed_normal(0, EARLY_CVR, world.people(users, scenes), ads)
    predicted = probabilities({name: logit + error for name, logit in logits.items()})
    return rate_of(world, ads, predicted).reshape(ad.shape)


def _targeting(world: World) -> tuple[NDArray[np.bool_], Ints, Ints, Ints]:
    c = world.constants
    interested = np.zeros((len(world.interests), c.categories), bool)
    np.put_along_axis(interested, world.interests, True, axis=1)
    sizes = np.asarray([len(pool) for pool in world.pool])
    # Shorter pools are padded; `sizes` holds their true lengths.
    pools = np.stack([np.resize(pool, sizes.max()) for pool in world.pool])
    return interested, pools, world.category[pools], sizes


def _block(
    world: World,
    funnel: Funnel,
    targeting: tuple[NDArray[np.bool_], Ints, Ints, Ints],
    seed: int,
    block: int,
) -> tuple[Ints, Ints, Ints]:
    interested, pools, categories, sizes = targeting
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, block)))
    scene, user = draw_requests(rng, world, BLOCK)
    shape = (BLOCK, pools.shape[1])
    missing = np.arange(shape[1]) >= sizes[scene][:, None]
    liked = interested[world.people(user, scene)]
    matching = np.take_along_axis(liked, categories[scene], axis=1) & ~missing
    taken = _least(
        np.where(matching, rng.random(shape), 2.0), round(funnel.matched * funnel.retrieved)
    )
    chosen = np.zeros(shape, bool)
    np.put_along_axis(chosen, taken, True, axis=1)
    chosen &= matching
    key = np.where(chosen, -1.0, rng.random(shape))
    ad = pools[scene[:, None], _least(np.where(missing, 2.0, key), funnel.retrieved)]
    return scene, user, np.sort(ad, axis=1)


def _least(keys: Floats, count: int) -> Ints:
    """The indices of the `count` lowest values of each row, in any order."""
    return np.argpartition(keys, max(count - 1, 0), axis=1)[:, :count]
