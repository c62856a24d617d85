"""A log of users whose taste moves, with the history that shows where it is."""

import numpy as np
import pyarrow as pa

from tfmtl.data.histories import add_histories
from tfmtl.declare.histories import Histories
from tfmtl.simulator.columns import (
    EXACT,
    INTEGER,
    impression_columns,
    impression_fields,
    record_batch,
)
from tfmtl.simulator.requests import BLOCK, FEWEST, MOST, draw_ads, draw_requests
from tfmtl.simulator.truth import probabilities, true_logits
from tfmtl.simulator.world import Floats, Ints, World

FIRST_SECOND = 1_700_000_000
"""Time of the first request."""
DAY = 86_400
MOVES = 2
"""Stream of the tastes, which are drawn apart from the requests."""


def moving_tastes_log(
    world: World,
    *,
    impressions: int,
    seed: int = 0,
    days: int = 10,
    moves: float = 0.15,
    strength: float = 2.0,
    shown: float = 0.5,
    history: int = 20,
) -> pa.Table:
    """A log in which each user has one category of the moment, and returns to it until it moves.

    An ad of that category has `strength` more in its click logit. Which category it is at a time,
    no id says: a user's last clicks do. A row has `time`, whole seconds, and
    `clicked_ads`, `clicked_categories` and `clicked_times`, the user's last clicks strictly before
    it, oldest first. `true_ctr`, `true_cvr` and `true_ctcvr` are the probabilities that labels are
    drawn from; they know the category of the moment. With `strength=0` nothing moves, and
    the history says no more than the ids.

    Args:
        world: Users and ads. Few users with many requests each have long histories.
        impressions: Number of rows.
        seed: Seed of requests, tastes, ads and labels; not of the world.
        days: Number of days, over which the requests are spread evenly.
        moves: Chance that a user's category moves before a request, to any category.
        strength: Added to the click logit of ads of the category.
        shown: Share of ads that are replaced by one of the category.
        history: Most events of a history.

    Raises:
        ValueError: `impressions` is not positive, or a share is not in 0 … 1.

    Example:
        >>> from tfmtl.simulator import draw_world
        >>> log = moving_tastes_log(draw_world(0), impressions=50)
        >>> log.num_rows, log["clicked_ads"].type
        (50, ListType(list<item: int64>))
    """
    if impressions < 1 or not 0 <= moves <= 1 or not 0 <= shown <= 1:
        raise ValueError(
            f"impressions={impressions}, moves={moves}, shown={shown}: at least 1, and shares."
        )
    parts, block, rows = [], 0, 0
    while rows < impressions:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, block)))
        scene, user = draw_requests(rng, world)
        row, position, ad = draw_ads(rng, world, scene, user)
        parts.append((block * BLOCK + row, scene[row], user[row], position, ad))
        rows, block = rows + len(row), block + 1
    request, scene, user, position, ad = (
        np.concatenate(part)[:impressions] for part in zip(*parts, strict=True)
    )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MOVES, 0)))
    taste = _tastes(rng, world, request, user, moves)
    ad = _replaced(rng, world, ad, taste, shown)
    per_day = max(1.0, impressions / ((FEWEST + MOST) / 2) / days)
    day = np.minimum(request / per_day, days - 1).astype(np.int64)
    true = _probabilities(world, user, ad, day, scene, position, taste, strength)
    columns = impression_columns(
        world, request=request, day=day, scene=scene, user=user, ad=ad, position=position
    )
    return _with_labels(rng, world, columns, true, request, days, history)


def _tastes(
    rng: np.random.Generator, world: World, request: Ints, user: Ints, moves: float
) -> Ints:
    """The category of the moment of each row's user, `[rows]`."""
    requests, first_rows, of_row = np.unique(request, return_index=True, return_inverse=True)
    users = user[first_rows]
    order = np.lexsort([requests, users])
    new = rng.random(len(requests)) < moves
    new |= np.append(True, users[order][1:] != users[order][:-1])
    drawn = rng.integers(0, world.constants.categories, int(new.sum()))
    tastes = np.empty(len(requests), np.int64)
    tastes[order] = drawn[np.cumsum(new) - 1]
    return tastes[of_row.ravel()]


def _replaced(rng: np.random.Generator, world: World, ad: Ints, taste: Ints, shown: float) -> Ints:
    """The ads, some of them replaced by ads of the category of the moment."""
    by_category = np.argsort(world.category, kind="stable")
    counts = np.bincount(world.category, minlength=world.constants.categories)
    starts = np.cumsum(counts) - counts
    chosen = starts[taste] + (rng.random(len(ad)) * counts[taste]).astype(np.int64)
    chosen = by_category[np.minimum(chosen, len(by_category) - 1)]
    replace = (rng.random(len(ad)) < shown) & (counts[taste] > 0)
    return np.where(replace, chosen, ad)


def _probabilities(
    world: World,
    user: Ints,
    ad: Ints,
    day: Ints,
    scene: Ints,
    position: Ints,
    taste: Ints,
    strength: float,
) -> dict[str, Floats]:
    events = dict.fromkeys(["click", "conversion"])
    logits = true_logits(world, user, ad, events=events, day=day, scene=scene, position=position)
    logits["click"] = logits["click"] + strength * (world.category[ad] == taste)
    return probabilities(logits)


def _with_labels(
    rng: np.random.Generator,
    world: World,
    columns: dict[str, object],
    true: dict[str, Floats],
    request: Ints,
    days: int,
    history: int,
) -> pa.Table:
    last = max(int(request.max()), 1)
    columns["time"] = FIRST_SECOND + request * (days * DAY - 1) // last
    rows = len(request)
    click = (rng.random(rows) < true["click"]).astype(np.int64)
    columns["click"] = click
    columns["conversion"] = (rng.random(rows) < true["conversion"]) * click
    columns["true_ctr"], columns["true_cvr"] = true["click"], true["conversion"]
    columns["true_ctcvr"] = true["click"] * true["conversion"]
    fields = [
        *impression_fields(world.constants),
        *((name, INTEGER) for name in ("time", "click", "conversion")),
        *((f"true_{name}", EXACT) for name in ("ctr", "cvr", "ctcvr")),
    ]
    table = pa.Table.from_batches([record_batch(columns, pa.schema(fields))])
    made = Histories(
        user="user_id",
        time="time",
        columns={
            "clicked_ads": "ad_id",
            "clicked_categories": "category",
            "clicked_times": "time",
        },
        event_if="click",
        length=history,
    )
    return add_histories(table, made)
