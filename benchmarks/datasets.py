"""The papers' own data sets, read from their raw files, for the tables of `benchmarks.papers`.

`--data FOLDER` has one folder per data set, named as here (`ali_ccp`, `aliexpress_nl`,
`user_behavior`, `ijcai`), or the files of one alone. All rows are held in memory: `--dry-run` says
how much that is. `Preparation` says how the rows are prepared, and which split is the paper's.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from benchmarks.funnels import DataSet, Sizes
from benchmarks.paper import Comparison, Measured, Published
from tfmtl.data.readers import open_table
from tfmtl.data.sources import Source, files_of
from tfmtl.data.splits import columns_to_read
from tfmtl.data.table import read_table
from tfmtl.datasets.problems import Preparation, preparation
from tfmtl.declare.paths import replaced
from tfmtl.errors import DataError

COUNTRIES = ("nl", "es", "fr", "us")
PROBE_BLOCKS = 4

PUBLISHED_ROWS: Mapping[str, tuple[int, str]] = {
    "ali_ccp": (85_316_519, "PWiseR, Table 2"),
    "aliexpress_nl": (17_717_195, "PWiseR, Table 2"),
    "aliexpress_fr": (27_035_601, "PWiseR, Table 2"),
    "aliexpress_us": (27_392_613, "PWiseR, Table 2"),
    "aliexpress_es": (31_669_427, "the data set's page"),
    "user_behavior": (520_757, "AutoMTL, of pairs"),
    "ijcai": (2_143_260, "AutoMTL, of pairs"),
}
"""Rows of training, validation and test together, and where the number is printed. Nobody publishes
checksums of the raw files; a number of rows tells whether they are the right ones, and whole."""
ROWS_APART = 0.001
"""Ali-CCP is counted after conversions without a click are dropped."""


def prepared(name: str, paper: str = "automtl") -> Preparation:
    """The preparation of a data set by a paper.

    Args:
        name: Name of the data set, with the country of AliExpress.
        paper: Name of the preparation.
    """
    data_set = "aliexpress" if name.startswith("aliexpress_") else name
    return preparation({"ijcai": "ijcai15"}.get(data_set, data_set), paper)


def elsewhere(name: str, folder: str) -> str | None:
    """A folder that has a data set's files without a folder of the data set's name."""
    try:
        files = files_of(folder, source_of(name))
    except DataError:
        return None
    country = name.removeprefix("aliexpress_").upper()
    if name.startswith("aliexpress_") and not all(
        f"{country}_" in f or f"_{country}" in f for f in files
    ):
        # `train.csv` alone may be any country's.
        return None
    return folder


def source_of(name: str, paper: str | None = None) -> Source:
    """Reads a data set's raw files; one country's of AliExpress."""
    paper = paper or ("aitm" if name == "ali_ccp" else "automtl")
    source = prepared(name, paper).source
    if name.startswith("aliexpress_"):
        source = replaced(source, "reader.country", name.removeprefix("aliexpress_").upper())
    return source


@functools.lru_cache(maxsize=1)
def tables(name: str, paper: str, path: str) -> dict[str, pa.Table]:
    """All rows of a data set in the paper's split."""
    made = prepared(name, paper)
    return read_table(path, made.problem, source_of(name, paper), made.split)


def row_count(data: DataSet, path: str | None) -> Iterator[Comparison]:
    """The number of rows that were read, beside the published one; none if none is published."""
    if not data.preparation or path is None or data.name not in PUBLISHED_ROWS:
        return
    value, source = PUBLISHED_ROWS[data.name]
    count = sum(map(len, tables(data.name, data.preparation, path).values()))
    cell = Published(
        name=f"rows, {data.name}",
        value=float(value),
        metric="rows",
        source=source,
        run={"data": data.name},
        tolerance=ROWS_APART * value,
        gate=False,
        remark="not the file that the paper read, or not all of it",
    )
    yield Comparison(cell=cell, ours=Measured(values=[float(count)]))


def first_rows(name: str, paper: str, path: str) -> tuple[pa.Table, float]:
    """Some rows from the beginning, and the number of all rows by the size of the files.

    The number is an estimate: the files' bytes by the bytes per row of the blocks read. If events
    are grouped to rows, all of them are read, and it is exact.
    """
    made, source = prepared(name, paper), source_of(name, paper)
    columns = columns_to_read(made.problem, made.split)
    batches = open_table(path, columns, source)
    if name in ("user_behavior", "ijcai"):
        rows = pa.Table.from_batches(list(batches))
        return rows, float(len(rows))
    first = pa.Table.from_batches(list(itertools.islice(batches, PROBE_BLOCKS)))
    # The reader's blocks have about four megabytes of its main file.
    main = [f for f in files_of(path, source) if "skeleton" in f or "item" in f] or files_of(
        path, source
    )
    size = sum(map(os.path.getsize, main))
    done = PROBE_BLOCKS * (4 << 20)
    return first, float(len(first)) * max(1.0, size / done)


def _data_set(name: str, paper: str, **fields: Any) -> DataSet:
    made = prepared(name, paper)

    def read(seed: int, sizes: Sizes, path: str | None) -> Mapping[str, pa.Table]:
        if path is None:
            raise DataError(f"{name} needs its raw files: --data FOLDER, with {name}/ in it.")
        return tables(name, paper, path)

    return DataSet(
        name=name,
        tables=read,
        features=made.problem.features,
        space=made.problem.space,
        reads=True,
        preparation=paper,
        elsewhere=functools.partial(elsewhere, name),
        first_rows=functools.partial(first_rows, name, paper),
        **fields,
    )


ALI_CCP = _data_set("ali_ccp", "aitm", model={"dim": 5}, preset="pwiser")
"""Ali-CCP as AITM prepares it, and so MAN and PWiseR."""
ALIEXPRESS = tuple(
    _data_set(f"aliexpress_{country}", "automtl", preset="pwiser") for country in COUNTRIES
)
USER_BEHAVIOR = _data_set("user_behavior", "automtl")
IJCAI = _data_set("ijcai", "automtl")
