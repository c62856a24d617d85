"""Writes the training log and the replay of an early stage as Parquet files."""

import os

from tfmtl.simulator.constants import Funnel, funnel_constants
from tfmtl.simulator.early_stage import consolidated_batches, replay_batches
from tfmtl.simulator.files import ROWS_PER_FILE, ROWS_PER_GROUP, new_folder, write_files
from tfmtl.simulator.funnel import EarlyStage, logging_policy
from tfmtl.simulator.world import World, draw_world


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

    The log covers the days `0 … days − 1`. The replay holds further requests of the day after.

    Args:
        path: The folder; it is created if it does not exist.
        requests: Number of requests in the log.
        replay_requests: Number of requests in the replay.
        seed: Seed of both, and of the world if none is given.
        days: Number of days in the log.
        scenes: 2 for a feed and a search, 1 for the feed only. Used if no world is given.
        keep_final: Share kept of the candidates that the final stage did not show (R3).
        keep_early: Share kept of the candidates that the early stage dropped (R4).
        funnel: Sizes of the stages; `Funnel()` if none is given.
        policy: The early stage that served; `logging_policy(world)` if none is given.
        world: Users and ads; if none is given, a world of `days + 1` days is drawn.
        rows_per_file: Rows per file.
        progress: Whether to show progress bars on stderr.

    Returns:
        The files of the log, and the files of the replay.

    Raises:
        FileExistsError: The folder is not empty.
        ValueError: An argument is out of range (see `consolidated_batches`), or `scenes` is
            neither 1 nor 2.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file}; at least 1 makes sense.")
    funnel = funnel or Funnel()
    if world is None:
        world = draw_world(seed, days=max(days, 1) + 1, constants=funnel_constants(scenes))
    batch_rows = min(ROWS_PER_GROUP, rows_per_file)
    log = consolidated_batches(
        world,
        funnel,
        policy or logging_policy(world, seed=seed),
        requests=requests,
        seed=seed,
        days=days,
        keep_final=keep_final,
        keep_early=keep_early,
        batch_rows=batch_rows,
    )
    replay = replay_batches(
        world,
        funnel,
        requests=replay_requests,
        first_request=requests,
        seed=seed,
        first_day=days,
        batch_rows=batch_rows,
    )
    per_request = _expected_rows(funnel, keep_final, keep_early)
    parts = {
        "log": (log, round(requests * per_request)),
        "replay": (replay, replay_requests * funnel.retrieved),
    }
    new_folder(path)
    log_files, replay_files = (
        write_files(
            os.path.join(path, name),
            batches,
            rows=rows,
            rows_per_file=rows_per_file,
            progress=progress,
        )
        for name, (batches, rows) in parts.items()
    )
    return log_files, replay_files


def _expected_rows(funnel: Funnel, keep_final: float, keep_early: float) -> float:
    """The expected number of log rows per request, an estimate for the progress bar."""
    not_shown = keep_final * (funnel.passed - funnel.slots)
    dropped = keep_early * (funnel.retrieved - funnel.passed)
    return funnel.slots + not_shown + dropped
