"""Simulated logs in the raw forms of UserBehavior-2017 and IJCAI-15.

Every impression may be viewed, put into a cart, liked and bought; what has no event is not logged,
so that nobody can tell what was shown. The oddities of the real files are in them: events that
repeat, times outside of the days, missing values, and users about whom nothing is known.
"""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.datasets.ijcai15 import INFO, INFO_COLUMNS, LOG, LOG_COLUMNS
from tfmtl.datasets.user_behavior import BEHAVIOURS, FILE
from tfmtl.simulator.raw_lines import (
    code,
    column,
    cut_last_line,
    luck,
    luck_of,
    raw_batches,
    raw_folder,
    raw_world,
    text,
    write_lines,
)
from tfmtl.simulator.world import World

FIRST_SECOND = 1_511_539_200
"""25 November 2017, 0:00 in China."""
REPEATED, ODD_TIMES, NO_BRAND, NO_AGE, NOT_KNOWN = 0.1, 0.001, 0.01, 0.03, 0.01
PER_ID = 120
"""Impressions per user, and per ad: as a whole, ten purchases each are not rare."""


def write_user_behavior(
    path: str, *, rows: int = 20_000, seed: int = 0, cut_off: bool = False
) -> list[str]:
    """Writes `UserBehavior.csv`, in the order of time.

    Args:
        path: The folder; it must be new or empty.
        rows: Impressions from which events are drawn; about as many events are written.
        seed: Seed of the world and of the log.
        cut_off: Whether the last line is cut off.

    Returns:
        The file, as a list.

    Raises:
        FileExistsError: The folder is not empty.
    """
    world = raw_world(rows, seed, per_user=PER_ID, per_ad=PER_ID)
    with raw_folder(path) as folder:
        with open(os.path.join(folder, FILE), "wb") as file:
            for first, batch, action in _events(world, rows, seed):
                count = batch.num_rows
                day = column(batch, "day")
                second = FIRST_SECOND + day * 86_400 + (luck(first, count, 31) * 86_400).astype(int)
                odd = luck(first, count, 32) < ODD_TIMES
                # Some lines of the real file have times of other years.
                second = np.where(odd, second - 400_000_000, second)
                ids = [1 + column(batch, "user_id"), 1000 + column(batch, "ad_id")]
                category = 500 + code(batch, "category")
                names = pa.array(list(BEHAVIOURS)).take(pa.array(action))
                write_lines(file, [*map(text, (*ids, category)), names, text(second)])
        if cut_off:
            cut_last_line(os.path.join(folder, FILE))
    return [os.path.join(path, FILE)]


def write_ijcai15(
    path: str, *, rows: int = 20_000, seed: int = 0, cut_off: bool = False
) -> list[str]:
    """Writes `data_format1/user_log_format1.csv` and `user_info_format1.csv`.

    Args:
        path: The folder; it must be new or empty.
        rows: Impressions from which events are drawn; about as many events are written.
        seed: Seed of the world and of the log.
        cut_off: Whether the last line of the log is cut off.

    Returns:
        The files.

    Raises:
        FileExistsError: The folder is not empty.
    """
    world = raw_world(rows, seed, per_user=PER_ID, per_ad=PER_ID)
    names = [os.path.join("data_format1", name) for name in (LOG, INFO)]
    # The simulator's order of actions is UserBehavior's: view, purchase, cart, favourite.
    numbers = np.array([0, 2, 1, 3])
    with raw_folder(path) as folder:
        os.makedirs(os.path.join(folder, "data_format1"))
        with open(os.path.join(folder, names[0]), "wb") as file:
            file.write(_header(LOG_COLUMNS))
            for first, batch, action in _events(world, rows, seed):
                ad, shop = column(batch, "ad_id"), column(batch, "advertiser_id")
                brand = text(7_000 + shop * 3 + ad % 3)
                lost = pa.array(luck(first, batch.num_rows, 41) < NO_BRAND)
                columns = [
                    text(1 + column(batch, "user_id")),
                    text(1000 + ad),
                    text(500 + code(batch, "category")),
                    text(4000 + shop),
                    pc.if_else(lost, pa.scalar(None, pa.string()), brand),
                    # The real log ends on 11 November.
                    text(1103 + column(batch, "day")),
                    text(numbers[action]),
                ]
                write_lines(file, columns)
        with open(os.path.join(folder, names[1]), "wb") as file:
            file.write(_header(INFO_COLUMNS))
            _write_users(file, world)
        if cut_off:
            cut_last_line(os.path.join(folder, names[0]))
    return [os.path.join(path, name) for name in names]


def _events(world: World, rows: int, seed: int) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
    """Yields a first number, the impressions of events in order, and the events' actions."""
    first = 0
    for batch in raw_batches(world, rows, seed):
        count = batch.num_rows
        ctr, ctcvr = (column(batch, name) for name in ("true_ctr", "true_ctcvr"))
        chances = [
            np.minimum(0.35 + 4.0 * ctr, 0.9),
            np.minimum(25.0 * ctcvr + 0.05, 0.8),
            np.minimum(2.0 * ctr, 0.6),
            np.minimum(1.0 * ctr + 0.02, 0.5),
        ]
        happens = np.stack(
            [luck(first, count, 20 + k) < chance for k, chance in enumerate(chances)], axis=1
        )
        impression, action = np.nonzero(happens)
        again = luck(first * 4, len(impression), 30) < REPEATED
        order = np.repeat(np.arange(len(impression)), 1 + again)
        impression, action = impression[order], action[order]
        if len(impression):
            yield first * 8, batch.take(pa.array(impression)), action
        first += count


def _write_users(file, world: World) -> None:  # type: ignore[no-untyped-def]
    users = np.arange(world.constants.users)
    known = users[luck_of(users, 42) >= NOT_KNOWN]
    age = np.clip(world.age[known] // 10, 0, 8).astype(np.int64)
    no_age = pa.array(luck_of(known, 43) < NO_AGE)
    ages = pc.if_else(no_age, pa.scalar(None, pa.string()), text(age))
    no_gender = pa.array(luck_of(known, 44) < NO_AGE)
    genders = pc.if_else(no_gender, pa.scalar(None, pa.string()), text(known % 3))
    write_lines(file, [text(1 + known), ages, genders])


def _header(columns) -> bytes:  # type: ignore[no-untyped-def]
    return (",".join(each.name for each in columns) + "\n").encode()
