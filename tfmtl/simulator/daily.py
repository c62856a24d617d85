"""A log of impressions in folders of a day each, as a pipeline that runs daily reads it."""

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
    """Writes the rows of `write_impression_log`, `path/day-0/*.parquet`, `path/day-1/…` and so on.

    Memory is constant. A day is written under a hidden name and renamed when it is whole: what
    is called `day-…` is complete, wherever the writing was interrupted. Every day has rows.

    Args:
        path: The folder; made where it is missing.
        impressions: Number of rows of all days.
        seed: Of the log, and of the world where none is given.
        days: Days the log spans.
        scenes: 2 for a feed and a search, 1 for the feed alone; where neither constants nor a
            world are given.
        constants: Of the world that is drawn where none is given.
        rows_per_file: Rows a file.
        world: Users and ads; drawn where none is given.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The files, day by day.

    Raises:
        FileExistsError: The folder holds something already.
        ValueError: As `impression_batches` raises; constants are given beside a world; or there
            are too few rows for the last days to have any (the days before are written).
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
    whole = 0
    with tqdm(total=impressions, unit=" rows", unit_scale=True, disable=not progress) as bar:
        for day, pieces in itertools.groupby(_by_day(batches, bar), key=lambda piece: piece[0]):
            rows = (batch for _, batch in pieces)
            files += _write_day(os.path.join(path, f"day-{day}"), rows, rows_per_file)
            whole += 1
    if whole < days:
        raise ValueError(
            f"impressions={impressions} fill {whole} of days={days}; give more impressions or "
            "fewer days."
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
    # A leading dot hides it from globs and from readers of the folder.
    building = os.path.join(folder, f".{name}.building")
    try:
        files = write_files(building, rows, rows=0, rows_per_file=rows_per_file)
        os.rename(building, path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return [os.path.join(path, os.path.basename(file)) for file in files]
