"""A file that carries code: none of it runs, and the file is refused by column."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import open_table
from tfmtl.data.table import read_table
from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.errors import DataError
from tfmtl.replay.__main__ import read_columns

ROOT = Path(__file__).resolve().parents[2]
X = {"x": Column(name="x", dtype="float32")}


class Touch:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path(self.path).touch, ()


def marked(name, kind, touched):
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Touch(touched)),
    }
    return pa.field(name, kind, metadata=metadata)


def table_of(places, touched):
    """A good column `x` and a hostile one `y`: as it is, in a list, in a struct, in a map."""
    inner = marked("item", pa.int64(), touched)
    field, values = {
        "itself": (marked("y", pa.int64(), touched), [1, 2]),
        "list": (pa.field("y", pa.list_(inner)), [[1], [2]]),
        "struct": (pa.field("y", pa.struct([inner])), [{"item": 1}, {"item": 2}]),
        "list of structs": (pa.field("y", pa.list_(pa.struct([inner]))), [[{"item": 1}], []]),
        "dictionary": (marked("y", pa.dictionary(pa.int32(), pa.string()), touched), ["a", "b"]),
    }[places]
    plain = pa.array(values, pa.string()).dictionary_encode() if places == "dictionary" else None
    array = pa.array(values, field.type) if plain is None else plain
    return pa.table([pa.array([1.0, 2.0]), array], schema=pa.schema([("x", pa.float64()), field]))


PLACES = ["itself", "list", "struct", "list of structs", "dictionary"]


@pytest.mark.parametrize("place", PLACES)
def test_a_pickled_type_in_a_column_nobody_declared_runs_nothing_and_is_named(tmp_path, place):
    path, touched = tmp_path / "t.parquet", tmp_path / "touched"
    pq.write_table(table_of(place, touched), path)
    with pytest.raises(DataError) as error:
        open_table(str(path), X)
    assert not touched.exists()
    assert f"file {path}, column 'y': its type is a pickled Python object" in str(error.value)


def test_a_pickled_type_runs_nothing_through_any_reader(tmp_path):
    path, touched = tmp_path / "t.parquet", tmp_path / "touched"
    pq.write_table(table_of("itself", touched), path)
    problem = ProblemSpec(features=(numerical("x"),), tasks=(binary("ctr", label="y"),))
    for read in (
        lambda: read_table(str(path), problem),
        lambda: read_columns(str(path), ["y"], ["x"]),
        lambda: list(open_table(str(path), {"y": Column(name="y", dtype="int64")})),
    ):
        with pytest.raises(DataError, match="column 'y': its type is a pickled"):
            read()
    assert not touched.exists()


def test_a_fresh_process_that_reads_a_hostile_file_runs_nothing_and_ends_quietly(tmp_path):
    path, touched = tmp_path / "t.parquet", tmp_path / "touched"
    pq.write_table(table_of("itself", touched), path)
    code = (
        "from tfmtl.data.readers import open_table\n"
        "from tfmtl.declare.features import Column\n"
        f"open_table({str(path)!r}, dict(x=Column(name='x', dtype='float32')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not touched.exists()
    assert ran.returncode == 1 and "DataError: file" in ran.stderr
    assert "Exception ignored" not in ran.stderr


def test_the_file_is_hostile_where_nothing_is_closed(tmp_path):
    """Guards the tests above: on the older Arrow the same bytes do run code."""
    path, touched = tmp_path / "t.parquet", tmp_path / "touched"
    pq.write_table(table_of("itself", touched), path)
    code = f"import pyarrow.parquet as pq; pq.ParquetFile({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], capture_output=True)
    old = tuple(map(int, pa.__version__.split(".")[:3])) < (14, 0, 1)
    assert touched.exists() == old


def test_feather_and_arrow_files_are_not_read_at_all(tmp_path):
    touched = tmp_path / "touched"
    table = table_of("itself", touched)
    pyarrow.feather.write_feather(table, str(tmp_path / "t.feather"))
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("t.feather", "t.arrow"):
        with pytest.raises(DataError, match="neither Parquet nor delimited text"):
            open_table(str(tmp_path / name), X)
    assert not touched.exists()


def test_harmless_extension_types_are_read_as_their_storage(tmp_path):
    class Euro(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.float64(), "test.euro")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            return cls()

    path = tmp_path / "t.parquet"
    pa.register_extension_type(Euro())
    try:
        array = pa.ExtensionArray.from_storage(Euro(), pa.array([1.0, 2.5]))
        pq.write_table(pa.table({"x": array}), path)
        (batch,) = open_table(str(path), X)
    finally:
        pa.unregister_extension_type("test.euro")
    assert batch.to_pydict() == {"x": [1.0, 2.5]}


def test_arrays_in_npz_files_are_never_unpickled(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.array([Touch(tmp_path / "touched")], object))
    with np.load(path) as arrays, pytest.raises(ValueError, match="allow_pickle"):
        arrays["x"]


def test_nothing_of_ours_unpickles_or_evaluates():
    forbidden = re.compile(
        r"allow_pickle\s*=(?!\s*False)|\bimport (pickle|dill|joblib|shelve|marshal)\b"
        r"|yaml\.load\(|(?<![\w.])eval\(|(?<![\w.])exec\(|read_pickle|read_feather"
        r"|enable_unsafe_deserialization"
    )
    lines = [
        f"{path}:{number}: {line}"
        for folder in ("tfmtl", "components", "pipeline")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert lines == []
