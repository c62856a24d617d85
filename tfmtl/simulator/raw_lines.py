"""Text files in the raw formats of public data sets: lines of joined columns, written in blocks."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.hashing import mix, share
from tfmtl.durable import whole_folder
from tfmtl.simulator.constants import Constants
from tfmtl.simulator.impressions import impression_batches
from tfmtl.simulator.world import World, draw_world

DAYS = 9
"""Days of a simulated raw log, as many as UserBehavior-2017 has."""
BLOCK_ROWS = 50_000


def raw_world(rows: int, seed: int, *, per_user: int, per_ad: int) -> World:
    """A world that grows with the log, so that ids are as sparse in a long one as in a short one.

    Args:
        rows: Rows of the log.
        seed: The world's seed.
        per_user: Rows per user, about.
        per_ad: Rows per ad, about.
    """
    ads = _limited(rows // per_ad, 100_000)
    constants = Constants(
        users=_limited(rows // per_user, 200_000), ads=ads, advertisers=max(5, ads // 8)
    )
    return draw_world(seed, days=DAYS, constants=constants)


def _limited(size: int, most: int) -> int:
    return max(40, min(size, most))


def raw_batches(world: World, rows: int, seed: int) -> Iterator[pa.RecordBatch]:
    """The impressions that raw files are written from."""
    return impression_batches(world, impressions=rows, seed=seed, days=DAYS, batch_rows=BLOCK_ROWS)


def luck(first: int, rows: int, stream: int) -> NDArray[np.float64]:
    """Uniform numbers of the rows from `first` on, `[rows]`, one stream per oddity."""
    return luck_of(np.arange(first, first + rows), stream)


def luck_of(ids: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
    """A uniform number per id, which is the same wherever the id is."""
    return share(mix(mix(ids.astype(np.uint64) + np.uint64(1)) + np.uint64(stream)))


def write_lines(file: BinaryIO, columns: Sequence[pa.Array | str]) -> None:
    """Writes a block of lines.

    Args:
        file: An open file.
        columns: The values of each column as text; null is an empty value.
    """
    filled = [pc.fill_null(column, "") for column in columns]
    lines = pc.binary_join_element_wise(*filled, ",")
    lines = pc.binary_join_element_wise(lines, "\n", "")
    for line_block in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
        file.write(b"".join(line_block.cast(pa.binary()).to_pylist()))


def numbers(values: NDArray, digits: int = 6) -> pa.Array:
    """Numbers as text with so many digits after the point, without the zeros at their end."""
    return pa.array([repr(v) for v in np.round(values.astype(np.float64), digits).tolist()])


def text(values: NDArray) -> pa.Array:
    """Whole numbers as text."""
    return pa.array(np.asarray(values, np.int64)).cast(pa.string())


def column(batch: pa.RecordBatch, name: str) -> NDArray:
    """A column of impressions, `[rows]`."""
    return batch.column(batch.schema.names.index(name)).to_numpy(zero_copy_only=False)


def code(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    """The number of each row's category, `[rows]`."""
    return codes(batch.column(batch.schema.names.index(name)))


def codes(names: pa.Array) -> NDArray[np.int64]:
    """The numbers of categories, which the simulator names c00, c01 and so on."""
    digits = pc.utf8_ltrim(names, characters="c").cast(pa.int64())
    return digits.to_numpy(zero_copy_only=False)


@contextlib.contextmanager
def raw_folder(path: str) -> Iterator[str]:
    """A folder to fill, which is there only when it is whole.

    Raises:
        FileExistsError: There is one, and it is not empty.
    """
    if os.path.isdir(path) and os.listdir(path):
        raise FileExistsError(f"the folder {path!r} is not empty; give a new or an empty one.")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with whole_folder(path) as building:
        yield building


def cut_last_line(path: str) -> None:
    """Cuts a file off in the middle of its last line, as a broken download does."""
    with open(path, "rb+") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        file.truncate(size - 1 - len(last) // 2)
