"""One value has one text, one id and one split, whatever type and path it comes by."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfmtl.data.readers import open_table
from tfmtl.data.splits import assign
from tfmtl.data.table import read_table
from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import by_hash
from tfmtl.errors import DataError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.prepare import prepare
from tfmtl.features.raw import example_spec
from tfmtl.serving.export import to_examples

WHOLE = [7, None, 10000000001, 10**10]
WHOLE_TEXT = ["7", None, "10000000001", "10000000000"]
SMALL = [7, None, 0, 100]
SMALL_TEXT = ["7", None, "0", "100"]
DAY = datetime.date(2024, 1, 2)
NOON = datetime.datetime(2024, 1, 2, 12, 30, 5)
TOKYO = datetime.timezone(datetime.timedelta(hours=9))

# Each type with its values and their texts; a type that is refused has none.
TYPES = {
    **{
        f"{sign}int{bits}": (
            pa.array(SMALL if bits < 64 else WHOLE, getattr(pa, f"{sign}int{bits}")()),
            SMALL_TEXT if bits < 64 else WHOLE_TEXT,
        )
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float16": (pa.array(np.array([7, np.nan, 0.5], np.float16)), ["7", None, "0.5"]),
    "float32": (pa.array([7, None, 1e7, 0.25], pa.float32()), ["7", None, "10000000", "0.25"]),
    "float64": (
        pa.array([7, None, 1e10, 10000000001.0, 2.0**53, -0.0, 0.1, 1e-7]),
        ["7", None, "10000000000", "10000000001", "9007199254740992", "0", "0.1", "1e-7"],
    ),
    "float64 with NaN": (pa.array([7.0, float("nan")]), ["7", None]),
    "bool": (pa.array([True, None, False]), ["True", None, "False"]),
    "string": (pa.array(["7", None, "", "Action é"]), ["7", None, None, "Action é"]),
    "large_string": (pa.array(["7", None, "x"], pa.large_string()), ["7", None, "x"]),
    "dictionary": (pa.array(["7", None, "x"]).dictionary_encode(), ["7", None, "x"]),
    "dictionary of integers": (pa.array(WHOLE).dictionary_encode(), WHOLE_TEXT),
    "binary": (pa.array([b"7", None, "é".encode()]), ["7", None, "é"]),
    "fixed-size binary": (pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
    "bytes that are no text": (pa.array([b"7", b"\xff\xfe"]), None),
    "decimal": (
        pa.array([decimal.Decimal("7.00"), None, decimal.Decimal("1.50")]),
        ["7", None, "1.5"],
    ),
    "decimal of 23 digits": (
        pa.array([decimal.Decimal("12345678901234567890123"), None]),
        ["12345678901234567890123", None],
    ),
    "date32": (pa.array([DAY, None]), ["2024-01-02", None]),
    "date64": (pa.array([DAY, None], pa.date64()), ["2024-01-02", None]),
    **{
        f"timestamp[{unit}]": (
            pa.array([NOON, None], pa.timestamp(unit)),
            ["2024-01-02 12:30:05", None],
        )
        for unit in ("s", "ms", "us", "ns")
    },
    "timestamp with fractions": (
        pa.array([NOON.replace(microsecond=250000)], pa.timestamp("us")),
        ["2024-01-02 12:30:05.25"],
    ),
    "timestamp of a zone": (
        pa.array([NOON.replace(tzinfo=TOKYO), None], pa.timestamp("us", "Asia/Tokyo")),
        ["2024-01-02 03:30:05Z", None],
    ),
    "time": (pa.array([datetime.time(3, 4), None], pa.time64("us")), ["03:04:00", None]),
    "null": (pa.nulls(3), [None, None, None]),
    "float64 beyond 2**53": (pa.array([7, 2.0**53 + 2]), None),
    "duration": (pa.array([datetime.timedelta(3)]), None),
}
REFUSED = [name for name, (_, texts) in TYPES.items() if texts is None]
TEXTS = {name: made for name, made in TYPES.items() if made[1] is not None}
X = Column(name="x", dtype="string")
LIST = Column(name="x", dtype="string", max_values=3)
PROBLEM = ProblemSpec(
    features=(categorical("x"), categorical("y", column="x", encoding="hash", size=2**30)),
    tasks=(binary("ctr", label="click"),),
    user_id="x",
)
LISTS = ProblemSpec(
    features=(categorical("x", max_values=3),), tasks=(binary("ctr", label="click"),)
)


def from_parquet(array, folder, column=X):
    path = folder / "t.parquet"
    try:
        pq.write_table(pa.table({"x": array}), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this Arrow writes no such file: {error}")
    return pa.Table.from_batches(open_table(str(path), {"x": column}))["x"]


def as_lists(array):
    """Each value in a list of its own; a gap is an empty list."""
    lengths = np.asarray(array.is_valid()).astype(np.int32)
    if pa.types.is_floating(array.type):
        lengths &= ~np.isnan(array.to_numpy(zero_copy_only=False).astype(float))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, array.filter(pa.array(lengths > 0)))


def tables(array):
    """A column as every kind of table in memory has it."""
    yield "Arrow table", pa.table({"x": array})
    yield "Arrow array", {"x": array}
    yield "frame", pa.table({"x": array}).to_pandas()
    yield "list", {"x": array.to_pylist()}
    yield "object array", {"x": np.array([*array.to_pylist(), None], object)[:-1]}
    # A gap made objects or floats of the values; without one they are arrays of their own type.
    if not array.null_count and not pa.types.is_dictionary(array.type):
        yield "array", {"x": array.to_numpy(zero_copy_only=False)}


def parsed(problem, columns):
    """What a served graph reads of examples."""
    spec = example_spec(problem.feature_columns())
    return tf.io.parse_example(to_examples(problem, columns), spec)


def fitted(problem, texts):
    rows = {
        "x": [t or "" for t in texts] if problem is PROBLEM else [[t] if t else [] for t in texts]
    }
    preprocessor = Preprocessor(problem)
    packed = preprocessor.fit({**rows, "click": np.arange(len(texts)) % 2})
    return preprocessor, packed["ids_context"].numpy()


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_has_the_text_as_scalar_and_in_a_list(name, tmp_path):
    array, texts = TEXTS[name]
    assert from_parquet(array, tmp_path).to_pylist() == texts
    if pa.types.is_null(array.type):
        return
    lists = from_parquet(as_lists(array), tmp_path, LIST).to_pylist()
    assert [None if v in (None, [""]) else v[0] for v in lists] == texts
    (tmp_path / "t.csv").write_text("x,n\n" + "".join(f"{t or ''},1\n" for t in texts))
    batches = open_table(str(tmp_path / "t.csv"), {"x": X})
    assert pa.Table.from_batches(batches)["x"].to_pylist() == texts


@pytest.mark.parametrize("name", TEXTS)
def test_every_table_in_memory_and_every_example_has_the_same_ids(name):
    array, texts = TEXTS[name]
    preprocessor, ids = fitted(PROBLEM, texts)
    for kind, table in tables(array):
        found = preprocessor(table)["ids_context"].numpy()
        np.testing.assert_array_equal(found, ids, err_msg=kind)
        columns = table.to_pydict() if isinstance(table, pa.Table) else table
        served = preprocessor(parsed(PROBLEM, columns))["ids_context"].numpy()
        np.testing.assert_array_equal(served, ids, err_msg=f"{kind}, served")


@pytest.mark.parametrize("name", [n for n in TEXTS if n != "null"])
def test_every_list_in_memory_and_every_example_has_the_same_ids(name):
    array, texts = TEXTS[name]
    preprocessor, ids = fitted(LISTS, texts)
    try:
        lists = as_lists(array)
        in_memory = {"Arrow": pa.table({"x": lists}), "list": {"x": lists.to_pylist()}}
        # A frame's lists of times lose their zone before we see them.
        if name != "timestamp of a zone":
            in_memory["frame"] = in_memory["Arrow"].to_pandas()
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this Arrow has no such lists: {error}")
    for kind, table in in_memory.items():
        found = preprocessor(table)["ids_context"].numpy()
        np.testing.assert_array_equal(found, ids, err_msg=kind)
        columns = table.to_pydict() if isinstance(table, pa.Table) else table
        served = preprocessor(parsed(LISTS, columns))["ids_context"].numpy()
        np.testing.assert_array_equal(served, ids, err_msg=f"{kind}, served")


@pytest.mark.parametrize("name", [n for n in TEXTS if n != "null"])
def test_a_value_is_in_the_split_of_its_text_whatever_its_type(name, tmp_path):
    array, texts = TEXTS[name]
    known = [text for text in texts if text is not None]
    split = by_hash("x", shares=(0.4, 0.3, 0.3))
    expected = assign(split, pa.RecordBatch.from_pydict({"x": known}), 0)
    column = from_parquet(array, tmp_path).combine_chunks().drop_null()
    found = assign(split, pa.RecordBatch.from_arrays([column], ["x"]), 0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_text_is_refused_on_every_path(name, tmp_path):
    array, _ = TYPES[name]
    preprocessor, _ = fitted(PROBLEM, ["7"])
    for column, values in ((X, array), (LIST, as_lists(array))):
        with pytest.raises(DataError, match="column 'x'"):
            from_parquet(values, tmp_path, column)
    for kind, table in tables(array):
        columns = table.to_pydict() if isinstance(table, pa.Table) else table
        for call in (lambda t=table: preprocessor(t), lambda c=columns: to_examples(PROBLEM, c)):
            with pytest.raises(DataError, match="column 'x'"):
                call()
                pytest.fail(kind)


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.decimal128(20, 2)])
def test_an_integer_column_has_one_value_for_a_number_of_any_type(kind, tmp_path):
    column = Column(name="x", dtype="int64")
    numbers = [7, None, 10000000001]
    if pa.types.is_decimal(kind):
        numbers = [None if n is None else decimal.Decimal(n) for n in numbers]
    values = pa.array(numbers, kind)
    assert from_parquet(values, tmp_path, column).to_pylist() == [7, None, 10000000001]
    with pytest.raises(DataError, match="integer column 'x' does not parse: file .*, row 2: '0.5'"):
        from_parquet(pa.array([7, 0.5]), tmp_path, column)
    with pytest.raises(DataError, match=r"row 2: '9007199254740994.0'"):
        from_parquet(pa.array([7, 2.0**53 + 2]), tmp_path, column)


def test_an_id_beyond_what_a_float_holds_says_what_would_be_right(tmp_path):
    with pytest.raises(DataError) as error:
        from_parquet(pa.array([1.0, 1e17]), tmp_path)
    path = tmp_path / "t.parquet"
    assert f"file {path}, row 2: '1e+17'. A float holds whole numbers exactly up to" in str(
        error.value
    )
    assert "Write them as integers or as text." in str(error.value)


def test_ids_that_a_float32_feature_no_longer_tells_apart_are_not_split_by():
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2.0**24 + 2], pa.float32())], ["x"])
    with pytest.raises(DataError, match=r"row 2 is above 2\*\*24, .* as categorical"):
        assign(by_hash("x"), rows, 0)


def test_mixed_values_of_a_list_have_each_their_own_text():
    values = [7, 7.0, "7", True, None, decimal.Decimal("7.00"), DAY, b"7", np.nan, pd.NA]
    texts = ["7", "7", "7", "True", None, "7", "2024-01-02", "7", None, None]
    preprocessor, ids = fitted(PROBLEM, texts)
    for rows in (values, np.array(values, object), pd.Series(values, dtype=object)):
        np.testing.assert_array_equal(preprocessor({"x": rows})["ids_context"], ids)
        served = preprocessor(parsed(PROBLEM, {"x": rows}))
        np.testing.assert_array_equal(served["ids_context"], ids)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float64", "category", "string", "object"])
def test_pandas_types_of_one_value_are_one_id(dtype):
    preprocessor, ids = fitted(PROBLEM, ["7", None, "10000000001"])
    values = pd.Series([7, None, 10000000001])
    if dtype == "string":
        values = pd.Series(["7", None, "10000000001"])
    frame = pd.DataFrame({"x": values.astype(dtype)})
    np.testing.assert_array_equal(preprocessor(frame)["ids_context"], ids)
    np.testing.assert_array_equal(preprocessor(parsed(PROBLEM, frame))["ids_context"], ids)


def test_a_column_of_text_is_split_as_the_reader_splits_it():
    frame = pd.DataFrame({"x": ["Action|Comedy", "Comedy", None], "click": [0, 1, 0]})
    preprocessor = Preprocessor(LISTS)
    ids = preprocessor.fit(frame)["ids_context"].numpy()
    lists = {"x": [["Action", "Comedy"], ["Comedy"], []]}
    np.testing.assert_array_equal(ids, preprocessor(lists)["ids_context"])
    assert preprocessor.table_rows() == {"x": 4}
    served = preprocessor(parsed(LISTS, {"x": frame["x"].tolist()}))
    np.testing.assert_array_equal(served["ids_context"], ids)


def test_a_list_in_a_file_keeps_the_spaces_that_it_has_in_memory(tmp_path):
    rows = [["a ", "b"], ["a"]]
    file = from_parquet(pa.array(rows), tmp_path, LIST).to_pylist()
    assert file == rows
    preprocessor, _ = fitted(LISTS, ["a ", "a"])
    np.testing.assert_array_equal(
        preprocessor({"x": rows})["ids_context"],
        preprocessor(parsed(LISTS, {"x": file}))["ids_context"],
    )


def write_log(path, users, kind="parquet"):
    rows = {"x": users, "click": np.random.default_rng(1).integers(0, 2, len(users)).tolist()}
    if kind == "parquet":
        pq.write_table(pa.table(rows), path)
    else:
        lines = [f"{u},{c}" for u, c in zip(users, rows["click"], strict=True)]
        path.write_text("\n".join(["x,click", *lines]) + "\n")


def test_files_of_integers_and_of_floats_put_no_user_into_two_splits(tmp_path):
    users = [10**10 + i for i in range(300)]
    (tmp_path / "d").mkdir()
    write_log(tmp_path / "d" / "a.parquet", users)
    write_log(tmp_path / "d" / "b.parquet", pa.array([*map(float, users[:-1]), users[0]]))
    split = by_hash("x", shares=(0.6, 0.2, 0.2))
    found = read_table(str(tmp_path / "d"), PROBLEM, split=split)
    ids = {name: set(table["x"].to_pylist()) for name, table in found.items()}
    assert not ids["train"] & ids["test"] and not ids["train"] & ids["validation"]
    assert set().union(*ids.values()) == set(map(str, users))


def test_text_that_means_missing_in_training_is_missing_when_served(tmp_path):
    words = ["NA", "?", "null", "a", "b"] * 60
    write_log(tmp_path / "t.csv", words, "csv")
    tables_ = read_table(
        str(tmp_path / "t.csv"),
        problem := ProblemSpec(features=PROBLEM.features, tasks=PROBLEM.tasks),
    )
    prepared = prepare(problem, tables_)
    served = prepared.preprocessor(parsed(problem, {"x": ["NA", "?", "null", "", "a"]}))
    assert (served["ids_context"].numpy()[:4] == 1).all()
    assert (served["ids_context"].numpy()[4] >= 2).all()
    train = prepared.data.train.tensors["ids_context"].numpy()
    missing = np.array([text is None for text in tables_["train"]["x"].to_pylist()])
    assert missing.any() and (train[missing] == 1).all()


def test_parquet_has_nulls_of_its_own_so_that_NA_is_a_word_when_served_too(tmp_path):
    write_log(tmp_path / "t.parquet", ["NA", "de", "fr", ""] * 75)
    problem = ProblemSpec(features=PROBLEM.features, tasks=PROBLEM.tasks)
    prepared = prepare(problem, read_table(str(tmp_path / "t.parquet"), problem))
    served = prepared.preprocessor(parsed(problem, {"x": ["NA", ""]}))["ids_context"].numpy()
    assert (served[0] >= 2).all() and (served[1] == 1).all()


def test_trees_read_a_frames_ids_as_they_read_those_of_a_file():
    pytest.importorskip("lightgbm")
    from tfmtl.boosting.columns import fit_columns

    spec = ProblemSpec(features=(categorical("x"),), tasks=(binary("ctr", label="click"),))
    train = pa.table({"x": ["7", "10000000001", "True"], "click": [0.0, 1.0, 0.0]})
    columns = fit_columns(spec, train, most_categories=10)
    floats = columns.codes(pa.table({"x": [7.0, None, 10000000001.0]}))["x"]
    known = columns.codes(train)["x"]
    np.testing.assert_array_equal(floats, [known[0], -2, known[1]])
    assert columns.codes(pa.table({"x": [True]}))["x"] == known[2]
