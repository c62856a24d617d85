"""Splits by time compare times, whatever their notation, and refuse what is none."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.splits import assign
from tfmtl.data.table import read_table
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.declare.split import Split, by_time
from tfmtl.errors import DataError, SpecError

NOON = by_time("ts", validation_from="2021-01-09T12:00:00", test_from="2021-01-09T18:00")


def split_of(split, *values):
    return assign(split, pa.RecordBatch.from_pydict({"ts": list(values)}), 0).tolist()


@pytest.mark.parametrize("between", ["T", " "])
@pytest.mark.parametrize("seconds", ["", ":00", ":00.000", ":00.000000000"])
def test_rows_and_bounds_of_two_notations_are_compared_as_times(between, seconds):
    hours = ("00:00", "11:59", "12:00", "17:59", "18:00", "23:59")
    rows = [f"2021-01-09{between}{hour}{seconds}" for hour in hours]
    assert split_of(NOON, *rows) == [0, 0, 1, 1, 2, 2]
    assert split_of(NOON, "2021-01-09", "2021-01", "2021-01-10", "2021-02") == [0, 0, 2, 2]


def test_rows_of_two_notations_in_one_file_are_compared_as_times():
    assert split_of(NOON, "2021-01-09 13:00:00", "2021-01-09T13:00:00") == [1, 1]


@pytest.mark.parametrize(
    "value, why",
    [
        ("2024-13-45", "is no date of the calendar"),
        ("2023-02-29", "is no date of the calendar"),
        ("2024-01-01 25:00", "is no date of the calendar"),
        ("2024-01-01garbage", "is no ISO date"),
        ("2024-01-01T", "is no ISO date"),
        ("01/02/2024", "is no ISO date"),
        ("20240102", "is no ISO date"),
        ("1610150400", "is no ISO date"),
        ("2024-01-01 10:00Z", "has a time zone, and the bounds have none"),
        ("2024-01-01 10:00+02:00", "has a time zone, and the bounds have none"),
    ],
)
def test_a_row_that_is_no_time_of_the_bounds_is_refused_by_row_and_value(value, why):
    with pytest.raises(DataError) as error:
        split_of(NOON, "2021-01-09", value)
    assert str(error.value).startswith(f"split by_time('ts'): the value {value!r} of row 2 {why}")
    assert "the bounds are '2021-01-09T12:00:00' and '2021-01-09T18:00'" in str(error.value)


def test_times_with_zones_are_compared_as_moments():
    split = by_time("ts", validation_from="2024-01-01T12:00Z", test_from="2024-01-01T16:00+02:00")
    rows = ["2024-01-01 13:00+02:00", "2024-01-01T12:00:00Z", "2024-01-01 23:00+0900"]
    assert split_of(split, *rows) == [0, 1, 2]
    with pytest.raises(DataError, match="has no time zone, and the bounds have one"):
        split_of(split, "2024-01-01 13:00")


@pytest.mark.parametrize(
    "bounds",
    [
        ("2024-13-45", "2025-01-01"),
        ("2024-01-01garbage", "2025-01-01"),
        ("2024-02-30", "2025-01-01"),
        ("01/02/2024", "02/02/2024"),
        ("w05", "w06"),
        (float("nan"), 3),
        (True, 3),
        (None, 3),
    ],
)
def test_a_bound_that_is_no_time_is_refused_where_it_is_declared(bounds):
    with pytest.raises(SpecError, match="is no time"):
        by_time("ts", validation_from=bounds[0], test_from=bounds[1])


@pytest.mark.parametrize(
    "bounds", [("2024-01-01", 20240201), ("2024-01-01", "2024-02-01T00:00Z"), (1, "2024-01-01")]
)
def test_bounds_of_two_kinds_are_refused(bounds):
    with pytest.raises(SpecError, match="cannot be compared"):
        by_time("ts", validation_from=bounds[0], test_from=bounds[1])


def test_bounds_in_disorder_are_refused_as_times_and_numbers_as_numbers():
    with pytest.raises(SpecError, match="must lie before"):
        by_time("ts", validation_from="2024-01-01T13:00", test_from="2024-01-01 12:00")
    split = by_time("ts", validation_from="9", test_from="10")
    assert split_of(split, "8.5", "9", "1e2") == [0, 1, 2]


def test_date_objects_survive_the_json_of_a_split():
    first, second = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 12)
    split = by_time("ts", validation_from=first, test_from=second)
    again = Split(rule="time", column="ts", bounds=split.bounds)
    assert split_of(again, "2024-01-01", "2024-01-02 11:59", "2024-01-02 12:00") == [0, 1, 2]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_parquet_are_times(tmp_path, unit):
    start = datetime.datetime(2021, 1, 9)
    times = [start + datetime.timedelta(minutes=10 * i) for i in range(144)]
    random = np.random.default_rng(0)
    rows = {"ts": pa.array(times, pa.timestamp(unit)), "x": random.random(144)}
    rows["click"] = random.integers(0, 2, 144)
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    problem = ProblemSpec(
        features=(numerical("x"),), tasks=(binary("ctr", label="click"),), time="ts"
    )
    tables = read_table(str(tmp_path / "t.parquet"), problem, split=NOON)
    assert [t.num_rows for t in tables.values()] == [72, 36, 36]
    assert max(tables["train"]["ts"].to_pylist()) == "2021-01-09 11:50:00"
