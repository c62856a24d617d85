"""A log of impressions: requests that show several ads each, and the users' reactions."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tfmtl.simulator.columns import (
    EXACT,
    INTEGER,
    NUMBER,
    impression_columns,
    impression_fields,
    record_batch,
)
from tfmtl.simulator.constants import Constants
from tfmtl.simulator.files import ROWS_PER_FILE, ROWS_PER_GROUP, sized, write_files
from tfmtl.simulator.requests import BLOCK, FEWEST, MOST, draw_ads, draw_requests
from tfmtl.simulator.truth import cqs, final_predictions, probabilities, true_logits
from tfmtl.simulator.world import Ints, World, draw_world

EVENTS = ("xout", "hide", "report")


def impression_log(world: World, *, impressions: int, seed: int = 0, days: int = 10) -> pa.Table:
    """A log in memory; see `impression_batches` for its rows and columns."""
    batches = impression_batches(world, impressions=impressions, seed=seed, days=days)
    return pa.Table.from_batches(batches, schema(world.constants)).combine_chunks()


def impression_batches(
    world: World,
    *,
    impressions: int,
    seed: int = 0,
    days: int = 10,
    batch_rows: int = ROWS_PER_GROUP,
) -> Iterator[pa.RecordBatch]:
    """Yields a log in constant memory, in the order of requests.

    A request has one user, one scene, one day and 4 to 10 different ads, position 1 first. The
    last request is cut so that the log has exactly `impressions` rows. A conversion needs a click.
    The columns `true_ctr`, `true_cvr` (a conversion given the click), `true_ctcvr` and `true_cqs`
    are the true values behind the labels. They are not features: they are the best predictions
    that a model could make. `final_cqs` is the final stage's consolidated quality score, computed
    with the error of `final_predictions`.

    Args:
        world: Users and ads.
        impressions: Number of rows.
        seed: Seed of requests, ads and labels; not of the world.
        days: Number of days. The requests are spread over days `0 … days − 1` evenly and in order.
        batch_rows: Rows per batch; it does not change the rows.

    Raises:
        ValueError: `impressions` or `batch_rows` is not positive, or the world has fewer days.
    """
    if impressions < 1 or batch_rows < 1:
        raise ValueError(
            f"impressions={impressions}, batch_rows={batch_rows}; both are at least 1."
        )
    if not 1 <= days <= world.days:
        raise ValueError(
            f"days={days}, but the world was drawn for {world.days}; "
            f"draw_world(..., days={max(days, 1)}) would do."
        )
    return sized(_blocks(world, impressions, seed, days), batch_rows, schema(world.constants))


def write_impression_log(
    path: str,
    *,
    impressions: int = 200_000,
    seed: int = 0,
    days: int = 10,
    scenes: int = 2,
    rows_per_file: int = ROWS_PER_FILE,
    world: World | None = None,
    progress: bool = False,
) -> list[str]:
    """Writes a log as Parquet files into a folder, in constant memory.

    Args:
        path: The folder; it is created if it does not exist.
        impressions: Number of rows.
        seed: Seed of the log, and of the world if none is given.
        days: Number of days in the log.
        scenes: 2 for a feed and a search, 1 for the feed only. Used if no world is given.
        rows_per_file: Rows per file.
        world: Users and ads; drawn if none is given.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The files.

    Raises:
        FileExistsError: The folder is not empty.
        ValueError: An argument is out of range (see `impression_batches`), or `scenes` is neither
            1 nor 2.
    """
    world = world or feed_and_search(seed, days, scenes)
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file}; at least 1 makes sense.")
    batches = impression_batches(
        world,
        impressions=impressions,
        seed=seed,
        days=days,
        batch_rows=min(ROWS_PER_GROUP, rows_per_file),
    )
    return write_files(
        path, batches, rows=impressions, rows_per_file=rows_per_file, progress=progress
    )


def feed_and_search(seed: int, days: int, scenes: int) -> World:
    """The default world: 2 scenes for a feed and a search, 1 for the feed only.

    Raises:
        ValueError: `scenes` is neither 1 nor 2.
    """
    known = Constants().scenes
    if not 1 <= scenes <= len(known):
        raise ValueError(f"scenes={scenes}; 1 to {len(known)} are known.")
    return draw_world(seed, days=max(days, 1), constants=Constants(scenes=known[:scenes]))


def schema(constants: Constants) -> pa.Schema:
    """The columns of a log."""
    return pa.schema(
        [
            *impression_fields(constants),
            ("click", INTEGER),
            ("conversion", INTEGER),
            *((event, INTEGER) for event in EVENTS),
            ("final_cqs", NUMBER),
            *((f"true_{name}", EXACT) for name in ("ctr", "cvr", "ctcvr", "cqs")),
        ]
    )


def _blocks(world: World, impressions: int, seed: int, days: int) -> Iterator[pa.RecordBatch]:
    # If the drawn requests have fewer slots than expected, the last day is longer.
    per_day = max(1.0, impressions / ((FEWEST + MOST) / 2) / days)
    left, block = impressions, 0
    while left:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, block)))
        scene, user = draw_requests(rng, world)
        row, position, ad = draw_ads(rng, world, scene, user)
        request = block * BLOCK + row
        day = np.minimum(request / per_day, days - 1).astype(np.int64)
        batch = _rows(rng, world, seed, request, day, scene[row], user[row], ad, position)
        yield batch.slice(0, left)
        left, block = left - min(left, batch.num_rows), block + 1


def _rows(
    rng: np.random.Generator,
    world: World,
    seed: int,
    request: Ints,
    day: Ints,
    scene: Ints,
    user: Ints,
    ad: Ints,
    position: Ints,
) -> pa.RecordBatch:
    c = world.constants
    logits = true_logits(
        world,
        user,
        ad,
        events=dict.fromkeys(["click", "conversion", *EVENTS, *c.scalars]),
        day=day,
        scene=scene,
        position=position,
    )
    true = probabilities(logits)
    quality = {name: logits[name] for name in c.scalars}
    final = final_predictions(world, quality, request=request, ad=ad, seed=seed)
    drawn = {
        name: (rng.random(len(user)) < true[name]).astype(np.int64)
        for name in ("click", "conversion", *EVENTS)
    }
    drawn["conversion"] *= drawn["click"]
    columns = {
        **impression_columns(
            world, request=request, day=day, scene=scene, user=user, ad=ad, position=position
        ),
        **drawn,
        "final_cqs": cqs(c, final),
        "true_ctr": true["click"],
        "true_cvr": true["conversion"],
        "true_ctcvr": true["click"] * true["conversion"],
        "true_cqs": cqs(c, true),
    }
    return record_batch(columns, schema(c))
