"""A 64-bit hash of text that is the same with every library version and on every platform.

It is FNV-1a over the UTF-8 bytes (Fowler, Noll, Vo; draft-eastlake-fnv), followed by MurmurHash3's
64-bit finaliser, because the high bits of FNV-1a are weak for short text. Splits and folds must be
reproducible, so they must not depend on the internal hash of a library.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

OFFSET, PRIME = 0xCBF29CE484222325, 0x100000001B3
MASK = (1 << 64) - 1


def fnv1a(text: bytes) -> int:
    """The 64-bit FNV-1a hash of some bytes.

    Example:
        >>> hex(fnv1a(b"foobar"))
        '0x85944171f73967e8'
    """
    state = OFFSET
    for byte in text:
        state = ((state ^ byte) * PRIME) & MASK
    return state


def mix(state: NDArray[Any]) -> NDArray[Any]:
    """MurmurHash3's finaliser: every bit of uint64 `state` reaches every bit of the result."""
    state = state ^ (state >> np.uint64(33))
    state = state * np.uint64(0xFF51AFD7ED558CCD)
    state = state ^ (state >> np.uint64(33))
    state = state * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: NDArray[Any] = state ^ (state >> np.uint64(33))
    return mixed


def hash_text(array: pa.Array, *, salt: str = "") -> NDArray[Any]:
    """Returns uint64 `[rows]`, the mixed FNV-1a hash of `salt` followed by each value.

    Args:
        array: A string array; a null hashes like empty text.
        salt: Text put before every value.
    """
    array = array.cast(pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset :][: len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    if array.null_count:
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    # Longest first, so that the values still to be hashed are always the first ones.
    order = np.argsort(-lengths, kind="stable")
    ends = np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), side="left")
    starts = offsets[:-1][order]
    state = np.full(len(array), fnv1a(salt.encode()), np.uint64)
    prime = np.uint64(PRIME)
    for position, end in enumerate(ends):
        state[:end] = (state[:end] ^ data[starts[:end] + position]) * prime
    result = np.empty_like(state)
    result[order] = state
    return mix(result)


def hash_rows(first_row: int, rows: int, *, salt: str = "") -> NDArray[Any]:
    """Returns uint64 `[rows]`, hashes of the row numbers from `first_row` on."""
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    return mix(numbers + np.uint64(fnv1a(salt.encode())))


def share(hashes: NDArray[Any]) -> NDArray[Any]:
    """Hashes as float64 in `[0, 1)`, from their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
