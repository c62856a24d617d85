"""AliExpress-Search (Li et al., AAAI 2020; Tianchi 74690): four countries, impressions of searches.

Raw form: `NL_user_train.csv` (33 columns, no header), `NL_item_train.csv` (49), and both for test;
also ES, FR and US. They are joined by their first column, the search. MTReclib's form: a folder
`AliExpress_NL` with `train.csv` and `test.csv`, already joined, with a header. Both give the same
columns.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from absl import logging

from tfmtl.data.hashing import hash_rows, hash_text, share
from tfmtl.data.places import Places
from tfmtl.data.reader import Reader
from tfmtl.datasets.folders import file_names, named_files
from tfmtl.datasets.keyed_store import KeyedStore
from tfmtl.datasets.text_rows import TextRows, check_last_line_setting, checked_choice
from tfmtl.declare.features import Column
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.registry import register

COUNTRIES = ("NL", "ES", "FR", "US", "RU")
PARTS = ("train", "test")
USER_COLUMNS, ITEM_COLUMNS = 33, 49
USER_IDS = (*range(2, 9), 32, 33)
ITEM_IDS = (19, 34, 35, 36, 40, 41, 42)
LABEL = 49
"""Column of the item file, counted from 1: 0 shown, 1 clicked, 2 bought."""
CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))


def _mapping() -> dict[str, tuple[str, int]]:
    ids = [("user", i) for i in USER_IDS] + [("item", i) for i in ITEM_IDS]
    numbers = [("user", i) for i in range(2, USER_COLUMNS + 1) if i not in USER_IDS]
    numbers += [("item", i) for i in range(2, LABEL) if i not in ITEM_IDS]
    return dict(zip((*CATEGORICAL, *NUMERICAL), ids + numbers, strict=True))


RAW: Mapping[str, tuple[str, int]] = _mapping()
"""File (`user` or `item`) and column, counted from 1, of each feature."""

SPLITS: Mapping[str, str] = {
    "automtl": "a random fifth of the training file's rows validates (AutoMTL); rows of the same "
    "search are on both sides",
    "by_search": "a fifth of the training file's searches validates, with all their rows",
}
"""Which rows validate, by name. The test file's rows are always test rows. MTReclib and FuxiCTR
validate on the test file itself, which no figure of ours does."""
SHARE = 0.2


@register("reader", "aliexpress")
class AliExpress(Reader):
    """One country's rows, in the order of the item files (or of `train.csv` and `test.csv`).

    Columns: `search_id`, `categorical_1` … `categorical_16`, `numerical_1` … `numerical_63`,
    `click`, `conversion`, `country`, `split`.

    The join is inner, as in MTReclib: item rows of a search without a user row are left out, and
    counted in a warning. The user file is kept in a temporary folder while it is joined.

    Args:
        country: `NL`, `ES`, `FR`, `US` or `RU`. If not given, the one that the folder has.
        split: How validation rows are chosen, a name of `SPLITS`.
        last_line: What becomes of a last line that is cut off: `check` (an error), `keep` or
            `drop`.

    Raises:
        SpecError: A setting is unknown.
    """

    def __init__(
        self,
        *,
        country: str | None = None,
        split: str = "by_search",
        last_line: str = "check",
    ) -> None:
        if country is not None and country not in COUNTRIES:
            raise SpecError(
                f"country={country!r}: one of {', '.join(COUNTRIES)} would be right."
                f"{did_you_mean(str(country).upper(), COUNTRIES)}"
            )
        checked_choice("split", split, SPLITS)
        check_last_line_setting(last_line)
        self.country = country
        self.split = split
        self.last_line = last_line

    def files(self, path: str) -> list[str]:
        return self._form(path)[2]

    def columns(self) -> Mapping[str, Column]:
        texts = ("search_id", *CATEGORICAL, "country", "split")
        columns = [Column(name=name, dtype="string") for name in texts]
        numbers = (*NUMERICAL, "click", "conversion")
        columns += [Column(name=name, dtype="float32") for name in numbers]
        return {column.name: column for column in columns}

    def read(
        self, path: str, columns: Sequence[str], places: Places
    ) -> Iterator[Mapping[str, pa.Array]]:
        form, country, files = self._form(path)
        read = self._raw(files, places) if form == "raw" else self._joined(files, places)
        for part, first, block in read:
            rows = len(block["search_id"])
            yield {
                **block,
                "country": pa.array([country] * rows, pa.string()),
                "split": self._split_of(part, first, block["search_id"]),
            }

    def _form(self, path: str) -> tuple[str, str, list[str]]:
        """Whether the files are `raw` or `joined`, their country, and the files."""
        if not os.path.isdir(path):
            raise DataError(f"{path!r} is no folder; AliExpress is a folder with its files.")
        names = file_names(path)
        raw = [c for c in COUNTRIES if any(name.startswith(f"{c}_") for name in names)]
        folders = {c: os.path.join(path, f"AliExpress_{c}") for c in COUNTRIES}
        joined = {c: folder for c, folder in folders.items() if os.path.isdir(folder)}
        top = {name.split(".csv")[0] for name in os.listdir(path) if ".csv" in name}
        if not raw and not joined and set(PARTS) <= top:
            name = os.path.basename(os.path.abspath(path))
            joined = {self.country or name.removeprefix("AliExpress_"): path}
        found = list(dict.fromkeys([*raw, *joined]))
        country = self._chosen(path, found)
        if country in raw:
            kinds = [f"{country}_{kind}_{part}.csv" for part in PARTS for kind in ("user", "item")]
            return "raw", country, named_files(path, kinds, f"AliExpress-{country}")
        files = named_files(joined[country], [f"{p}.csv" for p in PARTS], f"AliExpress-{country}")
        return "joined", country, files

    def _chosen(self, path: str, found: Sequence[str]) -> str:
        if not found:
            raise DataError(
                f"the folder {path!r} has no AliExpress country: neither NL_user_train.csv and so "
                "on, nor a folder AliExpress_NL with train.csv and test.csv."
            )
        if self.country is None and len(found) > 1:
            raise DataError(
                f"the folder {path!r} has {', '.join(found)}; say which one is read, as "
                f"reader={{'name': 'aliexpress', 'country': {found[0]!r}}}, on the command line "
                f"--source reader.country={found[0]}."
            )
        country = self.country or found[0]
        if country not in found:
            raise DataError(
                f"the folder {path!r} has no files of the country {country}; it has "
                f"{', '.join(found)}."
            )
        return country

    def _text(self, path: str, columns: Sequence[Column], *, header: bool = False) -> TextRows:
        return TextRows(
            path,
            columns,
            header=header,
            last_line=self.last_line,
            empty=[c.name for c in columns if c.dtype == "float32"],
        )

    def _raw(
        self, files: Sequence[str], places: Places
    ) -> Iterator[tuple[str, int, dict[str, pa.Array]]]:
        texts = [
            self._text(path, _raw_columns(kind))
            for path, kind in zip(files, ("user", "item") * 2, strict=True)
        ]
        begun = 0
        for part, user, item in zip(PARTS, texts[::2], texts[1::2], strict=True):
            places.begin(begun, _joined_row(item.path))
            with tempfile.TemporaryDirectory(prefix="tfmtl-aliexpress-") as folder:
                schema = pa.schema([(n, _arrow(c)) for n, c in user.columns.items()])
                rows = (batch for _, batch in user.read(list(user.columns)))
                store = KeyedStore(folder, rows, "user_1", schema)
                lost = 0
                for first, batch in item.read(list(item.columns)):
                    owner, found = store.every(batch.column(0))
                    lost += batch.num_rows - len(np.unique(owner))
                    _check_labels(item, first, batch.column(LABEL - 1))
                    both = batch.take(pa.array(owner)), store.take(found)
                    block = _features(*both)
                    yield part, first, block
                    begun += len(owner)
            if lost:
                logging.warning(
                    "%s: %s rows of searches that %s does not have are left out",
                    item.path,
                    f"{lost:,}",
                    user.path,
                )

    def _joined(
        self, files: Sequence[str], places: Places
    ) -> Iterator[tuple[str, int, dict[str, pa.Array]]]:
        ids = [Column(name=name, dtype="string") for name in ("search_id", *CATEGORICAL)]
        labels = [Column(name=name, dtype="int64") for name in ("click", "conversion")]
        columns = [*ids, *(Column(name=n, dtype="float32") for n in NUMERICAL), *labels]
        texts = [self._text(path, columns, header=True) for path in files]
        begun = 0
        for part, text in zip(PARTS, texts, strict=True):
            places.begin(begun, text.place)
            for first, batch in text.read([column.name for column in columns]):
                yield part, first, dict(zip(batch.schema.names, batch.columns, strict=True))
                begun += batch.num_rows

    def _split_of(self, part: str, first: int, searches: pa.Array) -> pa.Array:
        if part == "test":
            return pa.array([part] * len(searches), pa.string())
        if self.split == "by_search":
            hashes = hash_text(searches, salt=self.split)
        else:
            # Joined rows of a block are numbered from the block's first line.
            hashes = hash_rows(first, len(searches), salt=self.split)
        return pa.array(np.where(share(hashes) < SHARE, "validation", part), pa.string())


def _raw_columns(kind: str) -> list[Column]:
    number, ids = {"user": (USER_COLUMNS, USER_IDS), "item": (ITEM_COLUMNS, ITEM_IDS)}[kind]
    types = dict.fromkeys(range(1, number + 1), "float32") | dict.fromkeys((1, *ids), "string")
    if kind == "item":
        types[LABEL] = "int64"
    return [Column(name=f"{kind}_{i}", dtype=dtype) for i, dtype in types.items()]


def _arrow(column: Column) -> pa.DataType:
    return pa.string() if column.dtype == "string" else pa.float32()


def _features(item: pa.RecordBatch, user: pa.RecordBatch) -> dict[str, pa.Array]:
    sides = {"user": user, "item": item}
    label = item.column(LABEL - 1).to_numpy(zero_copy_only=False)
    return {
        "search_id": item.column(0),
        **{name: sides[side].column(number - 1) for name, (side, number) in RAW.items()},
        "click": pa.array((label >= 1).astype(np.float32)),
        "conversion": pa.array((label == 2).astype(np.float32)),
    }


def _check_labels(item: TextRows, first: int, labels: pa.Array) -> None:
    values = labels.to_numpy(zero_copy_only=False)
    wrong = (values < 0) | (values > 2)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise item.wrong(
            first + row,
            f"the label is {values[row]}; 0 (shown), 1 (clicked) or 2 (bought) would be right.",
        )


def _joined_row(path: str) -> Callable[[int], str]:
    return lambda row: f"file {path}, row {row + 1} after the join"
