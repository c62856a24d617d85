"""Statistics of training rows in parts: a part takes in batches, and parts merge.

A part is what one shard of the rows contributes. Parts merge in any order and grouping, and the
result is the same to the bit, except for sums of values that are not integers (see `KeySums`). A
part can be pickled, so that Beam can send it from one process to another.
"""

import abc
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.features.exact import Moments

PENDING = 1 << 20
"""Rows that wait until they are merged into what a part has."""
DISTINCT = 1 << 20
"""Distinct numbers up to which quantiles are exact."""
MANTISSA = 23  # Bits of a float32.

Self = TypeVar("Self", bound="State")


class State(abc.ABC):
    """What one part of the rows contributes to one statistic."""

    @abc.abstractmethod
    def add(self, *arrays: NDArray[Any]) -> None:
        """Takes in a batch."""

    @abc.abstractmethod
    def merge(self: Self, other: Self) -> None:
        """Takes in what another part has."""


class KeySums(State):
    """A sum of numbers per key: occurrences of a value, or labels of its rows.

    Memory is proportional to the distinct keys: for a text of `n` bytes `n + 16` bytes, and as much
    again while two parts merge. Sums are float64. Those of integers are exact up to 2^53. Those of
    other numbers depend on the order of the rows in their last bit, about 1e-16 of them.

    Attributes:
        keys: Distinct keys, bytes or int64.
        totals: Their sums, float64.
    """

    def __init__(self) -> None:
        self._merged: pa.Table | None = None
        self._pending: list[pa.Table] = []
        self._rows = 0

    def add(self, *arrays: NDArray[Any]) -> None:
        """Takes in a batch.

        Args:
            *arrays: Keys (objects of bytes, or int64) and numbers, both `[n]`.
        """
        keys, numbers = arrays
        array = pa.array(keys, pa.large_binary() if keys.dtype == object else pa.int64())
        self._append(pa.table({"key": array, "number": pa.array(numbers, pa.float64())}))

    def merge(self, other: "KeySums") -> None:
        """Takes in what another part has."""
        table = other._compacted()
        if table is not None:
            self._append(table)

    @property
    def keys(self) -> pa.ChunkedArray:
        """Distinct keys."""
        table = self._compacted()
        return (
            pa.chunked_array([pa.array([], pa.large_binary())]) if table is None else table["key"]
        )

    @property
    def totals(self) -> NDArray[np.float64]:
        """The sum per key."""
        table = self._compacted()
        return np.zeros(0) if table is None else table["number"].to_numpy()

    def _append(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._rows += table.num_rows
        # Rows that wait may be as many as the merged ones, so each is merged a few times only.
        if self._rows > max(PENDING, self._merged.num_rows if self._merged else 0):
            self._compacted()

    def _compacted(self) -> pa.Table | None:
        if self._pending:
            parts = [*([] if self._merged is None else [self._merged]), *self._pending]
            self._pending, self._rows, self._merged = [], 0, None
            sums = pa.concat_tables(parts).group_by("key").aggregate([("number", "sum")])
            self._merged = pa.table({"key": sums["key"], "number": sums["number_sum"]})
        return self._merged

    def __getstate__(self) -> dict[str, Any]:
        return {"_merged": self._compacted(), "_pending": [], "_rows": 0}


class Numbers(State):
    """Moments of numbers, as a state; see `Moments`."""

    def __init__(self) -> None:
        self.moments = Moments()

    def add(self, *arrays: NDArray[Any]) -> None:
        """Takes in a batch of numbers."""
        self.moments.add(*arrays)

    def merge(self, other: "Numbers") -> None:
        """Takes in what another part has."""
        self.moments.merge(other.moments)


class Quantiles(State):
    """Quantiles of float32 numbers, from counts of the distinct ones.

    They are exact while there are at most `distinct` of them. With more, the last bits of all
    numbers are cut off until there are few enough. With `b` bits cut off, an inner edge is off by
    less than `2^(b - 23)` of itself: about 1e-4 for a million numbers spread over three octaves.
    The least and the greatest number stay exact. How many bits are cut off depends on the numbers
    alone, not on their order or division. (A rank-based sketch such as KLL has neither property.)

    Args:
        distinct: Most distinct numbers that are kept.
    """

    def __init__(self, *, distinct: int = DISTINCT) -> None:
        self.distinct = distinct
        self.bits = 0
        self.least, self.greatest = np.float32(np.inf), np.float32(-np.inf)
        self._numbers = np.zeros(0, np.float32)
        self._counts = np.zeros(0, np.int64)
        self._pending: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        self._rows = 0

    def add(self, *arrays: NDArray[Any]) -> None:
        """Takes in a batch of numbers; those that are not finite are left out."""
        numbers = np.asarray(arrays[0], np.float32).ravel()
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size:
            self.least = min(self.least, numbers.min())
            self.greatest = max(self.greatest, numbers.max())
            self._append(*np.unique(_cut(numbers, self.bits), return_counts=True))

    def merge(self, other: "Quantiles") -> None:
        """Takes in what another part has."""
        other._compact()
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self.bits = max(self.bits, other.bits)
        self._append(other._numbers, other._counts)

    def edges(self, bins: int) -> NDArray[np.float32]:
        """Returns `bins + 1` edges, linear between two numbers as in NumPy; zeros without any."""
        self._compact()
        if not self._counts.size:
            return np.zeros(bins + 1, np.float32)
        ends = np.cumsum(self._counts)
        places = np.linspace(0, 1, bins + 1) * (ends[-1] - 1)
        below = np.floor(places)
        numbers = self._numbers.astype(np.float64)
        low = numbers[np.searchsorted(ends, below, side="right")]
        high = numbers[np.searchsorted(ends, np.minimum(below + 1, ends[-1] - 1), side="right")]
        edges = (low + (high - low) * (places - below)).astype(np.float32)
        edges[0], edges[-1] = self.least, self.greatest
        clipped: NDArray[np.float32] = np.clip(edges, self.least, self.greatest)
        return clipped

    def _append(self, numbers: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
        self._pending.append((numbers, counts))
        self._rows += numbers.size
        if self._rows > PENDING:
            self._compact()

    def _compact(self) -> None:
        if not self._pending:
            return
        parts = [(self._numbers, self._counts), *self._pending]
        self._pending, self._rows = [], 0
        numbers = np.concatenate([part[0] for part in parts])
        counts = np.concatenate([part[1] for part in parts])
        numbers, counts = _grouped(_cut(numbers, self.bits), counts)
        while numbers.size > self.distinct and self.bits < MANTISSA:
            self.bits += 1
            numbers, counts = _grouped(_cut(numbers, self.bits), counts)
        self._numbers, self._counts = numbers, counts


def log_moments(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Mean and standard deviation over rows of `log(1 + count)` of each row's key.

    Args:
        counts: Rows per key, `[K]`: a key with 5 rows gives 5 of the values.

    Returns:
        `[2]`; `(0, 1)` without keys.
    """
    distinct, keys = np.unique(np.asarray(counts, np.float64), return_counts=True)
    rows = distinct * keys
    if not rows.sum():
        return np.array([0.0, 1.0])
    logs = np.log1p(distinct)
    mean = (rows * logs).sum() / rows.sum()
    return np.array([mean, np.sqrt((rows * (logs - mean) ** 2).sum() / rows.sum())])


def most_frequent(values: KeySums, size: int | None, min_count: int) -> pa.Array:
    """Values in the order of a vocabulary, the most frequent first.

    Ties are ordered by the bytes of the text, the greater first, as in TensorFlow Transform: 9
    before 10. A vocabulary is a text file with one value per line, so text that is empty or has a
    line break is left out, as there.
    """
    keys, counts = values.keys.combine_chunks(), pa.array(values.totals)
    if isinstance(keys, pa.ChunkedArray):  # pyarrow 10 returns one where there are no chunks.
        keys = pa.concat_arrays(keys.chunks) if keys.num_chunks else pa.array([], keys.type)
    keep = pc.greater_equal(counts, float(min_count))
    if not pa.types.is_integer(keys.type):
        keep = pc.and_(keep, pc.invert(pc.match_substring_regex(keys, r"^$|[\n\r]")))
    text = pc.cast(keys, pa.string()) if pa.types.is_integer(keys.type) else keys
    table = pa.table({"key": keys, "text": text, "count": counts}).filter(keep)
    order = pc.sort_indices(table, [("count", "descending"), ("text", "descending")])
    ordered = table["key"].take(order[:size])
    return pa.concat_arrays(ordered.chunks) if ordered.num_chunks else pa.array([], keys.type)


def joint_vocabulary(
    first: KeySums, further: KeySums | None = None, *, size: int | None, min_count: int
) -> pa.Array:
    """The values of a vocabulary in the order of ids; see `Analyzers.vocabulary`.

    Args:
        first: Counts of the values that it is fitted on.
        further: Counts of the values of columns that share it. Those without an id so far follow,
            by the same `size` and `min_count`.
        size: Most values of each of the two.
        min_count: Least count of a value.
    """
    known = most_frequent(first, size, min_count)
    if further is None:
        return known
    others = KeySums()
    keys, totals = further.keys.combine_chunks(), further.totals
    if isinstance(keys, pa.ChunkedArray):  # As in `most_frequent`.
        keys = pa.concat_arrays(keys.chunks) if keys.num_chunks else pa.array([], keys.type)
    if not len(keys):
        return known
    new = pc.invert(pc.is_in(keys, value_set=known.cast(keys.type)))
    others.add(keys.filter(new).to_numpy(zero_copy_only=False), totals[new.to_numpy(False)])
    more = most_frequent(others, size, min_count)
    return pa.concat_arrays([known, more.cast(known.type)]) if len(known) else more


def _cut(numbers: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Numbers without their last bits, towards zero."""
    if not bits:
        return numbers
    mask = np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return (np.ascontiguousarray(numbers).view(np.uint32) & mask).view(np.float32)


def _grouped(
    numbers: NDArray[np.float32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distinct numbers, sorted, and the sums of their counts."""
    if not numbers.size:
        return numbers, counts
    order = np.argsort(numbers, kind="stable")
    numbers, counts = numbers[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
    return numbers[starts], np.add.reduceat(counts, starts)
