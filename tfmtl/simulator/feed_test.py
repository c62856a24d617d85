"""An online test of a scene: arms rank the same candidates, and the truth says what it is worth.

The measures are those of MTMS's online rows (Tan et al., eq. 4): CVR, CTCVR and `t_charge`, bid
times conversion rate. They are expectations under the true probabilities of the ads shown, in
the positions shown: no label is drawn, so what differs between arms is their ranking alone.

`t_charge` takes every bid as one of a conversion. Only where all ads pay for conversions
(`Constants(objectives={"conversion": 1.0}, bid_factors={"conversion": 12.0})`) is it what
advertisers would pay for a click.
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

# A block of requests has its own random stream; results would change with its size.
BLOCK = 1_024

Arm = Callable[[pa.Table], ArrayLike]
"""Scores rows of candidates, `[n]`: of a request, the greatest are shown, best first."""

METRICS: Mapping[str, tuple[str, str]] = {
    "ctr@imp": ("clicks", "impressions"),
    "cvr@click": ("conversions", "clicks"),
    "ctcvr@imp": ("conversions", "impressions"),
    "t_charge@click": ("charge", "clicks"),
}
"""What each metric is a ratio of; its name says over what. `charge` is `Σ bid · conversions`."""


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
    """Serves requests of one scene by every arm.

    Candidates are drawn by the rule that draws the ads of logs: some match the user's interests,
    others are random. An arm sees them as a table with the columns of an impression log that are
    known before anyone reacts, in position 1. It usually gives `bid · p̂` of a conversion. Of
    equal scores the lower ad id is first. A request does not depend on how many there are.

    Args:
        world: Users and ads.
        arms: By name.
        scene: Whose users come and whose ads are shown.
        requests: How many.
        candidates: Ads of a request; fewer where the scene has no more.
        shown: How many of them are shown, in positions from 1.
        day: The day of the requests.
        seed: Of users and candidates.
        samples: Resamples of the intervals.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The measures of `METRICS` by arm; `compare` gives paired intervals.

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
        name: {key: np.concatenate([part[key] for part in found]) for key in found[0]}
        for name, found in parts.items()
    }
    return OnlineTest(sums=sums, metrics=METRICS, samples=samples, seed=seed)


def _schema(world: World) -> pa.Schema:
    return pa.schema(impression_fields(world.constants))


def _candidates(
    world: World, scene: int, requests: int, candidates: int, day: int, seed: int
) -> Iterator[dict[str, Ints]]:
    """The candidates of a block of requests, row by row, as `impression_columns` takes them."""
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
