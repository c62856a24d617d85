"""Who asks, and which ads are shown, by a rule and not by a model.

Some ads match the user's interests, others are random, and their order is random too, so that
position is not confused with relevance.
"""

import numpy as np
from numpy.typing import NDArray

from tfmtl.simulator.world import Floats, Ints, World

# A block of requests has its own random stream; results would change with its size.
BLOCK = 4_096
FEWEST, MOST = 4, 10
MATCHED = 0.6
INTEREST_SHARES = (0.5, 0.3, 0.2)


def draw_requests(rng: np.random.Generator, world: World, count: int = BLOCK) -> tuple[Ints, Ints]:
    """Returns the scene and the user of each request of a block, `[count]` indices."""
    shares = np.cumsum([scene.share for scene in world.constants.scenes])
    scene = np.searchsorted(shares / shares[-1], rng.random(count), side="right")
    chosen = rng.random(count)
    user = np.zeros(count, np.int64)
    for index in range(len(world.visits)):
        here = scene == index
        user[here] = visitors(world, index, chosen[here])
    return scene, user


def visitors(world: World, scene: int, luck: Floats) -> Ints:
    """The users of requests of one scene, by uniform values in `[0, 1)` of the same shape."""
    total = np.cumsum(world.visits[scene])
    return np.searchsorted(total / total[-1], luck, side="right")


def draw_ads(
    rng: np.random.Generator,
    world: World,
    scene: Ints,
    user: Ints,
    *,
    fewest: int = FEWEST,
    most: int = MOST,
) -> tuple[Ints, Ints, Ints]:
    """Draws `fewest` to `most` different ads a request, fewer where it finds no more.

    They are the first different ones out of `2 · most` that are drawn with replacement.

    Args:
        rng: The block's.
        world: Whose ads and interests.
        scene: `[R]`.
        user: `[R]`.
        fewest: Ads of a request.
        most: Ads of a request.

    Returns:
        For each of `n` rows the request's index, below `R`, the position from 1, and the ad.
    """
    # More than are shown, for some are drawn twice.
    shape = (len(user), 2 * most)
    slots = rng.integers(fewest, most, size=len(user), endpoint=True)
    shares = np.cumsum(INTEREST_SHARES[: world.interests.shape[1]])
    rank = np.searchsorted(shares / shares[-1], rng.random(shape), side="right")
    category = world.interests[world.people(user, scene)[:, None], rank]
    start = world.pool_start[scene[:, None], category]
    count = world.pool_start[scene[:, None], category + 1] - start
    random = (rng.random(shape) >= MATCHED) | (count == 0)
    start = np.where(random, 0, start)
    count = np.where(random, world.pool_start[scene, -1][:, None], count)
    index = start + (rng.random(shape) * count).astype(np.int64)
    longest = max(len(pool) for pool in world.pool)
    pools = np.stack([np.resize(pool, longest) for pool in world.pool])
    ad = pools[scene[:, None], index]
    kept = _first_of_its_kind(ad)
    position = np.cumsum(kept.astype(np.int64), axis=1)
    kept &= position <= slots[:, None]
    row, column = np.nonzero(kept)
    return row, position[row, column], ad[row, column]


def _first_of_its_kind(values: Ints) -> NDArray[np.bool_]:
    """Whether a value is the first of its kind in its row, bool `[n, m]`."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result
