"""Histories from a log: the last events of a row's user, strictly before it."""

import gzip
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from tfmtl import (
    Histories,
    ProblemSpec,
    Source,
    add_histories,
    binary,
    categorical,
    event,
    read_table,
    sequence,
)
from tfmtl.data.histories import HistoryBuilder, with_histories
from tfmtl.declare.columns import Column
from tfmtl.declare.split import whole
from tfmtl.errors import DataError, SpecError

MADE = Histories(
    user="user",
    time="at",
    columns={"clicked_ads": "ad", "clicked_times": "at"},
    event_if="click",
    length=3,
)


def log(rows=400, seed=0, users=7):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user": [f"u{u}" for u in rng.integers(0, users, rows)],
            "ad": [f"a{a}" for a in rng.integers(0, 30, rows)],
            "at": np.sort(rng.integers(0, rows // 2, rows)),
            "click": (rng.random(rows) < 0.5).astype(np.float32),
        }
    )


def by_hand(table, gap=0, length=3):
    """The histories, row by row."""
    events, result = defaultdict(list), []
    rows = table.to_pylist()
    for row in rows:
        before = [ad for at, ad in events[row["user"]] if at + gap < row["at"]]
        result.append(before[-length:] or None)
        if row["click"]:
            events[row["user"]].append((row["at"], row["ad"]))
    return result


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 400])
@pytest.mark.parametrize("gap", [0, 5])
def test_histories_equal_those_made_row_by_row_in_batches_of_any_size(batch_rows, gap):
    table = log()
    histories = Histories(**{**MADE.to_json(), "gap": gap})
    columns = {"clicked_ads": Column(name="clicked_ads", dtype="string", max_values=3, whole=True)}
    batches = with_histories(table.to_batches(batch_rows), histories, columns)
    made = [row for batch in batches for row in batch.column(0).to_pylist()]
    assert made == by_hand(table, gap)


def test_an_event_is_in_no_history_of_its_own_time():
    table = pa.table({"user": ["u"] * 3, "ad": list("xyz"), "at": [1, 1, 2], "click": [1.0] * 3})
    assert add_histories(table, MADE)["clicked_ads"].to_pylist() == [None, None, ["x", "y"]]


def test_what_is_kept_does_not_grow_with_the_log():
    builder = HistoryBuilder(MADE)
    kept = []
    for seed in range(40):
        table = log(seed=seed)
        at = pa.array(table["at"].to_numpy() + 1000 * seed)
        (batch,) = table.set_column(2, "at", at).combine_chunks().to_batches()
        builder.lists_of(batch)
        kept.append(sum(map(len, builder._runs)))
    # 7 users of 3 events, beside the runs of the last batches.
    assert max(kept[20:]) < 3 * 400


def test_a_row_before_an_earlier_one_of_its_user_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,ad,at,click\nu,x,5,1\nv,y,3,0\nu,z,4,1\n")
    with pytest.raises(DataError, match=r"'at' is 4 in file .*log.csv, line 4, before the time"):
        read_table(str(path), problem(), Source(histories=MADE), split=whole())


def problem():
    return ProblemSpec(
        features=(
            categorical("user", side="user"),
            categorical("ad", side="ad"),
            sequence(
                "clicked",
                events=(event("clicked_ads", of="ad"),),
                time="clicked_times",
                row_time="at",
                order="oldest_first",
                max_length=3,
            ),
        ),
        tasks=(binary("ctr", label="click"),),
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_a_plain_log_is_read_with_histories_that_its_files_do_not_have(tmp_path, compressed):
    table = log()
    text = "user,ad,at,click\n" + "\n".join(
        f"{r['user']},{r['ad']},{r['at']},{int(r['click'])}" for r in table.to_pylist()
    )
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    read = read_table(str(path), problem(), Source(histories=MADE), split=whole())["all"]
    assert read["clicked_ads"].to_pylist() == by_hand(table)


def test_a_source_with_histories_is_made_again_from_its_json():
    source = Source(histories=MADE)
    assert Source(**source.to_json()) == source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {}}, "makes no column"),
        ({"columns": {"ad": "ad"}}, "'ad' is a column of the log that is read too"),
        ({"length": 0}, "histories.length=0 must be"),
    ],
)
def test_a_contradiction_in_histories_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        Histories(**{**MADE.to_json(), **changes})


def test_a_column_that_the_log_does_not_have_is_named():
    with pytest.raises(DataError, match="no column 'at'.*its columns are"):
        add_histories(log().drop(["at"]), MADE)
