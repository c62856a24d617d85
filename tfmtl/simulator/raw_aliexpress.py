"""A simulated log in the raw forms of AliExpress; see `tfmtl.datasets.aliexpress`.

The oddities of the real files are in it: item rows of searches without a user row, ids that only
the test file has, and whole numbers with and without a point.
"""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tfmtl.datasets.aliexpress import CATEGORICAL, NUMERICAL, RAW, USER_COLUMNS
from tfmtl.simulator.raw_lines import (
    code,
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

LOST, NEW_IDS = 0.005, 0.01
"""Shares of searches without a user row, and of test rows with an id that training has not."""
FORMS = ("raw", "joined")
KINDS = ("user", "item")
IDS_LEFT = 9
"""Ids of the user file, of which the first seven and the last two are of searches here."""


def write_aliexpress(
    path: str,
    *,
    rows: int = 20_000,
    seed: int = 0,
    countries: Sequence[str] = ("NL",),
    form: str = "raw",
    cut_off: bool = False,
) -> list[str]:
    """Writes user and item files per country, the first 70 % of the rows for training.

    Args:
        path: The folder; it must be new or empty.
        rows: Item rows per country.
        seed: Seed of the worlds and of the logs; each country has its own.
        countries: `NL`, `ES`, `FR`, `US` or `RU`.
        form: `raw`, or `joined`, MTReclib's: `AliExpress_NL/train.csv` and so on.
        cut_off: Whether the last line of the last file is cut off.

    Returns:
        The files.

    Raises:
        FileExistsError: The folder is not empty.
        ValueError: The form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}; one of {', '.join(FORMS)} would be right.")
    written: list[str] = []
    with raw_folder(path) as folder:
        for number, country in enumerate(countries):
            written += _write_country(folder, country, rows, seed + number, form)
        if cut_off:
            cut_last_line(os.path.join(folder, written[-1]))
    return [os.path.join(path, name) for name in written]


def _write_country(folder: str, country: str, rows: int, seed: int, form: str) -> list[str]:
    world = raw_world(rows, seed, per_user=200, per_ad=300)
    if form == "raw":
        names = [f"{country}_{kind}_{part}.csv" for part in ("train", "test") for kind in KINDS]
    else:
        os.makedirs(os.path.join(folder, f"AliExpress_{country}"))
        names = [os.path.join(f"AliExpress_{country}", f"{p}.csv") for p in ("train", "test")]
    files = [open(os.path.join(folder, name), "wb") for name in names]
    try:
        if form == "joined":
            header = ",".join(["search_id", *CATEGORICAL, *NUMERICAL, "click", "conversion"])
            for file in files:
                file.write(header.encode() + b"\n")
        first, last_request = 0, -1
        bound: int | None = None
        for batch in raw_batches(world, rows, seed):
            request = column(batch, "request_id")
            if bound is None and first + batch.num_rows > 0.7 * rows:
                # A search is in one file, as a whole.
                bound = int(request[max(0, min(int(0.7 * rows) - first, batch.num_rows - 1))])
            test = request >= bound if bound is not None else np.zeros(len(request), bool)
            for part in (0, 1):
                inside = np.flatnonzero(test == bool(part))
                if not len(inside):
                    continue
                piece = batch.take(pa.array(inside))
                values = _values(piece, first + inside[0], bool(part))
                if form == "joined":
                    _write_joined(files[part], piece, values)
                else:
                    new = np.flatnonzero(np.diff(request[inside], prepend=last_request) != 0)
                    _write_raw(files[2 * part : 2 * part + 2], piece, values, new)
            last_request = int(request[-1])
            first += batch.num_rows
    finally:
        for file in files:
            file.close()
    return names


def _values(batch: pa.RecordBatch, first: int, test: bool) -> dict[tuple[str, int], pa.Array]:
    """The feature of each column of the raw files, all columns of a block."""
    rows = batch.num_rows
    user, ad, shop = (column(batch, name) for name in ("user_id", "ad_id", "advertiser_id"))
    category, segment = (code(batch, name) for name in ("category", "segment"))
    age = column(batch, "age").astype(np.int64)
    new = luck(int(first), rows, 9) < NEW_IDS if test else np.zeros(rows, bool)
    user_ids = [
        age // 10,
        segment,
        user % 3,
        user % 5,
        segment % 4,
        user,
        user % 7,
        age % 2,
        segment,
    ]
    item_ids = [
        category,
        np.where(new, ad + 900_000, ad),
        shop,
        ad % 6,
        ad % 4,
        shop % 9,
        category % 5,
    ]
    dense = {
        side: [column(batch, f"{name}_dense_{i}") for i in range(8)]
        for side, name in (("user", "user"), ("item", "ad"))
    }
    ids = iter([*user_ids, *item_ids])
    values = {}
    places = {"user": 0, "item": 0}
    for name, (side, number) in RAW.items():
        if name in CATEGORICAL:
            values[side, number] = text(next(ids))
            continue
        place, places[side] = places[side], places[side] + 1
        if place < 8:
            values[side, number] = numbers(1.0 / (1.0 + np.exp(-dense[side][place])))
        else:
            # Most columns of the real files are mostly zero.
            values[side, number] = pa.array(["0.0" if place % 2 else "0"] * rows)
    return values


def _write_raw(files, batch, values, new) -> None:  # type: ignore[no-untyped-def]
    user_file, item_file = files
    search = text(column(batch, "request_id"))
    label = text(column(batch, "click") + column(batch, "conversion"))
    item = [search, *(values["item", number] for number in range(2, 49)), label]
    write_lines(item_file, item)
    request = column(batch, "request_id")[new]
    kept = new[luck_of(request, 11) >= LOST]
    if len(kept):
        user = [search, *(values["user", number] for number in range(2, USER_COLUMNS + 1))]
        write_lines(user_file, [values_of.take(pa.array(kept)) for values_of in user])


def _write_joined(file, batch, values) -> None:  # type: ignore[no-untyped-def]
    search = text(column(batch, "request_id"))
    labels = [text(column(batch, name)) for name in ("click", "conversion")]
    write_lines(
        file, [search, *(values[RAW[name]] for name in (*CATEGORICAL, *NUMERICAL)), *labels]
    )
