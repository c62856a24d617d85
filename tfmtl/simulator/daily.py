"""A log of impressions with one folder per day, for a pipeline that runs daily."""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from tfmtl.simulator.constants import Constants
from tfmtl.simulator.files import ROWS_PER_FILE, ROWS_PER_GROUP, new_folder, write_files
from tfmtl.simulator.impressions import feed_and_search, impression_batches
from tfmtl.simulator.world import World, draw_world


def write_daily_log(
    path: str,
    *,
    impressions: int = 200_000,
    seed: int = 0,
    days: int = 10,
    scenes: int = 2,
    constants: Constants | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    world: World | None = None,
    progress: bool = False,
) -> list[str]:
    """Writes the rows of `write_impression_log` with one folder per day, `path/day-0/*.parquet`, ….

    Memory is constant. Each day is written to a hidden folder, which is renamed when it is
    complete. A folder named `day-…` is therefore always complete, even after an interruption.
    Every day has rows.

    Args:
        path: The folder; it is created if it does not exist.
        impressions: Number of rows over all days.
        seed: Seed of the log, and of the world if none is given.
        days: Number of days in the log.
        scenes: 2 for a feed and a search, 1 for the feed only. Used if neither `constants` nor
            `world` is given.
        constants: Constants of the world that is drawn if none is given.
        rows_per_file: Rows per file.
        world: Users and ads; drawn if none is given.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The files, day by day.

    Raises:
        FileExistsError: The folder is not empty.
        ValueError: An argument is out of range (see `impression_batches`); both `constants` and
            `world` are given; or there are too few rows, so that the last days have none. In the
            last case the days before them are written.
    """
    if world is not None and constants is not None:
        raise ValueError("a world has its constants; give either a world or constants.")
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file}; at least 1 makes sense.")
    if constants is not None:
        world = draw_world(seed, days=max(days, 1), constants=constants)
    batches = impression_batches(
        world or feed_and_search(seed, days, scenes),
        impressions=impressions,
        seed=seed,
        days=days,
        batch_rows=min(ROWS_PER_GROUP, rows_per_file),
    )
    new_folder(path)
    files: list[str] = []
    complete_days = 0
    with tqdm(total=impressions, unit=" rows", unit_scale=True, disable=not progress) as bar:
        for day, pieces in itertools.groupby(_by_day(batches, bar), key=lambda piece: piece[0]):
            rows = (batch for _, batch in pieces)
            files += _write_day(os.path.join(path, f"day-{day}"), rows, rows_per_file)
            complete_days += 1
    if complete_days < days:
        raise ValueError(
            f"impressions={impressions} fill {complete_days} of days={days}; give more "
            "impressions or fewer days."
        )
    return files


def _by_day(batches: Iterable[pa.RecordBatch], bar: tqdm) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in batches:
        day = batch.column("day").to_numpy()
        ends = [*(np.flatnonzero(np.diff(day)) + 1), len(day)]
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(day[start]), batch.slice(start, end - start)
            bar.update(int(end - start))


def _write_day(path: str, rows: Iterable[pa.RecordBatch], rows_per_file: int) -> list[str]:
    folder, name = os.path.split(path)
    # A leading dot hides the folder from globs and from readers of the parent folder.
    building = os.path.join(folder, f".{name}.building")
    try:
        files = write_files(building, rows, rows=0, rows_per_file=rows_per_file)
        os.rename(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return [os.path.join(path, os.path.basename(file)) for file in files]
