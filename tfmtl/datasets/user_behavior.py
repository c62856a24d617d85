"""UserBehavior-2017 (Taobao; Tianchi 649): what users viewed, put into carts, liked and bought.

One file without a header, `UserBehavior.csv`: user, item, category, behaviour (`pv`, `buy`,
`cart`, `fav`) and epoch seconds, from 25 November to 3 December 2017, China time.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.data.places import Places
from tfmtl.data.reader import Reader
from tfmtl.datasets.folders import ENDINGS, named_files
from tfmtl.datasets.pairs import Block, Grouping, Ints, pairs
from tfmtl.datasets.text_rows import TextRows, check_last_line_setting, checked_choice
from tfmtl.declare.checks import at_least, check_setting
from tfmtl.declare.features import Column
from tfmtl.errors import DataError
from tfmtl.registry import register

FILE = "UserBehavior.csv"
BEHAVIOURS: Mapping[str, str] = {"pv": "click", "buy": "buy", "cart": "cart", "fav": "favourite"}
"""Label of each behaviour, in the order of AutoMTL's tasks."""
COLUMNS = (
    Column(name="user_id", dtype="int64"),
    Column(name="item_id", dtype="int64"),
    Column(name="category_id", dtype="int64"),
    Column(name="behaviour", dtype="string"),
    Column(name="time", dtype="int64"),
)
KEYS = ("user_id", "item_id", "category_id")
ROWS = ("pairs", "events")
BLOCK_ROWS = 65_536
SECOND_DIGITS = 10
"""Digits of an epoch second in 2017."""


@register("reader", "user_behavior")
class UserBehavior(Reader):
    """Pairs of user and item with a label per behaviour, or the events themselves.

    Columns: `user_id`, `item_id`, `category_id`, `time` (epoch seconds; a pair's last event),
    `click`, `buy`, `cart`, `favourite`, and `pair` (user, item and category as one text, to split
    by); of events also `behaviour`. Pairs come in the order of their ids, events in the file's.

    Nobody logged what was shown, and no negatives are drawn: a pair without a click is one that was
    bought, liked or put into a cart without a logged view. `click` is therefore no click rate.

    Args:
        rows: `pairs`, as AutoMTL trains on, or `events`, one row per line: what histories are
            built of.
        least_bought: Distinct bought pairs that a user needs, and an item, for a pair to stay; 10
            in AutoMTL. 0 keeps all, and then memory holds every event. Only for pairs.
        last_line: What becomes of a last line that is cut off: `check` (an error), `keep` or
            `drop`.

    Raises:
        SpecError: A setting is unknown or out of range.
    """

    def __init__(
        self, *, rows: str = "pairs", least_bought: int = 10, last_line: str = "check"
    ) -> None:
        checked_choice("rows", rows, ROWS)
        check_setting("least_bought", least_bought, int, at_least(0))
        check_last_line_setting(last_line)
        self.rows = rows
        self.least_bought = least_bought
        self.last_line = last_line

    def files(self, path: str) -> list[str]:
        if os.path.isfile(path):
            return [path]
        names = [name for name in os.listdir(path) if name.endswith(tuple(_endings()))]
        if len(names) == 1:
            return [os.path.join(path, names[0])]
        return named_files(path, [FILE], "UserBehavior-2017")

    def columns(self) -> Mapping[str, Column]:
        columns = [Column(name=name, dtype="string") for name in (*KEYS, "pair")]
        columns.append(Column(name="time", dtype="int64"))
        columns += [Column(name=name, dtype="float32") for name in BEHAVIOURS.values()]
        if self.rows == "events":
            columns.append(Column(name="behaviour", dtype="string"))
        return {column.name: column for column in columns}

    def read(
        self, path: str, columns: Sequence[str], places: Places
    ) -> Iterator[Mapping[str, pa.Array]]:
        (file,) = self.files(path)
        text = TextRows(file, COLUMNS, last_line=self.last_line, is_whole=_is_whole)
        if self.rows == "events":
            places.begin(0, text.place)
            for first, batch in text.read([column.name for column in COLUMNS]):
                actions = _actions(text, first, batch.column(3))
                block = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield {**block, **_labels(1 << actions), "pair": _pair(block)}
            return
        places.begin(0, lambda row: f"file {file}, pair {row + 1} in the order of ids")
        how = Grouping(
            keys=KEYS,
            user="user_id",
            item="item_id",
            action="behaviour",
            bought=list(BEHAVIOURS).index("buy"),
            least_bought=self.least_bought,
            time="time",
        )
        rows = pairs(lambda: _events(text), how)
        if not len(rows["time"]):
            raise DataError(
                f"file {file}: no pair is left: no user and item have {self.least_bought} bought "
                "pairs each. A sample of the file needs a smaller number, as "
                "reader={'name': 'user_behavior', 'least_bought': 0}."
            )
        for start in range(0, len(rows["time"]), BLOCK_ROWS):
            part = {name: column[start : start + BLOCK_ROWS] for name, column in rows.items()}
            block = {name: pa.array(part[name]) for name in (*KEYS, "time")}
            yield {**block, **_labels(part["actions"]), "pair": _pair(block)}


def _events(text: TextRows) -> Iterator[Block]:
    for first, batch in text.read([column.name for column in COLUMNS]):
        block = {
            name: batch.column(batch.schema.names.index(name)).to_numpy(zero_copy_only=False)
            for name in (*KEYS, "time")
        }
        yield {**block, "behaviour": _actions(text, first, batch.column(3))}


def _actions(text: TextRows, first: int, behaviours: pa.Array) -> Ints:
    index = pc.index_in(behaviours, value_set=pa.array(list(BEHAVIOURS)))
    if index.null_count:
        row = int(np.argmax(index.is_null().to_numpy(zero_copy_only=False)))
        raise text.wrong(
            first + row,
            f"the behaviour is {behaviours[row].as_py()!r}; {', '.join(BEHAVIOURS)} are known.",
        )
    actions: Ints = index.to_numpy(zero_copy_only=False).astype(np.int64)
    return actions


def _labels(actions: Ints) -> dict[str, pa.Array]:
    return {
        label: pa.array(((actions >> bit) & 1).astype(np.float32))
        for bit, label in enumerate(BEHAVIOURS.values())
    }


def _pair(block: Mapping[str, pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*(block[key].cast(pa.string()) for key in KEYS), ":")


def _is_whole(line: str) -> bool:
    values = line.strip().split(",")
    return len(values) == len(COLUMNS) and len(values[-1]) >= SECOND_DIGITS


def _endings() -> list[str]:
    return [f".csv{ending}" for ending in ENDINGS]
