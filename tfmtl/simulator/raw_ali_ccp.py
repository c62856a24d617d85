r"""A simulated log in the raw form of Ali-CCP; see `tfmtl.datasets.ali_ccp`.

A user's features of a day are the common features, so that many impressions share a line of them.
The oddities of the real files are in it: fields that repeat, a field that both lists have, fields
that are missing, conversions without a click, and ads that only the test file has.
"""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.data.hashing import mix
from tfmtl.simulator.raw_lines import (
    code,
    codes,
    column,
    cut_last_line,
    luck,
    luck_of,
    numbers,
    raw_batches,
    raw_folder,
    raw_world,
    text,
    write_lines,
)
from tfmtl.simulator.world import Ints

ORPHANS, MISSING, DOUBLE, NEW_ADS = 0.002, 0.01, 0.01, 0.01
"""Shares of rows: a conversion without a click, no brand, a field in both lists, a new ad."""
FIRST_IDS: Mapping[str, int] = {
    "101": 101_000,
    "205": 4_000_000,
    "206": 8_300_000,
    "207": 8_400_000,
    "210": 9_000_000,
    "216": 9_100_000,
}


def write_ali_ccp(
    path: str, *, rows: int = 20_000, seed: int = 0, cut_off: bool = False
) -> list[str]:
    """Writes four files, the first half of the rows for training and the others for test.

    Args:
        path: The folder; it must be new or empty.
        rows: Impressions.
        seed: Seed of the world and of the log.
        cut_off: Whether the last line of the test file is cut off.

    Returns:
        The files.

    Raises:
        FileExistsError: The folder is not empty.
    """
    world = raw_world(rows, seed, per_user=400, per_ad=500)
    names = [
        f"{k}_{p}.csv" for p in ("train", "test") for k in ("common_features", "sample_skeleton")
    ]
    with raw_folder(path) as folder:
        files = [open(os.path.join(folder, name), "wb") for name in names]
        try:
            seen = [np.zeros((world.constants.users, world.days), bool) for _ in range(2)]
            first, half = 0, rows // 2
            for batch in raw_batches(world, rows, seed):
                for part, start in enumerate((0, max(0, min(half - first, batch.num_rows)))):
                    end = batch.num_rows if part else min(max(half - first, 0), batch.num_rows)
                    piece = batch.slice(start, end - start)
                    if piece.num_rows:
                        common, skeleton = files[2 * part : 2 * part + 2]
                        _write_common(common, piece, seen[part])
                        _write_skeleton(skeleton, piece, first + start, test=bool(part))
                first += batch.num_rows
        finally:
            for file in files:
                file.close()
        if cut_off:
            cut_last_line(os.path.join(folder, names[-1]))
    return [os.path.join(path, name) for name in names]


def _write_common(file, batch: pa.RecordBatch, seen: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    user, day = (column(batch, name) for name in ("user_id", "day"))
    place = user * seen.shape[1] + day
    _, firsts = np.unique(place, return_index=True)
    firsts = np.sort(firsts[~seen.ravel()[place[firsts]]])
    seen.ravel()[place[firsts]] = True
    if not len(firsts):
        return
    batch = batch.take(pa.array(firsts))
    user, day = user[firsts], day[firsts]
    group = mix(user.astype(np.uint64) + np.uint64(77))
    age = np.clip(column(batch, "age") // 12, 0, 6).astype(np.int64)
    segment = code(batch, "segment")
    items = [
        _item("101", FIRST_IDS["101"] + user),
        _item("121", 3_438_000 + segment * 4 + (group % np.uint64(4)).astype(np.int64)),
        _item("122", 3_438_500 + segment % 13),
        _item("124", 3_438_700 + (group % np.uint64(2)).astype(np.int64)),
        # Nobody's age is known for some users.
        _item("125", 3_438_800 + age, without=luck_of(user, 5) < 0.03),
        _item("126", 3_438_900 + segment % 3),
        _item("127", 3_439_000 + (age + segment) % 3),
        _item("128", 3_439_100 + age % 2),
        _item("129", 3_439_200 + segment % 4),
    ]
    interests = batch.column(batch.schema.names.index("interests"))
    topics = codes(interests.flatten()).reshape(len(firsts), -1)
    for k in range(topics.shape[1]):
        weight = np.log1p(1.0 + (group >> np.uint64(8 * k)).astype(np.int64) % 30)
        items += [
            _item("109_14", FIRST_IDS["206"] + topics[:, k], weight),
            _item("110_14", FIRST_IDS["207"] + topics[:, k] * 7 + user % 7, weight),
            _item("127_14", FIRST_IDS["216"] + topics[:, k] * 3 + user % 3, weight),
            _item("150_14", FIRST_IDS["210"] + topics[:, k], weight),
        ]
    write_lines(file, [_index(user, day), *_list(items)])


def _write_skeleton(file, batch: pa.RecordBatch, first: int, *, test: bool) -> None:  # type: ignore[no-untyped-def]
    rows = batch.num_rows
    user, day, ad = (column(batch, name) for name in ("user_id", "day", "ad_id"))
    category, shop = code(batch, "category"), column(batch, "advertiser_id")
    click, conversion = (column(batch, name) for name in ("click", "conversion"))
    conversion = np.where((luck(first, rows, 1) < ORPHANS) & (click == 0), 1, conversion)
    if test:
        ad = np.where(luck(first, rows, 4) < NEW_ADS, ad + 500_000, ad)
    matches = code(batch, "segment") == category
    brand = shop * 3 + ad % 3
    items = [
        _item("205", FIRST_IDS["205"] + ad),
        _item("206", FIRST_IDS["206"] + category),
        _item("207", FIRST_IDS["207"] + shop),
        *(
            _item("210", FIRST_IDS["210"] + (category + 3 * k) % 40, without=ad % 3 < k)
            for k in range(3)
        ),
        _item("216", FIRST_IDS["216"] + brand, without=luck(first, rows, 2) < MISSING),
        _item("508", FIRST_IDS["206"] + category, 1.0 + ad % 4, without=~matches),
        _item("509", FIRST_IDS["207"] + shop, 1.0 + ad % 5, without=~matches | (ad % 2 > 0)),
        _item("702", FIRST_IDS["216"] + brand, 1.0 + ad % 6, without=~matches | (ad % 3 > 0)),
        _item("853", FIRST_IDS["210"] + category, 1.0 + ad % 7, without=~matches),
        _item("301", 9_351_600 + np.minimum(column(batch, "position") - 1, 2) // 1),
        # The common list has this field as well, and its feature is the one that counts.
        _item("129", np.full(rows, 3_439_299), without=luck(first, rows, 3) >= DOUBLE),
    ]
    labels = [text(first + np.arange(rows) + 1), text(click), text(conversion)]
    write_lines(file, [*labels, _index(user, day), *_list(items)])


def _item(field: str, feature: Ints, value: np.ndarray | float = 1.0, without=None) -> pa.Array:  # type: ignore[no-untyped-def]
    ids = text(feature)
    if isinstance(value, float):
        tail: pa.Array | str = f"\x03{value}"
    else:
        tail = pc.binary_join_element_wise("\x03", numbers(value, 5), "")
    item = pc.binary_join_element_wise(f"{field}\x02", ids, tail, "")
    return (
        item
        if without is None
        else pc.if_else(pa.array(without), pa.scalar(None, pa.string()), item)
    )


def _list(items: list[pa.Array]) -> tuple[pa.Array, pa.Array]:
    counts = sum(item.is_valid().to_numpy(zero_copy_only=False).astype(np.int64) for item in items)
    return text(counts), pc.binary_join_element_wise(*items, "\x01", null_handling="skip")


def _index(user: Ints, day: Ints) -> pa.Array:
    hashes = mix((user * 1000 + day).astype(np.uint64)).tolist()
    return pa.array([f"{value:016x}" for value in hashes])
