"""A sample of the rows of a stream and a set of its ids, in bounded memory."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.hashing import mix


class RowSample:
    """A uniform sample of a stream's rows, the same for the same rows.

    It keeps the rows whose row numbers have the smallest hashes. Memory: at most `2 · size` rows.

    Args:
        size: Most rows in the sample.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._tables: list[pa.Table] = []
        self._hashes: list[NDArray[Any]] = []
        self._limit = np.uint64(2**64 - 1)

    def add(self, batch: pa.RecordBatch, row_numbers: NDArray[Any]) -> None:
        """Takes in the rows of a batch, whose numbers in the stream are `row_numbers`."""
        hashes = mix(row_numbers.astype(np.uint64))
        chosen = np.flatnonzero(hashes <= self._limit)
        if len(chosen):
            self._tables.append(pa.Table.from_batches([batch]).take(pa.array(chosen)))
            self._hashes.append(hashes[chosen])
        if sum(len(part) for part in self._hashes) > 2 * self.size:
            self._shrink()

    def table(self) -> pa.Table | None:
        """The sampled rows, with one chunk per column; `None` if there were no rows."""
        if not self._tables:
            return None
        self._shrink()
        return self._tables[0]

    def _shrink(self) -> None:
        hashes, table = np.concatenate(self._hashes), pa.concat_tables(self._tables)
        if len(hashes) > self.size:
            least = np.sort(np.argpartition(hashes, self.size - 1)[: self.size])
            table, hashes = table.take(pa.array(least)), hashes[least]
            self._limit = hashes.max()
        self._tables, self._hashes = [table.combine_chunks()], [hashes]


class IdSet:
    """A set of 64-bit hashes, 8 bytes each (16 while it grows)."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.uint64)
        self._new: list[NDArray[Any]] = []

    def add(self, ids: NDArray[Any]) -> None:
        """Adds uint64 `[n]` ids."""
        self._new.append(np.unique(ids))
        if sum(len(part) for part in self._new) > max(1 << 20, len(self._ids)):
            self.ids()

    def ids(self) -> NDArray[Any]:
        """The ids, sorted."""
        if self._new:
            self._ids = np.unique(np.concatenate([self._ids, *self._new]))
            self._new = []
        return self._ids

    def shared_with(self, other: "IdSet") -> int:
        """How many ids are in both sets."""
        return len(np.intersect1d(self.ids(), other.ids(), assume_unique=True))
