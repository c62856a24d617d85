"""Readers of raw files as parts: how a source names one, and what it may do wrong."""

import json

import pyarrow as pa
import pytest

from tests.doubles.registered import registered
from tfmtl.data.reader import Reader
from tfmtl.data.readers import Source, open_table
from tfmtl.data.sources import files_of, null_values_in, one_path
from tfmtl.data.table import read_table
from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import by_row_number
from tfmtl.errors import DataError, SpecError


class Halves(Reader):
    """Every line of a file twice, as text and as its length."""

    def __init__(self, *, times=2):
        self.times = times

    def files(self, path):
        return [path]

    def columns(self):
        kinds = {"word": "string", "long": "float32", "size": "int64"}
        return {name: Column(name=name, dtype=dtype) for name, dtype in kinds.items()}

    def read(self, path, columns, places):
        places.begin(0, lambda row: f"file {path}, line {row // self.times + 1}")
        for line in open(path, encoding="utf-8").read().split():
            words = [line] * self.times
            sizes = [str(len(line)) if line != "bad" else line] * self.times
            yield {
                "word": pa.array(words),
                "size": pa.array(sizes),
                "long": pa.array([float(len(line) > 3)] * self.times),
            }


@pytest.fixture(autouse=True)
def halves():
    with registered("reader", "halves", Halves):
        yield


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("one\nthree\nfive\n")
    return str(path)


def read(path, names, **settings):
    columns = Halves().columns()
    source = Source(reader={"name": "halves", **settings})
    wanted = {name: columns[name] for name in names}
    return pa.Table.from_batches(open_table(path, wanted, source)).to_pydict()


def test_columns_are_typed_as_declared_and_settings_reach_the_reader(file):
    assert read(file, ["size", "word"], times=1) == {
        "size": [3, 5, 4],
        "word": ["one", "three", "five"],
    }
    assert len(read(file, ["word"])["word"]) == 6


def test_rows_of_a_reader_are_checked_and_split_as_any_other(file):
    problem = ProblemSpec(
        features=(categorical("word"),), tasks=(binary("long", label="long"),), space="word"
    )
    split = by_row_number(shares=(0.5, 0.25, 0.25), modulo=4)
    tables = read_table(file, problem, Source(reader={"name": "halves", "times": 8}), split)
    assert [len(table) for table in tables.values()] == [12, 6, 6]


def test_a_value_of_another_type_is_named_with_the_reader_s_place(file):
    with open(file, "a", encoding="utf-8") as opened:
        opened.write("bad\n")
    with pytest.raises(DataError, match="'size' does not parse: file .*words.txt, line 4: 'bad'"):
        read(file, ["size"])


def test_a_source_with_a_reader_equals_the_one_of_its_json():
    source = Source(reader={"name": "halves", "times": 3}, last_line="drop")
    assert Source(**json.loads(json.dumps(source.to_json()))) == source
    assert Source(reader="halves").reader == {"name": "halves"}
    assert null_values_in("nowhere", source) == ("",)


def test_a_reader_or_a_setting_that_is_not_there_is_named_with_the_nearest(file):
    with pytest.raises(SpecError, match="unknown reader 'halfs'.*Did you mean 'halves'"):
        files_of(file, Source(reader="halfs"))
    with pytest.raises(SpecError, match="no argument 'time'.*Did you mean 'times'"):
        read(file, ["word"], time=3)
    with pytest.raises(SpecError, match="last_line='skip'.*keep, drop"):
        Source(last_line="skip")


def test_a_pattern_that_fits_one_folder_is_that_folder(tmp_path):
    (tmp_path / "raw [1]").mkdir()
    (tmp_path / "raw [1]" / "a.csv").write_text("1\n")
    # What TFX's ExampleGen is given: an escaped folder, and all in it.
    assert one_path(str(tmp_path / "raw [[]1]" / "*")) == str(tmp_path / "raw [1]")
    with pytest.raises(DataError, match="is not there"):
        one_path(str(tmp_path / "other"))


def test_a_cut_off_last_line_of_any_table_is_left_out_if_the_source_says_so(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n5")
    columns = {"a": Column(name="a", dtype="int64")}
    with pytest.raises(DataError, match="line 4 has 1 values"):
        list(open_table(str(path), columns))
    table = pa.Table.from_batches(open_table(str(path), columns, Source(last_line="drop")))
    assert table.to_pydict() == {"a": [1, 3]}
    path.write_text("a,b\n1,2\n3,4\n")
    table = pa.Table.from_batches(open_table(str(path), columns, Source(last_line="drop")))
    assert table.to_pydict() == {"a": [1, 3]}
