"""A simulated world of users and ads with known true probabilities, and the logs it writes.

On real logs nobody knows how good a model could be. Here every row carries the probabilities
that its labels were drawn from. A metric can therefore be compared with its best possible value.
    python -m tfmtl.simulator --impressions 200000 --out ads_log
    python -m tfmtl.simulator --impressions 200000 --daily --out daily_log
    python -m tfmtl.simulator --kind early_stage --requests 20000 --out early_stage_log
    python -m tfmtl.simulator --kind ali_ccp --rows 1000000 --out ali_ccp
"""

from tfmtl.simulator.candidate_rows import early_columns
from tfmtl.simulator.constants import (
    FEED,
    PLAIN_FEED,
    PLAIN_SEARCH,
    SEARCH,
    Constants,
    Effects,
    Funnel,
    Scene,
    funnel_constants,
)
from tfmtl.simulator.daily import write_daily_log
from tfmtl.simulator.early_stage import (
    consolidated_batches,
    consolidated_log,
    replay_batches,
    replay_log,
)
from tfmtl.simulator.early_stage_files import write_early_stage_logs
from tfmtl.simulator.funnel import (
    EarlyStage,
    Funnelled,
    Valued,
    auction_value,
    final_stage,
    logging_policy,
    run_funnel,
)
from tfmtl.simulator.impressions import (
    impression_batches,
    impression_log,
    write_impression_log,
)
from tfmtl.simulator.moving import moving_tastes_log
from tfmtl.simulator.raw_ali_ccp import write_ali_ccp
from tfmtl.simulator.raw_aliexpress import write_aliexpress
from tfmtl.simulator.raw_events import write_ijcai15, write_user_behavior
from tfmtl.simulator.retrieval import Candidates, retrieve
from tfmtl.simulator.scenes import many_scenes
from tfmtl.simulator.truth import cqs, final_predictions, probabilities, true_logits
from tfmtl.simulator.world import World, draw_world

__all__ = [
    "FEED",
    "PLAIN_FEED",
    "PLAIN_SEARCH",
    "SEARCH",
    "Candidates",
    "Constants",
    "EarlyStage",
    "Effects",
    "Funnel",
    "Funnelled",
    "Scene",
    "Valued",
    "World",
    "auction_value",
    "consolidated_batches",
    "consolidated_log",
    "cqs",
    "draw_world",
    "early_columns",
    "final_predictions",
    "final_stage",
    "funnel_constants",
    "impression_batches",
    "impression_log",
    "logging_policy",
    "many_scenes",
    "moving_tastes_log",
    "probabilities",
    "replay_batches",
    "replay_log",
    "retrieve",
    "run_funnel",
    "true_logits",
    "write_ali_ccp",
    "write_aliexpress",
    "write_daily_log",
    "write_early_stage_logs",
    "write_ijcai15",
    "write_impression_log",
    "write_user_behavior",
]
