"""Events grouped to one row per pair of user and item, with one label per kind of event.

As AutoMTL prepares UserBehavior and IJCAI-15: rows with the same keys become one, whose labels say
which actions it has seen. Users and items with few bought pairs are left out; both are counted
once, on the rows before either is left out. Two passes over the events: the first reads purchases,
the second keeps the events of the users and items that stay. Memory holds those alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Block = Mapping[str, Ints]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouping:
    """How events become pairs.

    Args:
        keys: Columns that events of one pair share; user and item among them.
        user: Column of the user.
        item: Column of the item.
        action: Column of the action, a small number.
        bought: The action that is a purchase.
        least_bought: Bought pairs that a user needs to stay, and an item; 0 keeps all.
        time: Column of the time; a pair has that of its last event.
    """

    keys: tuple[str, ...]
    user: str
    item: str
    action: str
    bought: int
    least_bought: int
    time: str


def pairs(events: Callable[[], Iterator[Block]], how: Grouping) -> dict[str, Ints]:
    """Groups events to pairs, in the order of their keys.

    Args:
        events: Reads all events, as blocks of int64 columns; called twice.
        how: The grouping.

    Returns:
        The key columns, the time, and `actions`, in which bit `a` is set if the pair has seen the
        action `a`.
    """
    kept = None
    if how.least_bought:
        bought = _gathered(_only(events(), how), how.keys)
        bought = {name: bought[name][_firsts(bought, how.keys)] for name in how.keys}
        kept = {side: _frequent(bought[side], how.least_bought) for side in (how.user, how.item)}
    names = (*how.keys, how.action, how.time)
    rows = _gathered(_staying(events(), kept), names)
    starts = _firsts(rows, how.keys, sort=True)
    if not len(starts):
        return {name: np.zeros(0, np.int64) for name in (*how.keys, how.time, "actions")}
    bits = np.left_shift(np.int64(1), rows[how.action])
    return {
        **{name: rows[name][starts] for name in how.keys},
        how.time: np.maximum.reduceat(rows[how.time], starts),
        "actions": np.bitwise_or.reduceat(bits, starts),
    }


def _only(events: Iterator[Block], how: Grouping) -> Iterator[Block]:
    for block in events:
        bought = block[how.action] == how.bought
        yield {name: block[name][bought] for name in how.keys}


def _staying(events: Iterator[Block], kept: Mapping[str, Ints] | None) -> Iterator[Block]:
    for block in events:
        if kept is None:
            yield block
            continue
        stays = np.ones(len(next(iter(block.values()))), bool)
        for side, values in kept.items():
            stays &= _within(block[side], values)
        yield {name: column[stays] for name, column in block.items()}


def _gathered(blocks: Iterator[Block], names: Sequence[str]) -> dict[str, Ints]:
    parts: dict[str, list[Ints]] = {name: [] for name in names}
    for block in blocks:
        for name in names:
            parts[name].append(block[name])
    return {n: np.concatenate(p) if p else np.zeros(0, np.int64) for n, p in parts.items()}


def _firsts(rows: dict[str, Ints], keys: Sequence[str], *, sort: bool = False) -> Ints:
    """The first row of each group; with `sort`, all columns are put into the keys' order first."""
    order = np.lexsort([rows[key] for key in reversed(keys)])
    columns = {key: rows[key][order] for key in keys}
    new = np.ones(len(order), bool)
    if len(order):
        new[1:] = np.any([columns[key][1:] != columns[key][:-1] for key in keys], axis=0)
    if sort:
        for name, column in rows.items():
            rows[name] = column[order]
        return np.flatnonzero(new)
    firsts: Ints = order[new]
    return firsts


def _frequent(values: Ints, least: int) -> Ints:
    distinct, counts = np.unique(values, return_counts=True)
    frequent: Ints = distinct[counts >= least]
    return frequent


def _within(values: Ints, known: Ints) -> NDArray[np.bool_]:
    """Whether each value is among `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[place] == values)
