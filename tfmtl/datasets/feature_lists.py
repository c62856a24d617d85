r"""Ali-CCP's lists of features: items joined by `\x01`, each `field \x02 feature \x03 value`."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.types import lists
from tfmtl.errors import DataError

ITEM, FEATURE, VALUE = "\x01", "\x02", "\x03"
FORM = "field\\x02feature\\x03value, joined by \\x01"


class BadList(DataError):
    """A list that is not as its row says.

    Args:
        row: Index of the row in the block.
        problem: What is wrong.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row, self.problem = row, problem


@dataclasses.dataclass(frozen=True)
class FeatureLists:
    """The items of a block's lists.

    Attributes:
        rows: Number of lists.
        owner: `[items]`, the list of each item, ascending.
        field: `[items]`, text.
        feature: `[items]`, text.
        value: `[items]`, text that holds a number.
    """

    rows: int
    owner: NDArray[np.int64]
    field: pa.Array
    feature: pa.Array
    value: pa.Array

    def last(self, name: str, part: str) -> pa.Array:
        """The feature or the value of a field's last item per list; null without one.

        Args:
            name: The field.
            part: `feature`, or `value`, which is given as float32.

        Raises:
            BadList: A value is no number.
        """
        items = self._items(name)
        owner = self.owner[items]
        last = np.flatnonzero(np.diff(owner, append=self.rows) != 0)
        index = np.full(self.rows, -1)
        index[owner[last]] = items[last]
        taken = pa.array(index, mask=index < 0)
        return getattr(self, part).take(taken) if part == "feature" else self._numbers(taken)

    def all(self, name: str) -> tuple[pa.Array, pa.Array]:
        """The features of a field's items per list, and their values as weights; null without.

        Raises:
            BadList: A value is no number.
        """
        items = self._items(name)
        lengths = np.bincount(self.owner[items], minlength=self.rows)
        taken = pa.array(items)
        return lists(self.feature.take(taken), lengths), lists(self._numbers(taken), lengths)

    def _items(self, name: str) -> NDArray[np.int64]:
        items: NDArray[np.int64] = np.flatnonzero(
            pc.equal(self.field, name).to_numpy(zero_copy_only=False)
        )
        return items

    def _numbers(self, taken: pa.Array) -> pa.Array:
        texts = self.value.take(taken)
        try:
            return texts.cast(pa.float32())
        except pa.ArrowInvalid:
            for item, text in zip(taken.to_pylist(), texts.to_pylist(), strict=True):
                if text is not None and not _is_number(text):
                    problem = f"the value {text!r} of field {self.field[item]} is no number."
                    raise BadList(int(self.owner[item]), problem) from None
            raise


def parsed(texts: pa.Array, counts: pa.Array) -> FeatureLists:
    """Takes a block's lists apart.

    Args:
        texts: `[rows]`, the lists as text; empty for a list without items.
        counts: `[rows]`, int64, the number of items that each list should have.

    Raises:
        BadList: A list has another number of items, or an item has another form.
    """
    texts = pc.fill_null(texts, "")
    items = pc.split_pattern(texts, ITEM)
    lengths = pc.list_value_length(items).to_numpy(zero_copy_only=False)
    # Empty text is a list of no items, and not of one that is empty.
    blank = pc.equal(texts, "").to_numpy(zero_copy_only=False)
    lengths = np.where(blank, 0, lengths)
    wanted = counts.to_numpy(zero_copy_only=False)
    wrong = lengths != wanted
    if wrong.any():
        row = int(np.argmax(wrong))
        problem = (
            f"the list of features has {lengths[row]} items, and the line says {wanted[row]}; the "
            "line is damaged or cut off."
        )
        raise BadList(row, problem)
    owner = np.repeat(np.arange(len(texts)), lengths)
    flat = items.filter(pa.array(~blank)).flatten()
    parts = pc.split_pattern(pc.replace_substring(flat, VALUE, FEATURE), FEATURE)
    widths = pc.list_value_length(parts).to_numpy(zero_copy_only=False)
    if (widths != 3).any():
        item = int(np.argmax(widths != 3))
        problem = f"the item {flat[item].as_py()!r} of its list of features is not {FORM}."
        raise BadList(int(owner[item]), problem)
    flat = parts.flatten()
    place = np.arange(0, len(flat), 3)
    field, feature, value = (flat.take(pa.array(place + i)) for i in range(3))
    return FeatureLists(len(texts), owner, field, feature, value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
