import datetime
import decimal
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import Source, open_table
from tfmtl.declare.features import Column
from tfmtl.errors import DataError, SpecError


def columns(**types):
    made = {}
    for name, kind in types.items():
        dtype, _, most = kind.partition("*")
        made[name] = Column(name=name, dtype=dtype, max_values=int(most or 0))
    return made


def read(path, source=None, **types):
    return pa.Table.from_batches(open_table(str(path), columns(**types), source)).to_pydict()


def fails(path, source=None, **types):
    with pytest.raises(DataError) as error:
        read(path, source, **types)
    return str(error.value)


@pytest.fixture
def table(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_columns_come_typed_in_the_declared_order_and_others_are_ignored(table):
    path = table("id,extra,price,n\n007,x,1.5,3\nb,y,-2,4\n")
    batches = list(open_table(str(path), columns(n="int64", price="float32", id="string")))
    assert batches[0].schema == pa.schema(
        [("n", pa.int64()), ("price", pa.float32()), ("id", pa.string())]
    )
    assert batches[0].to_pydict() == {"n": [3, 4], "price": [1.5, -2.0], "id": ["007", "b"]}


def test_missing_values_are_null_quoted_or_not(table):
    path = table('a,b\n,1\n"",NA\nNaN,\n?,"?"\nx,2\n')
    assert read(path, a="string", b="float32") == {
        "a": [None, None, None, None, "x"],
        "b": [1, None, None, None, 2],
    }


def test_null_values_are_the_sources(table):
    path = table("a\nNA\n-\n")
    assert read(path, Source(null_values=("-",)), a="string") == {"a": ["NA", None]}


def test_compression_is_told_by_content_and_line_ends_do_not_matter(table):
    path = table(gzip.compress(b"a,b\r\n1,x y\r\n2,z\r\n"), "t.data")
    assert read(path, a="int64", b="string") == {"a": [1, 2], "b": ["x y", "z"]}


def test_a_headerless_file_separated_by_comma_and_space_is_stripped(table):
    path = table("1, Private, ?, 2.5\n 2, State gov , x,?\n")
    source = Source(column_names=["n", "work", "code", "pay"], delimiter=", ")
    assert read(path, source, pay="float32", work="string", code="string", n="int64") == {
        "pay": [2.5, None],
        "work": ["Private", "State gov"],
        "code": [None, "x"],
        "n": [1, 2],
    }


def test_tabs_semicolons_and_quoted_delimiters_separate_as_declared(table):
    assert read(table("a\tb,c\n1\t2,5\n", "t.tsv"), **{"b,c": "string"}) == {"b,c": ["2,5"]}
    semicolons = table("a;b\n'x;y';2\n")
    assert read(semicolons, Source(delimiter=";", quote="'"), a="string") == {"a": ["x;y"]}


def test_quoted_line_breaks_are_read_where_declared(table):
    path = table('a,b\n"x\ny",1\n')
    assert read(path, Source(multiline=True), a="string") == {"a": ["x\ny"]}


def test_a_byte_order_mark_and_spaces_around_names_are_no_part_of_a_name(table):
    path = table(b"\xef\xbb\xbfa, b\n1,2\n")
    assert read(path, a="int64", b="int64") == {"a": [1], "b": [2]}


def test_two_columns_with_one_name_are_refused_where_one_of_them_is_read(table, tmp_path):
    path = table("a,b,a,b\n1,2,3,4\n")
    assert f"file {path} has 2 columns 'a', in places 1 and 3" in fails(path, a="int64")
    assert read(table("a,b,b\n1,2,3\n"), a="int64") == {"a": [1]}
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "t.parquet")
    assert "has 2 columns 'a'" in fails(tmp_path / "t.parquet", a="int64")


def test_text_lists_are_split_and_keep_their_places(table):
    path = table("tags,w\na| b,0.5|1\n,\nc,2\n|d,|3\n")
    found = read(path, tags="string*5", w="float32*5")
    assert found["tags"] == [["a", "b"], None, ["c"], ["", "d"]]
    assert found["w"][:3] == [[0.5, 1.0], None, [2.0]]
    assert found["w"][3][0] != found["w"][3][0]  # NaN: missing, but it keeps its place.
    assert found["w"][3][1] == 3.0


def test_parquet_reads_numbers_as_text_dates_as_iso_and_nan_as_missing(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table(
            {
                "id": pa.array([12.0, None, 3.0]),
                "count": pa.array([1, 2, 3], pa.int32()),
                "x": pa.array([float("nan"), 1.0, 2.0]),
                "flag": pa.array([True, False, None]),
                "day": pa.array([datetime.date(2024, 1, 2)] * 3),
                "kind": pa.array(["a", "", "b"]).dictionary_encode(),
                "tags": pa.array([["a", None], [], None], pa.list_(pa.string())),
                "pair": pa.array([[1, 2], [5, 6], [3, 4]], pa.list_(pa.int64(), 2)),
                "one": pa.array([5, None, 6]),
                "paid": pa.array([decimal.Decimal("1.50")] * 3),
            }
        ),
        path,
    )
    assert read(
        path,
        id="string",
        count="string",
        x="float32",
        flag="float32",
        day="string",
        kind="string",
        tags="string*3",
        pair="int64*2",
        one="int64*2",
        paid="string",
    ) == {
        "id": ["12", None, "3"],
        "count": ["1", "2", "3"],
        "x": [None, 1.0, 2.0],
        "flag": [1.0, 0.0, None],
        "day": ["2024-01-02"] * 3,
        "kind": ["a", None, "b"],
        "tags": [["a", ""], None, None],
        "pair": [[1, 2], [5, 6], [3, 4]],
        "one": [[5], None, [6]],
        "paid": ["1.5"] * 3,
    }


def test_a_folder_is_read_in_the_order_of_its_names_without_its_readme(table, tmp_path):
    table("a\n3\n", "d/part-2.csv")
    table("a,b\n1,x\n2,y\n", "d/part-1.csv")
    table("# nothing", "d/README.md")
    table("", "d/_SUCCESS")
    assert read(tmp_path / "d", a="int64") == {"a": [1, 2, 3]}
    assert read(tmp_path / "d" / "part-2*", a="int64") == {"a": [3]}
    assert read(tmp_path / "d", Source(pattern="*1.csv"), a="int64") == {"a": [1, 2]}


def test_many_batches_make_the_same_rows(table, monkeypatch):
    monkeypatch.setattr("tfmtl.data.delimited.BLOCK_BYTES", 1000)
    path = table("a,b\n" + "".join(f"{i},v{i}\n" for i in range(5000)))
    batches = list(open_table(str(path), columns(a="int64", b="string")))
    assert len(batches) > 10
    assert pa.Table.from_batches(batches)["a"].to_pylist() == list(range(5000))


def test_a_number_that_does_not_parse_is_named_by_file_line_and_column(table, monkeypatch):
    monkeypatch.setattr("tfmtl.data.delimited.BLOCK_BYTES", 1000)
    rows = ["1.5"] * 2000
    rows[1040] = '"12,50"'
    path = table("price,b\n" + "".join(f"{v},x\n" for v in rows))
    assert fails(path, price="float32") == (
        f"numerical column 'price' does not parse: file {path}, line 1042: '12,50'."
    )


def test_the_line_is_right_behind_blank_lines_and_quoted_line_breaks(table):
    path = table('a,n\n\n"x\ny",1\n\nz,1.0\n')
    message = fails(path, Source(multiline=True), a="string", n="int64")
    assert f"integer column 'n' does not parse: file {path}, line 6: '1.0'." in message
    assert "without a fraction" in message


def test_a_list_value_that_does_not_parse_is_named(table):
    path = table("w\n1|2\n3|x\n")
    assert f"file {path}, line 3: 'x'" in fails(path, w="float32*4")


def test_an_integer_beyond_64_bits_is_named(table):
    path = table("n\n1\n99999999999999999999\n")
    assert f"file {path}, line 3: '99999999999999999999'" in fails(path, n="int64")


def test_true_and_false_hint_at_text_labels(table):
    assert "positive='True'" in fails(table("click\nTrue\n"), click="float32")


def test_parquet_text_that_does_not_parse_is_named_by_row(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"p": ["1", " 2 ", "x"], "i": [1.0, 2.0, 2.5]}), path)
    assert f"file {path}, row 3: 'x'" in fails(path, p="float32")
    assert f"integer column 'i' does not parse: file {path}, row 3: '2.5'" in fails(path, i="int64")


def test_a_parquet_list_read_as_a_scalar_asks_for_max_values(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"tags": [["a"]]}), path)
    assert "'tags' is a list in the file; declare it with max_values=" in fails(path, tags="string")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_column_comes_with_the_nearest_name(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text("price,click\n1,2\n")
    else:
        pq.write_table(pa.table({"price": [1], "click": [2]}), path)
    message = fails(path, prise="float32")
    assert message == (
        f"file {path} has no column 'prise'; its columns are 'price', 'click'. "
        "Did you mean 'price'?"
    )


def test_a_missing_column_hints_at_the_separator_or_at_a_missing_header(table):
    assert "Source(delimiter=...)" in fails(table("a;b\n1;2\n"), b="int64")
    assert "Source(column_names=...)" in fails(table("1,2\n3,4\n"), b="int64")


def test_a_line_of_another_width_is_named(table):
    path = table("a,b\n1,2\n3\n")
    assert f"file {path}, line 3 has 1 values, the header names 2." in fails(path, a="int64")
    named = fails(path, Source(column_names=["a", "b", "c"]), a="string")
    assert f"file {path}, line 1 has 2 values, column_names= names 3." in named


def test_other_encodings_are_found_and_read_where_declared(table):
    path = table("a,n\nx,1\ncaf\xe9,2\n".encode("latin-1"))
    message = fails(path, a="string")
    assert f"file {path}, line 3, column 'a': the text is not utf-8." in message
    assert read(path, Source(encoding="latin-1"), a="string") == {"a": ["x", "café"]}
    header = table("caf\xe9\n1\n".encode("latin-1"))
    assert f"file {header}, line 1: the header is not utf-8" in fails(header, a="string")


def test_files_that_are_not_there_empty_or_no_table_are_refused(table, tmp_path):
    assert "is not there" in fails(tmp_path / "no.csv", a="int64")
    assert "no file matches" in fails(tmp_path / "*.csv", a="int64")
    (tmp_path / "e").mkdir()
    assert "holds no file" in fails(tmp_path / "e", a="int64")
    assert "is empty (0 bytes)" in fails(table("", "zero.csv"), a="int64")
    assert "blank lines only" in fails(table("\n\n", "blank.csv"), a="int64")
    assert "holds no rows" in fails(table("a,b\n", "header.csv"), a="int64")
    assert "neither Parquet nor delimited text" in fails(
        table(b"PK\x03\x04\x00", "x.xlsx"), a="string"
    )
    assert "cannot be read as Parquet" in fails(table(b"PAR1junk", "x.parquet"), a="string")
    table("x", "only/README.md")
    assert "is a data file" in fails(tmp_path / "only", a="string")


def test_a_truncated_gzip_file_is_refused(table):
    whole = gzip.compress("".join(["a\n", *(f"{i * i}\n" for i in range(100000))]).encode())
    path = table(whole[: len(whole) // 2], "t.csv.gz")
    assert f"file {path} cannot be read" in fails(path, a="int64")


def test_files_of_two_formats_are_no_table(table, tmp_path):
    table("a\n1\n", "d/a.csv")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "d" / "b.parquet")
    message = fails(tmp_path / "d", a="int64")
    assert "a.csv is text separated by ','" in message and "b.parquet is Parquet" in message


def test_a_delimiter_is_one_character():
    with pytest.raises(SpecError, match="one character"):
        Source(delimiter="||")


def test_a_source_survives_its_json():
    source = Source(column_names=["a", "b"], delimiter=", ")
    assert Source(**source.to_json()) == source
