"""The logs of an early stage: what it learns from, and the replay it is judged by."""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tfmtl.simulator.candidate_rows import (
    consolidated_schema,
    logged_rows,
    replay_schema,
    replayed_rows,
)
from tfmtl.simulator.constants import Funnel, funnel_constants
from tfmtl.simulator.files import ROWS_PER_FILE, ROWS_PER_GROUP, new_folder, sized, write_files
from tfmtl.simulator.funnel import EarlyStage, logging_policy
from tfmtl.simulator.retrieval import Candidates, check_retrieval, retrieve
from tfmtl.simulator.world import World, draw_world

# Requests that are in memory at once.
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
    """A log in memory; `consolidated_batches` says what it holds."""
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

    Each row is a candidate of a request (Wang et al., AdKDD 2023, §3.2), of `row_type`

    - R1: an impression whose value needs a click (`ctr_traffic`),
    - R2: an impression of which only the quality counts,
    - R3: a candidate of the final stage that was not shown; a share `keep_final` is kept,
    - R4: a candidate the early stage did not pass on, which the final stage's models score for
      the log alone; a share `keep_early` is kept.

    What users did is null where the ad was not shown: such a row is no negative. `survey_rating`
    (1 for a good one) is null too where nobody was asked. A conversion needs a click. The
    columns `final_pctr`, `final_rate`, `final_cqs` and `final_tv` are the final stage's.
    `true_ctr` (in the position shown, in the first one otherwise) and `true_cqs` are the
    probabilities behind the labels: no features, but what a model can at best find out.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        policy: The early stage that served the requests.
        requests: How many.
        seed: Of requests, ads, the final stage's error, outcomes and sampling.
        first_request: The first one's id.
        days: The requests are spread over this many days evenly and in order.
        first_day: The first one.
        keep_final: Share of R3 that is kept, by a hash of request and ad.
        keep_early: Share of R4 that is kept.
        batch_rows: Rows a batch; the rows themselves do not depend on it.

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
    """A replay in memory; `replay_batches` says what it holds."""
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
    """Yields held-out requests, all of whose retrieved ads the final stage scored.

    That is the paper's simulator without time-outs (§3.3). No early stage has a part in it, so
    one replay serves every model. `rank_final` is 0 for the ad of the greatest final total
    value, of equals the one with the lower id; `is_gold` marks the first `funnel.passed`.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        requests: How many.
        first_request: The first one's id; beyond those of the log that models learn from.
        seed: As that of the log, with which its predictions then agree to the bit.
        days: The requests are spread over this many days evenly and in order.
        first_day: The first one.
        batch_rows: Rows a batch; the rows themselves do not depend on it.

    Raises:
        ValueError: A number is out of range, or the world has fewer days.
    """
    check_retrieval(world, funnel, requests, first_request)
    _check(world, days, first_day, batch_rows)
    blocks = _candidates(world, funnel, requests, seed, first_request, days, first_day)
    rows = (replayed_rows(world, funnel, block, seed) for block in blocks)
    return sized(rows, batch_rows, replay_schema(world.constants))


def write_early_stage_logs(
    path: str,
    *,
    requests: int = 20_000,
    replay_requests: int = 2_000,
    seed: int = 0,
    days: int = 10,
    scenes: int = 1,
    keep_final: float = 0.25,
    keep_early: float = 0.06,
    funnel: Funnel | None = None,
    policy: EarlyStage | None = None,
    world: World | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    progress: bool = False,
) -> tuple[list[str], list[str]]:
    """Writes `path/log` and `path/replay` as Parquet files, in constant memory.

    The log spans the days `0 … days − 1`, the replay further requests of the day after.

    Args:
        path: The folder; made where it is missing.
        requests: Requests of the log.
        replay_requests: Requests of the replay.
        seed: Of both, and of the world where none is given.
        days: Days the log spans.
        scenes: 2 for a feed and a search, 1 for the feed alone; where no world is given.
        keep_final: Share of the final stage's candidates that is logged without being shown.
        keep_early: Share of the other retrieved ads that is logged.
        funnel: Sizes of the stages; `Funnel()` where none is given.
        policy: The early stage that served; `logging_policy(world)` where none is given.
        world: Users and ads; drawn where none is given, for `days + 1`.
        rows_per_file: Rows a file.
        progress: Whether to show progress bars on stderr.

    Returns:
        The log's files, and the replay's.

    Raises:
        FileExistsError: The folder holds something already.
        ValueError: As `consolidated_batches` raises, or `scenes` is neither 1 nor 2.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file}; at least 1 makes sense.")
    funnel = funnel or Funnel()
    if world is None:
        world = draw_world(seed, days=max(days, 1) + 1, constants=funnel_constants(scenes))
    rows = min(ROWS_PER_GROUP, rows_per_file)
    log = consolidated_batches(
        world,
        funnel,
        policy or logging_policy(world, seed=seed),
        requests=requests,
        seed=seed,
        days=days,
        keep_final=keep_final,
        keep_early=keep_early,
        batch_rows=rows,
    )
    replay = replay_batches(
        world,
        funnel,
        requests=replay_requests,
        first_request=requests,
        seed=seed,
        first_day=days,
        batch_rows=rows,
    )
    sampled = keep_final * (funnel.passed - funnel.slots)
    sampled += keep_early * (funnel.retrieved - funnel.passed)
    expected = {
        "log": round(requests * (funnel.slots + sampled)),
        "replay": replay_requests * funnel.retrieved,
    }
    new_folder(path)
    log_files, replay_files = (
        write_files(
            os.path.join(path, name),
            batches,
            rows=expected[name],
            rows_per_file=rows_per_file,
            progress=progress,
        )
        for name, batches in (("log", log), ("replay", replay))
    )
    return log_files, replay_files


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
        # Steps end at whole blocks, so that no block is drawn twice.
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
