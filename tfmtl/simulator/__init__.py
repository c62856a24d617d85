"""A world of users and ads whose true probabilities are known, and the logs it writes.

On real logs nobody knows how good a model could be. Here every row carries the probabilities
its labels were drawn from, so that a metric can be compared with the best attainable one.

    python -m tfmtl.simulator --impressions 200000 --out ads_log
"""

from tfmtl.simulator.constants import FEED, SEARCH, Constants, Effects, Scene
from tfmtl.simulator.impressions import (
    impression_batches,
    impression_log,
    write_impression_log,
)
from tfmtl.simulator.truth import cqs, final_predictions, probabilities, true_logits
from tfmtl.simulator.world import World, draw_world

__all__ = [
    "FEED",
    "SEARCH",
    "Constants",
    "Effects",
    "Scene",
    "World",
    "cqs",
    "draw_world",
    "final_predictions",
    "impression_batches",
    "impression_log",
    "probabilities",
    "true_logits",
    "write_impression_log",
]
