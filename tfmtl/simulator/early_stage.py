"""The logs of an early stage: a training log, and a replay for its evaluation.

`early_stage_files` writes both.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tfmtl.simulator.candidate_rows import (
    consolidated_schema,
    logged_rows,
    replay_schema,
    replayed_rows,
)
from tfmtl.simulator.constants import Funnel
from tfmtl.simulator.files import ROWS_PER_GROUP, sized
from tfmtl.simulator.funnel import EarlyStage
from tfmtl.simulator.retrieval import Candidates, check_retrieval, retrieve
from tfmtl.simulator.world import World

# Requests held in memory at the same time.
STEP = 1_024


def consolidated_log(
    world: World,
    funnel: Funnel,
    policy: EarlyStage,
    *,
    requests: int,
    seed: int = 0,
    first_request: int = 0,
    days: int = 10,
    first_day: int = 0,
    keep_final: float = 0.25,
    keep_early: float = 0.06,
) -> pa.Table:
    """A consolidated log in memory; see `consolidated_batches` for its rows and columns."""
    batches = consolidated_batches(
        world,
        funnel,
        policy,
        requests=requests,
        seed=seed,
        first_request=first_request,
        days=days,
        first_day=first_day,
        keep_final=keep_final,
        keep_early=keep_early,
    )
    return pa.Table.from_batches(batches, consolidated_schema(world.constants)).combine_chunks()


def consolidated_batches(
    world: World,
    funnel: Funnel,
    policy: EarlyStage,
    *,
    requests: int,
    seed: int = 0,
    first_request: int = 0,
    days: int = 10,
    first_day: int = 0,
    keep_final: float = 0.25,
    keep_early: float = 0.06,
    batch_rows: int = ROWS_PER_GROUP,
) -> Iterator[pa.RecordBatch]:
    """Yields the consolidated log of a policy in constant memory, in the order of requests.

    Each row is a candidate of a request (Wang et al., AdKDD 2023, §3.2). Its `row_type` is one of:

    - R1: an impression whose total value depends on a click (`ctr_traffic`),
    - R2: an impression of which only the quality events are used,
    - R3: a candidate that reached the final stage and was not shown; the share `keep_final` of
      these rows is kept,
    - R4: a candidate that the early stage dropped. The final stage's models score it only for the
      log; the share `keep_early` of these rows is kept.

    The user's reactions are null where the ad was not shown: such a row is not a negative.
    `survey_rating` (1 for a good rating) is also null where the user was not asked. A conversion
    needs a click. The columns `final_pctr`, `final_rate`, `final_cqs` and `final_tv` are the final
    stage's predictions. `true_ctr` (at the position shown, or at the first one if not shown) and
    `true_cqs` are the true values behind the labels. They are not features: they are the best
    predictions that a model could make.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        policy: The early stage that served the requests.
        requests: Number of requests.
        seed: Seed of requests, ads, the final stage's error, outcomes and sampling.
        first_request: Id of the first request.
        days: Number of days. The requests are spread over them evenly and in order.
        first_day: Index of the first day.
        keep_final: Share of the R3 rows that is kept, chosen by a hash of request and ad.
        keep_early: Share of the R4 rows that is kept.
        batch_rows: Rows per batch; it does not change the rows.

    Raises:
        ValueError: A number or a share is out of range, or the world has fewer days.
    """
    check_retrieval(world, funnel, requests, first_request)
    _check(world, days, first_day, batch_rows)
    for name, share in (("keep_final", keep_final), ("keep_early", keep_early)):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name}={share}; a share lies from 0 to 1.")
    blocks = _candidates(world, funnel, requests, seed, first_request, days, first_day)
    shares = {"R3": keep_final, "R4": keep_early}
    rows = (logged_rows(world, funnel, block, policy(block), shares, seed) for block in blocks)
    return sized(rows, batch_rows, consolidated_schema(world.constants))


def replay_log(
    world: World,
    funnel: Funnel,
    *,
    requests: int,
    first_request: int,
    seed: int = 0,
    days: int = 1,
    first_day: int = 0,
) -> pa.Table:
    """A replay in memory; see `replay_batches` for its rows and columns."""
    batches = replay_batches(
        world,
        funnel,
        requests=requests,
        first_request=first_request,
        seed=seed,
        days=days,
        first_day=first_day,
    )
    return pa.Table.from_batches(batches, replay_schema(world.constants)).combine_chunks()


def replay_batches(
    world: World,
    funnel: Funnel,
    *,
    requests: int,
    first_request: int,
    seed: int = 0,
    days: int = 1,
    first_day: int = 0,
    batch_rows: int = ROWS_PER_GROUP,
) -> Iterator[pa.RecordBatch]:
    """Yields held-out requests. The final stage has scored all of their retrieved ads.

    This is the paper's simulator without time-outs (§3.3). It does not depend on an early stage,
    so one replay serves every model. `rank_final` is 0 for the ad with the greatest final total
    value; ties are broken by the lower ad id. `is_gold` marks the first `funnel.passed` ads.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        requests: Number of requests.
        first_request: Id of the first request; greater than all ids in the training log.
        seed: With the seed of the log, its predictions equal those of the log to the bit.
        days: Number of days. The requests are spread over them evenly and in order.
        first_day: Index of the first day.
        batch_rows: Rows per batch; it does not change the rows.

    Raises:
        ValueError: A number is out of range, or the world has fewer days.
    """
    check_retrieval(world, funnel, requests, first_request)
    _check(world, days, first_day, batch_rows)
    blocks = _candidates(world, funnel, requests, seed, first_request, days, first_day)
    rows = (replayed_rows(world, funnel, block, seed) for block in blocks)
    return sized(rows, batch_rows, replay_schema(world.constants))


def _check(world: World, days: int, first_day: int, batch_rows: int) -> None:
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows}; at least 1 makes sense.")
    if days < 1 or first_day < 0 or first_day + days > world.days:
        raise ValueError(
            f"days={days} from first_day={first_day}, but the world was drawn for {world.days}, "
            f"from 0; draw_world(..., days={max(first_day, 0) + max(days, 1)}) would do."
        )


def _candidates(
    world: World,
    funnel: Funnel,
    requests: int,
    seed: int,
    first_request: int,
    days: int,
    first_day: int,
) -> Iterator[Candidates]:
    last = first_request + requests
    start = first_request
    while start < last:
        # Steps end at block boundaries, so that no block is drawn twice.
        end = min((start // STEP + 1) * STEP, last)
        index = np.arange(start - first_request, end - first_request)
        yield retrieve(
            world,
            funnel,
            requests=end - start,
            seed=seed,
            first_request=start,
            day=first_day + index * days // requests,
        )
        start = end
