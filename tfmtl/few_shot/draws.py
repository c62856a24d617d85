"""Which rows of a held-out group a model adapts to, and which judge it."""

import dataclasses
import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """A group's rows in two disjoint parts.

    Attributes:
        group: The group's key, as text.
        support: `[most]`, places of rows to adapt to; `k` rows are the first `k`.
        query: Places of the rows that judge, the same for every `k`.
    """

    group: str
    support: NDArray[np.int32]
    query: NDArray[np.int32]


def draws_of(
    groups: ArrayLike, *, most: int, min_query: int, draws: int, seed: int
) -> tuple[list[list[Draw]], dict[str, int]]:
    """Splits every group's rows at random, as often as asked.

    A group's draw depends on its key, the seed and its own rows alone: neither the order of the
    groups nor which others there are changes it.

    Args:
        groups: `[rows]`, each row's group: text or numbers.
        most: Rows to adapt to at most.
        min_query: Rows that must be left to judge by.
        draws: Splits of each group.
        seed: Of the splits.

    Returns:
        The draws, by group in the order of keys, and the rows of the groups that have too few.

    Raises:
        DataError: A key is missing, or no group has rows enough.
    """
    keys = _as_text(groups)
    names, codes = np.unique(keys, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(codes))[:-1]) if len(keys) else []
    by_group, left_out = [], {}
    for name, rows in zip(map(str, names), rows_of, strict=True):
        if len(rows) < most + min_query:
            left_out[name] = len(rows)
            continue
        by_group.append([_drawn(name, rows, most, [seed, draw]) for draw in range(draws)])
    if not by_group:
        largest = max(left_out.values(), default=0)
        raise DataError(
            f"ks has {most}, and {min_query} more rows must judge (min_query), but the largest of "
            f"{len(left_out)} groups has {largest} rows. Lower ks or min_query, or give more rows."
        )
    return by_group, left_out


def _drawn(name: str, rows: NDArray[np.int64], most: int, seed: list[int]) -> Draw:
    key = hashlib.blake2b(name.encode(), digest_size=8).digest()
    order = np.random.default_rng([*seed, int.from_bytes(key, "big")]).permutation(rows)
    return Draw(name, order[:most].astype(np.int32), np.sort(order[most:]).astype(np.int32))


def _as_text(groups: ArrayLike) -> NDArray[np.str_]:
    keys = np.asarray(groups)
    if keys.dtype.kind == "f" and (keys == np.floor(keys)).all():
        # A column of whole numbers that pandas made floats of; NaN is not equal to itself.
        keys = keys.astype(np.int64)
    missing = [key is None or key != key for key in keys.tolist()]
    if any(missing):
        raise DataError(
            f"groups: {sum(missing)} of {len(keys)} keys are missing; leave those rows out, or "
            "give them a key of their own."
        )
    if keys.dtype.kind == "S" or any(isinstance(key, bytes) for key in keys[:1].tolist()):
        keys = np.array([key.decode() for key in keys.tolist()])
    return keys.astype(np.str_)
