"""Worlds with newcomers: advertisers or scenes without training rows."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfmtl.data.splits import assign
from tfmtl.declare.split import SPLITS, Split, by_column, by_hash
from tfmtl.simulator.constants import EVENTS, Constants
from tfmtl.simulator.impressions import impression_log
from tfmtl.simulator.scenes import many_scenes
from tfmtl.simulator.world import World, draw_world

ADVERTISERS, SCENES = 150, 24
ALIKE = 0.8
"""Share of the variance of an ad's hidden properties that comes from its advertiser."""
EFFECT, CLICKS = 0.8, -3.3
"""Coefficient of attractiveness and skill on the logits (.3 in the simulator's default), and the
bias of the click logit (-4.3 there). With these values, twenty rows hold a few clicks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newcomers:
    """A world and its newcomers.

    Args:
        column: The column with the group.
        unknown: Features whose values are new in the rows of a newcomer.
        split: Which groups are for training, for choosing rates, and new.
        alike: Share of the ads' hidden variance that comes from their advertiser; `None` keeps the
            simulator's default.
        constants: Constants of the world.
    """

    column: str
    unknown: Sequence[str]
    split: Split
    constants: Constants
    alike: float | None = None

    def world(self, seed: int) -> World:
        """The world of a seed."""
        world = draw_world(seed, days=1, constants=self.constants)
        if self.alike is None:
            return world
        rng = np.random.default_rng(seed)

        def shared(own: np.ndarray) -> np.ndarray:
            common = rng.standard_normal(self.constants.advertisers)[world.advertiser]
            return math.sqrt(self.alike) * common + math.sqrt(1 - self.alike) * own

        return dataclasses.replace(world, appeal=shared(world.appeal), skill=shared(world.skill))

    def tables(self, seed: int, impressions: int) -> dict[str, pa.Table]:
        """A log with `impressions` rows, in three splits."""
        log = impression_log(self.world(seed), impressions=impressions, seed=seed, days=1)
        (batch,) = log.combine_chunks().to_batches()
        part = assign(self.split, batch, 0)
        return {name: log.filter(pa.array(part == at)) for at, name in enumerate(SPLITS)}


def _constants(**changes: Any) -> Constants:
    events = {
        **EVENTS,
        "click": dataclasses.replace(EVENTS["click"], bias=CLICKS, appeal=EFFECT),
        "conversion": dataclasses.replace(EVENTS["conversion"], skill=EFFECT),
    }
    return Constants(advertisers=ADVERTISERS, events=events, **changes)


def _scenes() -> tuple[Any, ...]:
    # All scenes have equally many rows. Their rates differ more than those of two scenes of one
    # app.
    drawn = many_scenes(SCENES)
    return tuple(dataclasses.replace(s, share=1.0, click=1.2 + 2 * (s.click - 1.2)) for s in drawn)


ADS = ("advertiser_id", "ad_id")
_NAMES = [scene.name for scene in many_scenes(SCENES)]
_NEW_ADVERTISERS = by_hash("advertiser_id", shares=(0.6, 0.2, 0.2))
WORLDS: Mapping[str, Newcomers] = {
    "alike": Newcomers(
        column="advertiser_id",
        unknown=ADS,
        split=_NEW_ADVERTISERS,
        constants=_constants(),
        alike=ALIKE,
    ),
    "apart": Newcomers(
        column="advertiser_id",
        unknown=ADS,
        split=_NEW_ADVERTISERS,
        constants=_constants(),
        alike=0.0,
    ),
    "scenes": Newcomers(
        column="scene",
        unknown=("scene",),
        split=by_column("scene", train=_NAMES[::2], validation=_NAMES[1::4], test=_NAMES[3::4]),
        constants=_constants(scenes=_scenes()),
    ),
}
