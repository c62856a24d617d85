import numpy as np
import pyarrow as pa
import pytest

from tfmtl.data.hashing import fnv1a, hash_rows, hash_text, mix, share
from tfmtl.data.splits import assign, columns_to_read, default_split, folds
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_column, by_hash, by_row_number, by_time
from tfmtl.errors import DataError, SpecError

# Made by a plain Python FNV-1a, one value at a time: a change here moves rows between splits.
KNOWN = dict(zip(map(str, range(12)), (2, 0, 1, 1, 1, 0, 1, 2, 0, 0, 0, 1), strict=True))


def batch(**columns):
    return pa.RecordBatch.from_pydict(columns)


def problem(**context):
    return ProblemSpec(
        features=(categorical("ad"),), tasks=(binary("ctr", label="click"),), **context
    )


def test_fnv1a_gives_the_published_hashes():
    # Test vectors of draft-eastlake-fnv.
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


def test_the_hash_of_an_array_is_the_hash_of_each_value():
    values = ["foobar", "", "é", "x" * 300, None, "foobar"]
    hashes = hash_text(pa.array(["cut off", *values]).slice(1), salt="s:")
    expected = mix(np.array([fnv1a(f"s:{v or ''}".encode()) for v in values], np.uint64))
    np.testing.assert_array_equal(hashes, expected)
    # Murmur3's finaliser, from its reference implementation's constants.
    assert int(mix(np.array([1], np.uint64))[0]) == 0xB456BCFC34C2CB2C


def test_shares_of_hashes_are_even():
    counts = np.bincount((share(hash_rows(0, 50000)) * 10).astype(int))
    assert counts.min() > 4700 and counts.max() < 5300


def test_a_split_by_hash_has_its_shares_and_never_cuts_a_value():
    requests = np.repeat([f"r{i}" for i in range(20000)], 3)
    split = by_hash("request", shares=(0.7, 0.2, 0.1))
    ids = assign(split, batch(request=requests), 0).reshape(-1, 3)
    assert (ids == ids[:, :1]).all()
    np.testing.assert_allclose(np.bincount(ids[:, 0]) / 20000, [0.7, 0.2, 0.1], atol=0.01)


def test_a_split_by_hash_is_the_same_in_every_version_and_for_numbers():
    values = [str(i) for i in range(12)]
    ids = assign(by_hash("r", shares=(0.5, 0.25, 0.25)), batch(r=values), 0)
    np.testing.assert_array_equal(ids, [KNOWN[v] for v in values])
    numbers = pa.RecordBatch.from_pydict({"r": pa.array(range(12), pa.float32())})
    np.testing.assert_array_equal(assign(by_hash("r", shares=(0.5, 0.25, 0.25)), numbers, 0), ids)


def test_another_salt_is_another_split():
    rows = batch(r=[str(i) for i in range(5000)])
    first, second = (assign(by_hash("r", salt=s), rows, 0) for s in ("", "b"))
    both = np.mean((first == 2) & (second == 2))
    np.testing.assert_allclose(both, 0.01, atol=0.006)


def test_a_split_by_time_begins_with_its_bounds():
    numeric = by_time("day", validation_from=10, test_from=12)
    assert assign(numeric, batch(day=["9.5", "10", " 11", "12", "1e2"]), 0).tolist() == [
        0,
        1,
        1,
        2,
        2,
    ]
    assert assign(numeric, batch(day=np.float32([9, 10, 12])), 0).tolist() == [0, 1, 2]
    dates = by_time("day", validation_from="2024-02-01", test_from="2024-03-01")
    days = ["2024-01-31 23:59:59", "2024-02-01", "2024-02-29T10:00", "2024-03-01 00:00:00"]
    assert assign(dates, batch(day=days), 0).tolist() == [0, 1, 1, 2]


def test_times_that_are_no_times_are_named_by_row():
    with pytest.raises(DataError, match=r"'soon' of row 102 is no number, but 1 is"):
        assign(by_time("day", validation_from=1, test_from=2), batch(day=["1", "soon"]), 100)
    dates = by_time("day", validation_from="2024-02-01", test_from="2024-03-01")
    with pytest.raises(DataError, match=r"'03/01/2024' of row 1 is no ISO date"):
        assign(dates, batch(day=["03/01/2024"]), 0)


def test_a_split_by_column_reads_its_values_and_refuses_others():
    split = by_column("part")
    assert assign(split, batch(part=["test", "val", "train"]), 0).tolist() == [2, 1, 0]
    coded = by_column("part", train=("0",), validation=("1",), test=("2",))
    assert assign(coded, batch(part=np.float32([2, 0, 1])), 0).tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"'dev' of row 6 is in no split; the splits are"):
        assign(split, batch(part=["test", "dev"]), 4)


def test_row_numbers_go_on_from_batch_to_batch():
    split = by_row_number()
    whole = assign(split, batch(a=range(20)), 0)
    assert whole.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2] * 2
    np.testing.assert_array_equal(assign(split, batch(a=range(7)), 13), whole[13:])


@pytest.mark.parametrize(
    "split", [by_hash("c"), by_column("c"), by_time("c", validation_from=1, test_from=2)]
)
def test_a_row_without_a_value_to_split_by_is_refused(split):
    with pytest.raises(DataError, match=r"\('c'\): row 8 has no value"):
        assign(split, batch(c=["1", None]), 6)


def test_rows_of_a_request_share_a_fold_whatever_their_batch():
    rows = batch(request=["a", "b", "a", None, None], ad=list("vwxyz"))
    split_ids = np.array([0, 0, 0, 0, 0], np.int8)
    fold = folds(problem(request_id="request"), rows, split_ids, 0).to_pylist()
    assert fold[0] == fold[2] != fold[1]
    assert fold[3] != fold[4]  # Without a request, a row stands for itself.
    later = folds(problem(request_id="request"), batch(request=["b"]), split_ids[:1], 77)
    assert later.to_pylist() == [fold[1]]


def test_only_training_rows_have_folds_and_they_are_even():
    split_ids = np.arange(30000) % 3
    fold = folds(problem(), batch(ad=np.arange(30000)), split_ids, 0).to_numpy()
    assert (fold[split_ids != 0] == -1).all()
    assert ((fold >= 0) & (fold < 2**31))[split_ids == 0].all()
    counts = np.bincount(fold[split_ids == 0] % 5)
    assert counts.min() > 1850 and counts.max() < 2150


def test_folds_are_independent_of_a_split_by_the_same_request():
    rows = batch(request=[str(i) for i in range(20000)])
    split_ids = assign(by_hash("request"), rows, 0)
    fold = folds(problem(request_id="request"), rows, split_ids, 0).to_numpy()
    counts = np.bincount(fold[split_ids == 0] % 5) / (split_ids == 0).sum()
    np.testing.assert_allclose(counts, 0.2, atol=0.015)


def test_the_splits_and_slices_columns_are_read_too():
    read = columns_to_read(problem(), by_column("part"), ["segment", "ad"])
    assert list(read) == ["ad", "click", "segment", "part"]
    assert read["part"].dtype == "string"
    lists = ProblemSpec(
        features=(categorical("tags", max_values=3),), tasks=(binary("ctr", label="click"),)
    )
    with pytest.raises(SpecError, match="the column is a list"):
        columns_to_read(lists, by_hash("tags"))
    taken = ProblemSpec(features=(numerical(FOLD),), tasks=(binary("ctr", label="click"),))
    with pytest.raises(SpecError, match="_fold"):
        columns_to_read(taken, by_row_number())


def test_without_a_split_requests_stay_together_where_there_are_any():
    assert default_split(problem(request_id="r", user_id="u")) == by_hash("r")
    assert default_split(problem(user_id="u")) == by_hash("u")
    assert default_split(problem()) == by_row_number()
