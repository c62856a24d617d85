"""Which files make a table: all below a folder, or a sentence that says what stands in the way."""

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import Source, open_table
from tfmtl.data.sources import files_of, null_values_in
from tfmtl.declare.features import Column
from tfmtl.errors import DataError

A = {"a": Column(name="a", dtype="int64")}


def write(path, text="a,b\n1,2\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(path, source=None, columns=A):
    table = pa.Table.from_batches(open_table(str(path), columns, source))
    return table.to_pydict()


def fails(path, source=None):
    with pytest.raises(DataError) as error:
        read(path, source)
    return str(error.value)


def test_a_folder_is_read_with_all_folders_below_it(tmp_path):
    write(tmp_path / "a.csv", "a\n1\n")
    write(tmp_path / "sub" / "b.csv", "a\n2\n")
    write(tmp_path / "sub" / "deep" / "c.csv", "a\n3\n")
    write(tmp_path / "_temporary" / "d.csv", "a\n4\n")
    write(tmp_path / ".hidden" / "e.csv", "a\n5\n")
    write(tmp_path / "sub" / "README.md", "nothing")
    assert read(tmp_path) == {"a": [1, 2, 3]}
    # As the pipeline asks, which knows patterns only.
    assert read(tmp_path / "*") == {"a": [1, 2, 3]}
    assert read(tmp_path / "s*") == {"a": [2, 3]}
    assert read(tmp_path, Source(pattern="*.csv")) == {"a": [1, 2, 3]}
    assert read(tmp_path, Source(pattern="sub/*.csv")) == {"a": [2, 3]}
    assert read(tmp_path, Source(pattern="c.csv")) == {"a": [3]}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_folders_of_hive_give_their_values_as_columns(tmp_path, kind):
    for day, scene, values in (
        ("2024-01-01", "a%20b", [1, 2]),
        ("2024-01-02", "__HIVE_DEFAULT_PARTITION__", [3]),
    ):
        folder = tmp_path / f"dt={day}" / f"scene={scene}"
        folder.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.table({"a": values}), folder / "part-0.parquet")
        else:
            write(folder / "part-0.csv", "a\n" + "".join(f"{v}\n" for v in values))
    write(tmp_path / "_SUCCESS", "")
    columns = {
        "dt": Column(name="dt", dtype="string"),
        "scene": Column(name="scene", dtype="string"),
        **A,
    }
    assert read(tmp_path, columns=columns) == {
        "dt": ["2024-01-01", "2024-01-01", "2024-01-02"],
        "scene": ["a b", "a b", None],
        "a": [1, 2, 3],
    }
    assert read(tmp_path) == {"a": [1, 2, 3]}


def test_a_column_of_the_file_counts_before_its_folders_name(tmp_path):
    write(tmp_path / "a=7" / "t.csv", "a\n1\n")
    assert read(tmp_path) == {"a": [1]}


def test_a_folder_name_that_is_no_number_where_one_is_declared_is_refused(tmp_path):
    write(tmp_path / "a=x" / "t.csv", "b\n1\n")
    assert f"integer column 'a' does not parse: folder of {tmp_path}" in fails(tmp_path)


@pytest.mark.parametrize("target", ["gone.csv", "broken.csv"])
@pytest.mark.parametrize("asked", ["", "*", "*.csv", "broken.csv"])
def test_a_link_to_nothing_or_to_itself_beside_good_files_is_refused(tmp_path, target, asked):
    write(tmp_path / "a.csv")
    os.symlink(tmp_path / target, tmp_path / "broken.csv")
    message = fails(tmp_path / asked)
    assert f"'{tmp_path / 'broken.csv'}' is a link to" in message
    assert "not there or leads round in a circle" in message


def test_a_link_that_no_one_asks_for_does_not_matter(tmp_path):
    write(tmp_path / "a.csv")
    os.symlink(tmp_path / "gone", tmp_path / "broken.md")
    os.symlink(tmp_path / "gone", tmp_path / "other.tsv")
    assert read(tmp_path, Source(pattern="*.csv")) == {"a": [1]}


def test_a_good_link_is_read_and_a_folder_that_holds_itself_is_refused(tmp_path):
    write(tmp_path / "elsewhere" / "a.csv")
    (tmp_path / "d").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "d" / "link")
    assert read(tmp_path / "d") == {"a": [1]}
    os.symlink(tmp_path / "d", tmp_path / "d" / "round")
    assert "is a link to a folder above it" in fails(tmp_path / "d")


@pytest.mark.parametrize("name", ["x[0].csv", "x*.csv", "a{SPAN}.csv", "d[1]/x.csv"])
def test_a_file_that_is_there_is_read_whatever_its_name_could_mean(tmp_path, name):
    path = write(tmp_path / name)
    write(tmp_path / "x0.csv", "a,b\n9,9\n")
    assert read(path) == {"a": [1]}
    assert files_of(str(path.parent), Source())


def test_a_folder_without_data_says_what_is_in_it(tmp_path):
    write(tmp_path / "d" / "README.md")
    assert "none of ['README.md'] is a data file" in fails(tmp_path / "d")
    assert "no file that matches '*.tsv'" in fails(tmp_path / "d", Source(pattern="*.tsv"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named_and_read_where_it_is_declared(tmp_path, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes("a,b\n1,é\n2,x\n".encode(encoding))
    message = fails(path)
    assert "is UTF-16 text" in message and f"Source(encoding={encoding!r})" in message
    columns = {**A, "b": Column(name="b", dtype="string")}
    found = read(path, Source(encoding=encoding), columns)
    assert found == {"a": [1, 2], "b": ["é", "x"]}


def test_what_means_missing_follows_the_kind_of_file(tmp_path):
    write(tmp_path / "c" / "day-1" / "t.csv")
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "p" / "t.parquet")
    source = Source(null_values=("-",))
    assert null_values_in(str(tmp_path / "c"), source) == ("-",)
    assert null_values_in(str(tmp_path / "c" / "day-{SPAN}" / "*"), source) == ("-",)
    assert null_values_in(str(tmp_path / "p"), source) == ("",)


@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_lines_are_counted_through_compression(tmp_path, compress):
    text = b'a,b\n1,x\n\n2,y\n3,"z'
    path = tmp_path / "t.csv"
    path.write_bytes(compress(text) if compress else text)
    path_of_quote = b'a,b\n1,"x\n2,y\n3,z\n4,w"\n5,v\n'
    (tmp_path / "q.csv").write_bytes(compress(path_of_quote) if compress else path_of_quote)
    message = fails(tmp_path / "q.csv")
    assert f"file {tmp_path / 'q.csv'}, line 2: a quoted value holds a line break" in message
    assert read(path) == {"a": [1, 2, 3]}
