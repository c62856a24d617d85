"""Rows by key on disk: the small side of a join, of which memory holds 16 bytes per row."""

import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.hashing import hash_text

Ints = NDArray[np.int64]
STORED_ROWS = 32_768


class KeyedStore:
    """Rows in an Arrow file, which is mapped into memory, and their keys' sorted hashes.

    The file's pages are the operating system's: it takes them back where memory is short.

    Args:
        folder: An empty folder for the file; the caller removes it.
        blocks: Blocks with the same columns.
        key: Their column of text with the keys.
        empty: Columns of `blocks` if there are none.
    """

    def __init__(
        self, folder: str, blocks: Iterable[pa.RecordBatch], key: str, empty: pa.Schema
    ) -> None:
        self._key = key
        path = os.path.join(folder, "rows.arrow")
        hashes = []
        starts = [0]
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, empty) as writer:
            for block in _sized(blocks, empty):
                writer.write_batch(block)
                hashes.append(hash_text(block.column(block.schema.names.index(key))))
                starts.append(starts[-1] + block.num_rows)
        every = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        # Stable, so that rows of the same key stay in the order of the file.
        self._rows: Ints = np.argsort(every, kind="stable")
        self._hashes = every[self._rows]
        self._starts = np.array(starts)
        self._reader = pa.ipc.open_file(pa.memory_map(path))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def last(self, keys: pa.Array) -> Ints:
        """The last row of each key, int64 `[keys]`; −1 where there is none."""
        if not len(self._rows):
            return np.full(len(keys), -1)
        hashes = hash_text(keys)
        place = np.searchsorted(self._hashes, hashes, side="right") - 1
        known = (place >= 0) & (self._hashes[np.maximum(place, 0)] == hashes)
        rows: Ints = np.where(known, self._rows[np.maximum(place, 0)], -1)
        return rows

    def every(self, keys: pa.Array) -> tuple[Ints, Ints]:
        """All rows of each key: indices into `keys`, and the rows, in the order of `keys`."""
        hashes = hash_text(keys)
        first = np.searchsorted(self._hashes, hashes, side="left")
        counts = np.searchsorted(self._hashes, hashes, side="right") - first
        owner = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self._rows[first[owner] + within]

    def take(self, rows: Ints) -> pa.RecordBatch:
        """The rows of these numbers, in their order."""
        wanted, place = np.unique(rows, return_inverse=True)
        block_of = np.searchsorted(self._starts, wanted, side="right") - 1
        parts = []
        for number in np.unique(block_of):
            inside = wanted[block_of == number] - self._starts[number]
            parts.append(self._reader.get_batch(int(number)).take(pa.array(inside)))
        if not parts:
            return pa.RecordBatch.from_arrays(
                [pa.array([], field.type) for field in self._reader.schema],
                schema=self._reader.schema,
            )
        table = pa.Table.from_batches(parts).combine_chunks()
        return table.to_batches()[0].take(pa.array(place.ravel()))


def _sized(blocks: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterable[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += block.num_rows
        if count >= STORED_ROWS:
            yield from pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()
            waiting, count = [], 0
    if waiting and count:
        yield from pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()
