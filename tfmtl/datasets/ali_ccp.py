r"""Ali-CCP (Ma et al., SIGIR 2018; Tianchi 408): impressions with clicks and conversions.

Four files without a header, two for training and two for test. A line of `sample_skeleton_*.csv`
is an impression: sample, click, conversion, an index of common features, and a list of features. A
line of `common_features_*.csv` is a user at some time: index, and a list of features. Lists are
taken apart in `feature_lists`. A field that is in both lists has the common one's features.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfmtl.data.hashing import hash_rows, hash_text, share
from tfmtl.data.places import Places
from tfmtl.data.reader import Reader
from tfmtl.datasets.feature_lists import BadList, FeatureLists, parsed
from tfmtl.datasets.folders import named_files
from tfmtl.datasets.keyed_store import KeyedStore
from tfmtl.datasets.text_rows import TextRows, check_last_line_setting, checked_choice
from tfmtl.declare.features import Column
from tfmtl.registry import register

PARTS = ("train", "test")
USER = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
HISTORY = ("109_14", "110_14", "127_14", "150_14")
AD = ("205", "206", "207", "210", "216")
CROSS = ("508", "509", "702", "853")
CONTEXT = ("301",)
SINGLE = (*USER, "205", "206", "207", "216", *CROSS, *CONTEXT)
"""Fields with one feature per row."""
MULTIPLE = (*HISTORY, "210")
"""Fields that repeat within a list."""
DENSE = (*HISTORY, *CROSS)
"""Fields whose values are numbers worth reading (torch-rechub's eight dense columns)."""
MOST_VALUES = 50

SPLITS: Mapping[str, str] = {
    "aitm": "a random tenth of the training file's rows validates (AITM, and so MAN and PWiseR); "
    "rows of the same user and time are on both sides",
    "aitm_grouped": "a tenth of the training file's common features validates, with all their rows",
    "automtl": "a random fifth of the training file's rows validates; rows of the same user and "
    "time are on both sides",
    "automtl_grouped": "a fifth of the training file's common features validates, with their rows",
    "rechub": "a random half of the test file's rows validates (torch-rechub); what is chosen has "
    "then seen the test days",
}
"""Which rows validate, by name. The test file's rows are always test rows."""
SHARES = {"aitm": 0.1, "aitm_grouped": 0.1, "automtl": 0.2, "automtl_grouped": 0.2, "rechub": 0.5}

_LIST_COLUMNS = (Column(name="feature_num", dtype="int64"), Column(name="features", dtype="string"))
SKELETON = (
    Column(name="sample_id", dtype="string"),
    Column(name="click", dtype="int64"),
    Column(name="conversion", dtype="int64"),
    Column(name="common_feature_index", dtype="string"),
    *_LIST_COLUMNS,
)
COMMON = (Column(name="common_feature_index", dtype="string"), *_LIST_COLUMNS)
PLAIN = ("sample_id", "click", "conversion", "common_feature_index")


@register("reader", "ali_ccp")
class AliCCP(Reader):
    """Ali-CCP's rows in the order of the files, training file first.

    Columns: `sample_id`, `click`, `conversion`, `common_feature_index`, `split`; `f_101` and so on
    for fields with one feature; for the fields that repeat `f_109_14` (a list), `w_109_14` (its
    weights, the raw values) and `last_109_14` (the last feature alone, which is what a Python
    dictionary keeps); `d_109_14` and so on, the last value as a number.

    Common features are joined through a store in a temporary folder, which holds the columns asked
    for; memory holds 16 bytes per line of the common file and some blocks of rows.

    Args:
        split: How validation rows are chosen, a name of `SPLITS`.
        last_line: What becomes of a last line that is cut off: `check` (an error), `keep` or
            `drop`.

    Raises:
        SpecError: A setting is unknown.
    """

    def __init__(self, *, split: str = "aitm", last_line: str = "check") -> None:
        checked_choice("split", split, SPLITS)
        check_last_line_setting(last_line)
        self.split = split
        self.last_line = last_line

    def files(self, path: str) -> list[str]:
        kinds = ("common_features", "sample_skeleton")
        return named_files(path, [f"{k}_{part}.csv" for part in PARTS for k in kinds], "Ali-CCP")

    def columns(self) -> Mapping[str, Column]:
        texts = ("sample_id", "common_feature_index", "split")
        columns = [Column(name=name, dtype="string") for name in texts]
        columns += [Column(name=name, dtype="float32") for name in ("click", "conversion")]
        columns += [Column(name=f"f_{name}", dtype="string") for name in SINGLE]
        for name in MULTIPLE:
            columns.append(Column(name=f"f_{name}", dtype="string", max_values=MOST_VALUES))
            columns.append(Column(name=f"w_{name}", dtype="float32", max_values=MOST_VALUES))
            columns.append(Column(name=f"last_{name}", dtype="string"))
        columns += [Column(name=f"d_{name}", dtype="float32") for name in DENSE]
        return {column.name: column for column in columns}

    def read(
        self, path: str, columns: Sequence[str], places: Places
    ) -> Iterator[Mapping[str, pa.Array]]:
        files = self.files(path)
        wanted = [name for name in columns if name not in (*PLAIN, "split")]
        # Both parts are opened first, so that a cut-off test file is an error before hours of work.
        pairs = [
            (
                self._text(common, COMMON),
                self._text(skeleton, SKELETON),
            )
            for common, skeleton in zip(files[::2], files[1::2], strict=True)
        ]
        first = 0
        for part, (common, skeleton) in zip(PARTS, pairs, strict=True):
            places.begin(first, skeleton.place)
            with tempfile.TemporaryDirectory(prefix="tfmtl-ali-ccp-") as folder:
                store = _store(folder, common, wanted)
                for row, block in self._joined(part, skeleton, common, store, wanted):
                    yield {**block, "split": self._split_of(part, row, block)}
                    first += len(block["click"])

    def _text(self, path: str, columns: Sequence[Column]) -> TextRows:
        # A list of no items is empty text. The end of a cut-off number cannot be told from a whole
        # one, so that a last line without a line break always counts as cut off.
        return TextRows(path, columns, last_line=self.last_line, empty=("features",))

    def _joined(
        self, part: str, skeleton: TextRows, common: TextRows, store: KeyedStore, wanted: list[str]
    ) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        for first, batch in skeleton.read(list(skeleton.columns)):
            block = dict(zip(batch.schema.names, batch.columns, strict=True))
            for label in ("click", "conversion"):
                _check_label(skeleton, first, label, block[label])
            own = _fields(skeleton, first, block, wanted)
            rows = store.last(block["common_feature_index"])
            if (rows < 0).any():
                row = int(np.argmax(rows < 0))
                index = block["common_feature_index"][row].as_py()
                raise skeleton.wrong(
                    first + row,
                    f"the index {index!r} is not in {common.path}; the files are of different "
                    "downloads, or one is incomplete.",
                )
            shared = store.take(rows)
            for name in wanted:
                inherited = shared.column(shared.schema.names.index(name))
                own[name] = _first_known(inherited, own[name])
            yield first, {**{name: block[name] for name in PLAIN}, **own}

    def _split_of(self, part: str, first: int, block: Mapping[str, pa.Array]) -> pa.Array:
        rows = len(block["click"])
        if self.split.endswith("_grouped"):
            hashes = hash_text(block["common_feature_index"], salt=self.split)
        else:
            hashes = hash_rows(first, rows, salt=f"{self.split} {part}")
        chosen: NDArray[np.bool_] = share(hashes) < SHARES[self.split]
        if part != ("test" if self.split == "rechub" else "train"):
            chosen = np.zeros(rows, bool)
        return pa.array(np.where(chosen, "validation", part), pa.string())


def _store(folder: str, common: TextRows, wanted: list[str]) -> KeyedStore:
    key = "common_feature_index"

    def blocks() -> Iterator[pa.RecordBatch]:
        for first, batch in common.read(list(common.columns)):
            block = dict(zip(batch.schema.names, batch.columns, strict=True))
            fields = _fields(common, first, block, wanted)
            yield pa.RecordBatch.from_arrays(
                [block[key], *fields.values()], schema=_schema(key, wanted)
            )

    return KeyedStore(folder, blocks(), key, _schema(key, wanted))


def _schema(key: str, wanted: Sequence[str]) -> pa.Schema:
    return pa.schema([(key, pa.string()), *((name, _type(name)) for name in wanted)])


def _type(name: str) -> pa.DataType:
    kind, _, field = name.partition("_")
    scalar = pa.float32() if kind in ("w", "d") else pa.string()
    return pa.list_(scalar) if field in MULTIPLE and kind in ("f", "w") else scalar


def _fields(
    text: TextRows, first: int, block: Mapping[str, pa.Array], wanted: Sequence[str]
) -> dict[str, pa.Array]:
    """The columns `wanted` of a block's own lists."""
    try:
        parts = parsed(block["features"], block["feature_num"])
        return {name: _column(parts, name) for name in wanted}
    except BadList as error:
        raise text.wrong(first + error.row, error.problem) from None


def _column(parts: FeatureLists, name: str) -> pa.Array:
    kind, _, field = name.partition("_")
    if kind in ("f", "w") and field in MULTIPLE:
        return parts.all(field)[kind == "w"]
    return parts.last(field, "value" if kind == "d" else "feature")


def _first_known(first: pa.Array, other: pa.Array) -> pa.Array:
    # `coalesce` does not take lists in the older of the two Arrow versions.
    if not first.null_count:
        return first
    if other.null_count == len(other):
        return first
    if not pa.types.is_list(first.type):
        return pc.coalesce(first, other)
    both = pa.concat_arrays([first, other])
    rows = np.arange(len(first))
    known = first.is_valid().to_numpy(zero_copy_only=False)
    return both.take(pa.array(np.where(known, rows, rows + len(first))))


def _check_label(text: TextRows, first: int, name: str, labels: pa.Array) -> None:
    values = labels.to_numpy(zero_copy_only=False)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise text.wrong(first + row, f"the {name} is {values[row]}; 0 or 1 would be right.")
