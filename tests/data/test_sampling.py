"""Which training rows a sampling leaves out: at its rates, by the row alone, and counted."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.checks import Checks
from tfmtl.data.splits import columns_to_read, sampled
from tfmtl.data.table import read_table, split_batches
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import Sampling, by_column, by_row_number
from tfmtl.errors import SpecError

ROWS = 20_000
KINDS = ("R1", "R2", "R3", "R4")
RATES = {"R3": 0.25, "R4": 0.06}
PROBLEM = ProblemSpec(
    features=(categorical("ad"), numerical("number")), tasks=(binary("ctr", label="click"),)
)
SPLIT = by_column("part")


def rows(count=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "ad": np.char.add("a", rng.integers(0, 50, count).astype(str)),
            "number": np.arange(count).astype(np.float32),
            "click": (rng.random(count) < 0.3).astype(np.float32),
            "row_type": rng.choice(KINDS, count),
            "part": rng.choice(["train", "validation", "test"], count, p=[0.8, 0.1, 0.1]),
        }
    )


TABLE = rows()
KIND = np.asarray(TABLE["row_type"])
PART = np.asarray(TABLE["part"])


def sampling(**rates):
    return Sampling(column="row_type", rates=rates)


def kept_rows(tables, part="train"):
    return set(np.asarray(tables[part]["number"]).astype(int))


def read(folder, table=TABLE, sizes=(ROWS,), **arguments):
    """What is read of a table cut into files of these sizes."""
    folder.mkdir(exist_ok=True)
    start = 0
    for index, size in enumerate(sizes):
        pq.write_table(table.slice(start, size), folder / f"part-{index}.parquet")
        start += size
    assert start == table.num_rows
    return read_table(str(folder), PROBLEM, split=SPLIT, **arguments)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return read(tmp_path_factory.mktemp("log"), sampling=sampling(**RATES))


def test_each_value_is_kept_at_its_rate_and_others_all(found):
    kept = np.isin(np.arange(ROWS), list(kept_rows(found)))
    for kind in KINDS:
        of_kind = (KIND == kind) & (PART == "train")
        rate, share = RATES.get(kind, 1.0), kept[of_kind].mean()
        error = np.sqrt(rate * (1 - rate) / of_kind.sum())
        assert abs(share - rate) <= 4 * error, kind


def test_validation_and_test_rows_are_all_kept(found):
    for part in ("validation", "test"):
        assert kept_rows(found, part) == set(np.flatnonzero(PART == part))


def test_rows_that_are_kept_keep_their_values_and_folds(found, tmp_path):
    whole = read(tmp_path / "whole")["train"].to_pandas().set_index("number")
    part = found["train"].to_pandas().set_index("number")
    assert len(part) < len(whole) and FOLD in part
    assert part.drop(columns="row_type").equals(whole.loc[part.index])


@pytest.mark.parametrize(("lower", "higher"), [(0.0, 0.06), (0.06, 0.25), (0.25, 1.0)])
def test_a_lower_rate_keeps_a_part_of_what_a_higher_one_keeps(tmp_path, lower, higher):
    few, many = (
        kept_rows(read(tmp_path / str(r), sampling=sampling(R4=r))) for r in (lower, higher)
    )
    assert few < many
    rest = set(np.flatnonzero((PART == "train") & (KIND != "R4")))
    assert rest <= few


def test_a_rate_of_one_leaves_nothing_out_and_of_zero_all(tmp_path):
    every = read(tmp_path / "one", sampling=sampling(R3=1.0))
    assert kept_rows(every) == set(np.flatnonzero(PART == "train"))
    none = read(tmp_path / "zero", sampling=sampling(R3=0.0))
    assert kept_rows(none) == set(np.flatnonzero((PART == "train") & (KIND != "R3")))


def test_a_row_is_kept_whatever_file_it_stands_in(tmp_path, found):
    cut = read(tmp_path / "cut", sizes=(1, 7_000, 12_999), sampling=sampling(**RATES))
    assert kept_rows(cut) == kept_rows(found)


def test_a_row_is_kept_whatever_batch_it_comes_in():
    split_ids = np.select([PART == "train", PART == "validation"], [0, 1], 2)
    (batch,) = TABLE.to_batches()
    whole = sampled(sampling(**RATES), batch, split_ids, 0)
    parts = [
        sampled(sampling(**RATES), batch.slice(a, b - a), split_ids[a:b], a)
        for a, b in ((0, 1), (1, 6_001), (6_001, ROWS))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_chance_belongs_to_the_row_and_not_to_its_place_in_a_pattern():
    # Splits by row number take rows 0 to 5 of ten: those are sampled like any.
    (batch,) = TABLE.to_batches()
    kept = sampled(sampling(**dict.fromkeys(KINDS, 0.5)), batch, np.zeros(ROWS, int), 0)
    shares = kept.reshape(-1, 10).mean(axis=0)
    assert np.abs(shares - 0.5).max() < 4 * np.sqrt(0.25 / (ROWS / 10))
    neighbours = (kept[1:] == kept[:-1]).mean()
    assert abs(neighbours - 0.5) < 4 * np.sqrt(0.25 / ROWS)


def test_what_was_left_out_is_counted_and_not_looked_at(tmp_path):
    # An infinite number would be an error, if its row were not left out.
    broken = TABLE.set_column(1, "number", pa.array(np.where(KIND == "R4", np.inf, 1.0), "f4"))
    kept_parts = (KIND != "R4") | (PART == "train")
    path = tmp_path / "log.parquet"
    table = broken.filter(pa.array(kept_parts))
    pq.write_table(table, path)
    checks = Checks(PROBLEM, SPLIT)
    batches = list(
        split_batches(str(path), PROBLEM, None, SPLIT, checks, sampling=sampling(R4=0.0))
    )
    report = checks.finish()
    left_out = int(((KIND == "R4") & (PART == "train")).sum())
    assert report.left_out == left_out > 3_000
    assert sum(report.rows.values()) == sum(b.num_rows for b, _ in batches)
    assert sum(report.rows.values()) == table.num_rows - left_out
    assert report.tasks["ctr"]["train"]["observed"] == report.rows["train"]
    assert any(f"{left_out:,}" in line for line in report.summary())


def test_row_numbers_of_a_warning_count_the_rows_that_were_left_out(tmp_path):
    table = rows(100)
    table = table.set_column(3, "row_type", pa.array(["R4"] * 50 + ["R1"] * 50))
    clicks = np.asarray(table["click"]).copy()
    clicks[70] = 7
    table = table.set_column(2, "click", pa.array(clicks))
    table = table.set_column(4, "part", pa.array((["train"] * 3 + ["validation", "test"]) * 20))
    with pytest.raises(ValueError, match=r"part-0.parquet, row 71 \(7\)"):
        read(tmp_path / "log", table, (100,), sampling=sampling(R4=0.0))


@pytest.mark.parametrize("dtype", [pa.int64(), pa.float32(), pa.string()])
def test_a_value_is_compared_as_text_whatever_its_type(dtype):
    batch = pa.RecordBatch.from_pydict(
        {"row_type": pa.array(["1", "2", "1"], pa.string()).cast(dtype)}
    )
    kept = sampled(sampling(**{"1": 0.0}), batch, np.zeros(3, int), 0)
    assert kept.tolist() == [False, True, False]


def test_a_missing_value_is_no_value_and_is_kept():
    batch = pa.RecordBatch.from_pydict({"row_type": pa.array([None, "R3"], pa.string())})
    assert sampled(sampling(R3=0.0), batch, np.zeros(2, int), 0).tolist() == [True, False]


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(SpecError, match="'R3' is kept at .*; a share from 0 to 1"):
        sampling(R3=rate)


def test_a_sampling_that_makes_no_sense_is_refused():
    with pytest.raises(SpecError, match="rates= of column 'row_type' is empty"):
        sampling()
    with pytest.raises(SpecError, match=r"value 1 of column 'row_type' is no text"):
        Sampling(column="row_type", rates={1: 0.5})
    lists = ProblemSpec(features=(categorical("tags", max_values=3),), tasks=PROBLEM.tasks)
    with pytest.raises(SpecError, match="column 'tags' is a list"):
        columns_to_read(lists, by_row_number(), (), Sampling(column="tags", rates={"a": 0.5}))


def test_the_pipelines_reader_leaves_out_the_same_rows(tmp_path, found):
    pytest.importorskip("tfx")
    import tensorflow as tf

    from components.example_gen import write_examples
    from tfmtl.data.readers import Source

    pq.write_table(TABLE, tmp_path / "log.parquet")
    out = tmp_path / "examples"
    for part in found:
        (out / f"Split-{part}").mkdir(parents=True)
    write_examples(
        str(tmp_path / "log.parquet"),
        str(out),
        PROBLEM,
        SPLIT,
        Source(),
        slices=[],
        sampling=sampling(**RATES),
    )
    for part in found:
        files = sorted(map(str, (out / f"Split-{part}").glob("*")))
        spec = {"number": tf.io.FixedLenFeature([], tf.float32)}
        records = tf.data.TFRecordDataset(files).batch(ROWS)
        (numbers,) = [tf.io.parse_example(batch, spec)["number"].numpy() for batch in records]
        assert set(numbers.astype(int)) == kept_rows(found, part), part
