"""An online test in one scene: all arms rank the same candidates; the true rates score them.

The metrics are those of MTMS's online test (Tan et al., eq. 4): CVR, CTCVR and `t_charge`, which
is bid times conversion rate. They are expectations under the true probabilities of the shown ads
at their positions. No label is drawn, so arms differ only by their ranking.

`t_charge` treats every bid as a bid per conversion. It equals what advertisers would pay per click
only if all ads pay for conversions, as with `Constants(objectives={"conversion": 1.0},
bid_factors={"conversion": 12.0})`.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from tqdm import tqdm

from tfmtl.simulator.columns import impression_columns, impression_fields, record_batch
from tfmtl.simulator.online import OnlineTest
from tfmtl.simulator.requests import draw_ads, visitors
from tfmtl.simulator.truth import probabilities, true_logits
from tfmtl.simulator.world import Floats, Ints, World

# Each block of requests has its own random stream, so another size changes the results.
BLOCK = 1_024

Arm = Callable[[pa.Table], ArrayLike]
"""Scores rows of candidates, `[n]`. The highest scores of each request are shown, best first."""

METRICS: Mapping[str, tuple[str, str]] = {
    "ctr@imp": ("clicks", "impressions"),
    "cvr@click": ("conversions", "clicks"),
    "ctcvr@imp": ("conversions", "impressions"),
    "t_charge@click": ("charge", "clicks"),
}
"""Numerator and denominator of each metric. `charge` is `Σ bid · conversions`."""


def feed_test(
    world: World,
    arms: Mapping[str, Arm],
    *,
    scene: str,
    requests: int,
    candidates: int = 40,
    shown: int = 5,
    day: int = 0,
    seed: int = 0,
    samples: int = 1000,
    progress: bool = False,
) -> OnlineTest:
    """Serves the same requests of one scene with every arm.

    Candidates are drawn by the same rule as the ads of logs: some match the user's interests,
    others are random. An arm gets them as a table with those columns of an impression log that are
    known before users react, at position 1. An arm usually returns `bid · p̂` of a conversion.
    Ties are broken by the lower ad id. A request does not depend on the number of requests.

    Args:
        world: Users and ads.
        arms: The arms by name.
        scene: Name of the scene that users and ads belong to.
        requests: Number of requests.
        candidates: Ads per request; fewer if the scene has fewer.
        shown: How many of them are shown, at positions from 1.
        day: The day of the requests.
        seed: Seed of users and candidates.
        samples: Number of bootstrap resamples for the intervals.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The metrics of `METRICS` by arm; `compare` gives paired intervals.

    Raises:
        ValueError: There are no arms, a name or a number is out of range, or scores are not
            `[n]` finite numbers.
    """
    names = [scene.name for scene in world.constants.scenes]
    if scene not in names:
        raise ValueError(f"scene={scene!r}, but the world's scenes are {names}.")
    if not arms:
        raise ValueError("a test needs at least one arm; got none.")
    if requests < 1 or not 1 <= shown <= candidates:
        raise ValueError(
            f"requests={requests}, shown={shown}, candidates={candidates}; all are at least 1, and "
            "no more can be shown than there are candidates."
        )
    if not 0 <= day < world.days:
        raise ValueError(
            f"day={day}, but the world was drawn for {world.days}, from 0; "
            f"draw_world(..., days={max(day, 0) + 1}) would do."
        )
    parts: dict[str, list[Mapping[str, Floats]]] = {name: [] for name in arms}
    with tqdm(total=requests, unit=" requests", disable=not progress) as bar:
        for rows in _candidates(world, names.index(scene), requests, candidates, day, seed):
            table = pa.Table.from_batches(
                [record_batch(impression_columns(world, **rows), _schema(world))]
            )
            for name, arm in arms.items():
                score = _checked(name, arm(table), len(table))
                parts[name].append(_shown_sums(world, rows, score, shown))
            bar.update(len(np.unique(rows["request"])))
    sums = {
        name: {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
        for name, blocks in parts.items()
    }
    return OnlineTest(sums=sums, metrics=METRICS, samples=samples, seed=seed)


def _schema(world: World) -> pa.Schema:
    return pa.schema(impression_fields(world.constants))


def _candidates(
    world: World, scene: int, requests: int, candidates: int, day: int, seed: int
) -> Iterator[dict[str, Ints]]:
    """The candidate rows of each block of requests, as arguments of `impression_columns`."""
    for start in range(0, requests, BLOCK):
        stream = np.random.SeedSequence(seed, spawn_key=(4, scene, start // BLOCK))
        rng = np.random.default_rng(stream)
        user = visitors(world, scene, rng.random(BLOCK))
        row, _, ad = draw_ads(
            rng, world, np.full(BLOCK, scene), user, fewest=candidates, most=candidates
        )
        kept = row < requests - start
        row, ad = row[kept], ad[kept]
        yield {
            "request": start + row,
            "day": np.full(len(row), day),
            "scene": np.full(len(row), scene),
            "user": user[row],
            "ad": ad,
            "position": np.ones(len(row), np.int64),
        }


def _checked(name: str, scores: ArrayLike, rows: int) -> Floats:
    score = np.asarray(scores, np.float64)
    if score.shape != (rows,):
        raise ValueError(f"arm {name!r} gave scores of shape {score.shape}; ({rows},) is right.")
    if not np.isfinite(score).all():
        wrong = int((~np.isfinite(score)).sum())
        raise ValueError(f"arm {name!r} gave {wrong:,} of {rows:,} scores that are not finite.")
    return score


def _shown_sums(
    world: World, rows: Mapping[str, Ints], score: Floats, shown: int
) -> dict[str, Floats]:
    """The quantities of `METRICS`, summed over each request's shown ads, `[R]`."""
    order = np.lexsort((rows["ad"], -score, rows["request"]))
    request = rows["request"][order]
    position = np.arange(len(order)) - np.searchsorted(request, request) + 1
    chosen, position = order[position <= shown], position[position <= shown]
    ad = rows["ad"][chosen]
    logits = true_logits(
        world,
        rows["user"][chosen],
        ad,
        events=("click", "conversion"),
        day=rows["day"][chosen],
        scene=rows["scene"][chosen],
        position=position,
    )
    true = probabilities(logits)
    conversions = true["click"] * true["conversion"]
    cells = {
        "impressions": np.ones(len(ad)),
        "clicks": true["click"],
        "conversions": conversions,
        "charge": world.bid[ad] * conversions,
    }
    index = rows["request"][chosen] - request[0]
    sums = {name: np.bincount(index, weights=values) for name, values in cells.items()}
    return {name: values.astype(np.float64) for name, values in sums.items()}
