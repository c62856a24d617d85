"""IJCAI-15 (Tmall repeat buyers; Tianchi 47): what users clicked, liked and bought.

`user_log_format1.csv` has a header and one event per line: user, item, category, seller, brand,
day (`mmdd`) and action (0 click, 1 cart, 2 purchase, 3 favourite). `user_info_format1.csv` has age
range and gender per user. Values may be missing in both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmtl.data.places import Places
from tfmtl.data.reader import Reader
from tfmtl.datasets.folders import named_files
from tfmtl.datasets.pairs import Block, Grouping, Ints, pairs
from tfmtl.datasets.text_rows import TextRows, check_last_line_setting
from tfmtl.declare.checks import at_least, check_setting
from tfmtl.declare.features import Column
from tfmtl.errors import DataError
from tfmtl.registry import register

LOG, INFO = "user_log_format1.csv", "user_info_format1.csv"
KEYS = ("user_id", "item_id", "cat_id", "seller_id", "brand_id")
ABOUT = ("age_range", "gender")
LOG_COLUMNS = tuple(
    Column(name=name, dtype="int64") for name in (*KEYS, "time_stamp", "action_type")
)
INFO_COLUMNS = tuple(Column(name=name, dtype="int64") for name in ("user_id", *ABOUT))
ACTIONS: Mapping[str, int] = {"click": 0, "cart": 1, "purchase": 2, "favourite": 3}
LABELS = ("purchase", "favourite")
"""AutoMTL's two tasks, in the order of its code."""
BLOCK_ROWS = 65_536


@register("reader", "ijcai15")
class IJCAI15(Reader):
    """Pairs of user and item with the labels `purchase` and `favourite`, in the order of their ids.

    Columns: `user_id`, `item_id`, `cat_id`, `seller_id`, `brand_id`, `age_range`, `gender`,
    `time_stamp` (`mmdd` of the pair's last event), `click`, `cart`, `purchase`, `favourite`, and
    `pair` (the five ids as one text, to split by). Events and users with a missing value are left
    out, as in AutoMTL.

    Args:
        least_bought: Distinct bought pairs that a user needs, and an item, for a pair to stay; 10
            in AutoMTL. 0 keeps all, and then memory holds every event.
        last_line: What becomes of a last line that is cut off: `check` (an error), `keep` or
            `drop`.

    Raises:
        SpecError: A setting is unknown or out of range.
    """

    def __init__(self, *, least_bought: int = 10, last_line: str = "check") -> None:
        check_setting("least_bought", least_bought, int, at_least(0))
        check_last_line_setting(last_line)
        self.least_bought = least_bought
        self.last_line = last_line

    def files(self, path: str) -> list[str]:
        return named_files(path, [LOG, INFO], "IJCAI-15")

    def columns(self) -> Mapping[str, Column]:
        columns = [Column(name=name, dtype="string") for name in (*KEYS, *ABOUT, "pair")]
        columns.append(Column(name="time_stamp", dtype="int64"))
        columns += [Column(name=name, dtype="float32") for name in ACTIONS]
        return {column.name: column for column in columns}

    def read(
        self, path: str, columns: Sequence[str], places: Places
    ) -> Iterator[Mapping[str, pa.Array]]:
        log_file, info_file = self.files(path)
        log = self._text(log_file, LOG_COLUMNS, _is_whole_log, empty=KEYS)
        info = self._text(info_file, INFO_COLUMNS, _is_whole_info, empty=ABOUT)
        users, about = _users(info)
        places.begin(0, lambda row: f"file {log_file}, pair {row + 1} in the order of ids")
        how = Grouping(
            keys=KEYS,
            user="user_id",
            item="item_id",
            action="action_type",
            bought=ACTIONS["purchase"],
            least_bought=self.least_bought,
            time="time_stamp",
        )
        rows = pairs(lambda: _events(log, users), how)
        if not len(rows["time_stamp"]):
            raise DataError(
                f"file {log_file}: no pair is left: no user and item have {self.least_bought} "
                "bought pairs each. A sample of the file needs a smaller number, as "
                "reader={'name': 'ijcai15', 'least_bought': 0}."
            )
        for start in range(0, len(rows["time_stamp"]), BLOCK_ROWS):
            part = {name: column[start : start + BLOCK_ROWS] for name, column in rows.items()}
            yield _block(part, users, about)

    def _text(
        self,
        path: str,
        columns: Sequence[Column],
        is_whole: Callable[[str], bool],
        *,
        empty: Sequence[str],
    ) -> TextRows:
        return TextRows(
            path,
            columns,
            header=True,
            last_line=self.last_line,
            is_whole=is_whole,
            empty=empty,
        )


def _users(info: TextRows) -> tuple[Ints, dict[str, Ints]]:
    """The users about whom all is known, sorted, and what is known."""
    parts: dict[str, list[Ints]] = {column.name: [] for column in INFO_COLUMNS}
    for _, batch in info.read(list(parts)):
        for name, column in _complete(batch).items():
            parts[name].append(column)
    columns = {name: np.concatenate(p) if p else np.zeros(0, np.int64) for name, p in parts.items()}
    users, first = np.unique(columns["user_id"], return_index=True)
    return users, {name: columns[name][first] for name in ABOUT}


def _events(log: TextRows, users: Ints) -> Iterator[Block]:
    for first, batch in log.read([column.name for column in LOG_COLUMNS]):
        actions = batch.column(batch.schema.names.index("action_type"))
        values = actions.to_numpy(zero_copy_only=False)
        wrong = (values < 0) | (values >= len(ACTIONS))
        if wrong.any():
            row = int(np.argmax(wrong))
            known = ", ".join(f"{number} ({name})" for name, number in ACTIONS.items())
            raise log.wrong(
                first + row, f"the action_type is {values[row]}; {known} would be right."
            )
        block = _complete(batch)
        known_user = np.isin(block["user_id"], users, kind="sort")
        yield {name: column[known_user] for name, column in block.items()}


def _complete(batch: pa.RecordBatch) -> dict[str, Ints]:
    """The rows without a missing value."""
    complete = np.ones(batch.num_rows, bool)
    for column in batch.columns:
        complete &= column.is_valid().to_numpy(zero_copy_only=False)
    batch = batch.filter(pa.array(complete))
    return {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _block(part: Mapping[str, Ints], users: Ints, about: Mapping[str, Ints]) -> dict[str, pa.Array]:
    place = np.searchsorted(users, part["user_id"])
    block = {name: pa.array(part[name]) for name in (*KEYS, "time_stamp")}
    for name in ABOUT:
        block[name] = pa.array(about[name][place])
    for name, bit in ACTIONS.items():
        block[name] = pa.array(((part["actions"] >> bit) & 1).astype(np.float32))
    texts = (block[key].cast(pa.string()) for key in KEYS)
    block["pair"] = pc.binary_join_element_wise(*texts, ":")
    return block


def _is_whole_log(line: str) -> bool:
    values = line.strip().split(",")
    return len(values) == len(LOG_COLUMNS) and values[-1] in map(str, ACTIONS.values())


def _is_whole_info(line: str) -> bool:
    # The gender is one digit; age ranges may be empty, and then so may it be.
    values = line.strip().split(",")
    return len(values) == len(INFO_COLUMNS) and len(values[-1]) == 1
