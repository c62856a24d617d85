"""What is wrong with a file is said by file and line, with what would be right."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import Source, open_table
from tfmtl.data.table import read_table
from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.declare.split import by_column, by_hash, by_row_number, by_time
from tfmtl.errors import DataError


def column(dtype, most=0):
    return {"x": Column(name="x", dtype=dtype, max_values=most)}


def fails(path, columns, source=None):
    with pytest.raises(DataError) as error:
        list(open_table(str(path), columns, source))
    return str(error.value)


def parquet(path, array):
    pq.write_table(pa.table({"x": array}), path)
    return path


@pytest.mark.parametrize("most", [0, 3])
@pytest.mark.parametrize("dtype", ["string", "int64", "float32"])
@pytest.mark.parametrize(
    "values", [[[{"a": 1}]], [[[1]]], [{"a": 1}], [{"a": [1]}], [[[["x"]]]], [[], [{"a": 1}]]]
)
def test_structs_and_lists_of_lists_are_refused_by_type_and_column(tmp_path, values, dtype, most):
    message = fails(parquet(tmp_path / "t.parquet", pa.array(values)), column(dtype, most))
    assert "column 'x' is" in message and f"file {tmp_path / 't.parquet'}" in message


def test_a_map_is_refused(tmp_path):
    array = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
    assert "column 'x'" in fails(parquet(tmp_path / "t.parquet", array), column("string", 2))


@pytest.mark.parametrize("word", ["N/A", "#N/A", "none", "None", "-", "--", "\\N", "missing", "."])
def test_a_word_for_nothing_in_a_number_hints_at_null_values(tmp_path, word):
    (tmp_path / "t.csv").write_text(f"x,y\n1.5,a\n{word},b\n")
    message = fails(tmp_path / "t.csv", column("float32"))
    assert f"file {tmp_path / 't.csv'}, line 3: {word!r}" in message
    assert f"Source(null_values=({word!r}" in message


@pytest.mark.parametrize(
    "first, hint",
    [
        ("No", "Yes"),
        ("no", "yes"),
        ("NO", "YES"),
        ("Yes", "Yes"),
        ("False", "True"),
        ("false", "true"),
        ("TRUE", "TRUE"),
        ("n", "y"),
        ("F", "T"),
        ("off", "on"),
        ("click", "click"),
        ("Converted", "Converted"),
    ],
)
def test_the_hint_at_a_text_label_names_the_outcome_that_happened(tmp_path, first, hint):
    (tmp_path / "t.csv").write_text(f"x,y\n{first},a\n")
    message = fails(tmp_path / "t.csv", column("float32"))
    assert f"positive={hint!r}" in message


def test_a_file_of_ten_megabytes_with_one_quoted_line_break_names_its_line(tmp_path):
    lines = [f"{i},{'y' * 90}" for i in range(100_000)]
    for place in (5, 43_690, 99_999):  # Inside a block, about at its border, at the end.
        broken = [*lines]
        broken[place] = f'{place},"{"y" * 45}\n{"y" * 45}"'
        (tmp_path / "t.csv").write_text("\n".join(["x,b", *broken]) + "\n")
        message = fails(tmp_path / "t.csv", column("int64"))
        assert f"line {place + 2}: a quoted value holds a line break" in message
        assert "Source(multiline=True)" in message
    rows = open_table(str(tmp_path / "t.csv"), column("int64"), Source(multiline=True))
    assert sum(batch.num_rows for batch in rows) == 100_000


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path):
    (tmp_path / "t.csv").write_text('x,b\n1,a\n2,"b\n3,c\n4,d\n')
    message = fails(tmp_path / "t.csv", column("int64"))
    assert "line 3: a quoted value holds a line break" in message


PROBLEM = ProblemSpec(
    features=(categorical("ad"), numerical("price")),
    tasks=(binary("ctr", label="click"), regression("pay", label="pay")),
    request_id="request",
)


def folder(path, kind, **changes):
    """Two files of 40 rows each; `changes` are values of the 11th row of the second."""
    path.mkdir()
    random = np.random.default_rng(2)
    for name in ("a", "b"):
        rows = {
            "ad": [f"a{i}" for i in random.integers(0, 9, 40)],
            "price": random.random(40).tolist(),
            "click": random.integers(0, 2, 40).astype(float).tolist(),
            "pay": random.random(40).tolist(),
            "request": [f"{name}{i}" for i in range(40)],
            "day": ["2024-01-01", "2024-02-02", "2024-03-03", "2024-04-04"] * 10,
            "part": ["train", "validation", "test", "train"] * 10,
        }
        if name == "b":
            for column_, value in changes.items():
                rows[column_][10] = value
        if kind == "parquet":
            pq.write_table(pa.table(rows), path / f"{name}.parquet")
        else:
            cells = zip(*rows.values(), strict=True)
            lines = [",".join("" if c is None else str(c) for c in row) for row in cells]
            # A blank line, which is a line and no row.
            (path / f"{name}.csv").write_text("\n".join([",".join(rows), "", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    "kind, where", [("csv", "b.csv, line 13"), ("parquet", "b.parquet, row 11")]
)
@pytest.mark.parametrize(
    "changes, split, why",
    [
        ({"click": 0.5}, by_row_number(), "neither 0 nor 1, first in {} (0.5)"),
        ({"click": None}, by_row_number(), "WARNING rows have no value, first in {}"),
        ({"pay": float("inf")}, by_row_number(), "values are not finite, first in {} (inf)"),
        ({"price": float("-inf")}, by_row_number(), "values are infinite, first in {} (-inf)"),
        ({"request": None}, by_hash("request"), "by_hash('request'): {} has no value"),
        (
            {"day": "2024-13-45"},
            by_time("day", validation_from="2024-02-01", test_from="2024-03-01"),
            "the value '2024-13-45' of {} is no date of the calendar",
        ),
        ({"part": "dev"}, by_column("part"), "the value 'dev' of {} is in no split"),
    ],
)
def test_labels_splits_and_dates_are_named_by_file_and_line(
    tmp_path, caplog, kind, where, changes, split, why
):
    path = folder(tmp_path / "d", kind, **changes)
    place = f"file {path}/{where}"
    if why.startswith("WARNING "):
        caplog.set_level("INFO", logger="absl")
        read_table(str(path), PROBLEM, split=split)
        assert why.removeprefix("WARNING ").format(place) in caplog.text
        return
    with pytest.raises(DataError) as error:
        read_table(str(path), PROBLEM, split=split)
    assert why.format(place) in str(error.value)


def test_a_parquet_column_whose_name_is_no_text_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1.0], "note": ["a"]}), path)
    path.write_bytes(path.read_bytes().replace(b"note", b"no\xffe"))
    assert f"file {path} cannot be read as Parquet" in fails(path, column("float32"))
