"""Draws users and the ads shown to them by a fixed rule, not by a model.

Some ads match the user's interests and others are random. Their order is random too, so that the
position is not correlated with relevance.
"""

import numpy as np
from numpy.typing import NDArray

from tfmtl.simulator.world import Floats, Ints, World

# Each block of requests has its own random stream, so another size changes the results.
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
    """The users of one scene's requests, from uniform values in `[0, 1)` of the same shape."""
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
    """Draws `fewest` to `most` different ads per request, or fewer if the draw has fewer.

    They are the first different ads among `2 · most` draws with replacement.

    Args:
        rng: The generator of the block.
        world: Ads and interests.
        scene: `[R]`.
        user: `[R]`.
        fewest: The lowest number of ads per request.
        most: The greatest number of ads per request.

    Returns:
        For each of `n` rows: the index of the request, below `R`; the position, from 1; the ad.
    """
    # More draws than slots, because some ads are drawn twice.
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
    """Whether a value occurs for the first time in its row, bool `[n, m]`."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result
