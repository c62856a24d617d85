"""Values that a text column spells in several ways, such as `7` and `7.0`, which are two ids."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.hashing import hash_text

MOST_VALUES = 1 << 17
_ODD = r"^\s|\s$|^[-+]?\d+\.0*$|^[-+]?\d+(\.\d+)?[eE][+]?\d+$|^\+\d+$|^(?i:true|false)$"
_EXAMPLES = 1000


class Spellings:
    """Counts values of a stream that are written in several ways, in bounded memory.

    Three kinds of spellings are compared: numbers with and without a fraction of zeros or an
    exponent (`7`, `7.0`, `1e3`), booleans with and without a capital (`True`, `true`), and values
    with and without spaces around them. If there are more than `MOST_VALUES` values, only those
    with the smallest hashes are compared, and their number is scaled up.
    """

    def __init__(self) -> None:
        self._usual: list[NDArray[Any]] = []
        # Pairs of hashes, of the plain form and of the text.
        self._odd: list[NDArray[Any]] = []
        self._limit = np.uint64(2**64 - 1)
        self._examples: dict[int, tuple[str, str]] = {}

    def update(self, values: pa.Array) -> None:
        """Takes in text; nulls do not count."""
        distinct = pc.unique(values).drop_null()
        odd = pc.match_substring_regex(distinct, _ODD)
        usual = hash_text(distinct.filter(pc.invert(odd)))
        self._usual.append(usual[usual <= self._limit])
        written = distinct.filter(odd)
        if len(written):
            forms = [_plain(text) for text in written.to_pylist()]
            keys = hash_text(pa.array(forms, pa.string()))
            pairs = np.stack([keys, hash_text(written)], axis=1)
            self._odd.append(pairs[keys <= self._limit])
            for key, form, text in zip(keys.tolist(), forms, written.to_pylist(), strict=True):
                if form != text and len(self._examples) < _EXAMPLES:
                    self._examples.setdefault(key, (form, text))
        if sum(map(len, self._usual)) + sum(map(len, self._odd)) > 2 * MOST_VALUES:
            self._shrink()

    def _shrink(self) -> None:
        usual = np.unique(np.concatenate([np.empty(0, np.uint64), *self._usual]))
        pairs = np.concatenate([np.empty([0, 2], np.uint64), *self._odd])
        odd = np.unique(pairs, axis=0)
        keys = np.unique(np.concatenate([usual, odd[:, 0]]))
        if len(keys) > MOST_VALUES:
            self._limit = keys[MOST_VALUES - 1]
        self._usual, self._odd = [usual[usual <= self._limit]], [odd[odd[:, 0] <= self._limit]]

    def line(self) -> str | None:
        """A sentence that follows the column's name; `None` if every value has one spelling."""
        if not self._odd:
            return None
        self._shrink()
        keys = np.concatenate([self._usual[0], self._odd[0][:, 0]])
        keys, counts = np.unique(keys, return_counts=True)
        several = keys[counts > 1]
        if not len(several):
            return None
        scale = 2.0**64 / max(float(self._limit), 1.0)
        about = "about " if scale > 1.5 else ""
        known = (self._examples[key] for key in several.tolist() if key in self._examples)
        form, text = next(known, ("7", "7.0"))
        return (
            f"{about}{round(len(several) * scale):,} values are written in several ways, such as "
            f"{form!r} and {text!r}, and each way is an id of its own. Write them in one way."
        )


def _plain(text: str) -> str:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if re.fullmatch(r"[-+]?\d+\.0*", text):
        return text.partition(".")[0].lstrip("+")
    if re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][+]?\d{1,2}", text) and float(text).is_integer():
        return str(int(float(text)))
    return text.lstrip("+") if re.fullmatch(r"\+\d+", text) else text
