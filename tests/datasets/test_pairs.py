"""UserBehavior's and IJCAI-15's readers: events to pairs, who is left out, and damaged files."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tfmtl.data.readers import open_table
from tfmtl.data.sources import Source, reader_of
from tfmtl.data.table import read_table
from tfmtl.datasets.problems import preparation
from tfmtl.errors import DataError
from tfmtl.simulator import write_ijcai15, write_user_behavior


def read(path, name, columns=None, **settings):
    source = Source(reader={"name": name, **settings})
    known = reader_of(source).columns()
    wanted = {name: known[name] for name in columns or known}
    return pa.Table.from_batches(open_table(str(path), wanted, source))


def fails(path, name, **settings):
    with pytest.raises(DataError) as error:
        read(path, name, **settings)
    return str(error.value)


EVENTS = """\
2,10,5,pv,1511600000
1,11,5,buy,1511600001
2,10,5,cart,1511700000
1,10,5,pv,1511600002
1,10,5,pv,1511600009
1,10,5,fav,1511600003
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "UserBehavior.csv"
    path.write_text(EVENTS)
    return path


def test_a_pair_has_the_labels_of_all_its_events_and_the_time_of_the_last(file):
    rows = read(file, "user_behavior", least_bought=0)
    assert rows.select(["pair", "click", "buy", "cart", "favourite", "time"]).to_pydict() == {
        "pair": ["1:10:5", "1:11:5", "2:10:5"],
        "click": [1, 0, 1],
        "buy": [0, 1, 0],
        "cart": [0, 0, 1],
        "favourite": [1, 0, 0],
        "time": [1511600009, 1511600001, 1511700000],
    }


def test_a_folder_means_the_file_in_it(file):
    assert len(read(file.parent, "user_behavior", least_bought=0)) == 3


def test_events_come_one_by_one_in_the_order_of_the_file_for_histories(file):
    rows = read(file, "user_behavior", rows="events")
    assert rows["behaviour"].to_pylist() == ["pv", "buy", "cart", "pv", "pv", "fav"]
    assert rows["time"].to_pylist()[:2] == [1511600000, 1511600001]
    assert rows["favourite"].to_pylist() == [0, 0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_user_behavior(str(folder / "ub"), rows=20_000, seed=4)
    write_ijcai15(str(folder / "ij"), rows=20_000, seed=4)
    return folder


def test_pairs_are_those_that_the_notebook_s_group_by_makes(simulated):
    names = ["user_id", "item_id", "category_id", "behaviour", "time"]
    log = pd.read_csv(simulated / "ub" / "UserBehavior.csv", header=None, names=names)
    grouped = log.groupby(names[:3])["behaviour"].agg(set).reset_index()
    grouped["buy"] = grouped.behaviour.map(lambda s: "buy" in s)
    bought = grouped[grouped.buy]
    # Both are counted once, on all pairs.
    users, items = (bought[side].value_counts() for side in ("user_id", "item_id"))
    stays = grouped.user_id.isin(users[users >= 10].index)
    stays &= grouped.item_id.isin(items[items >= 10].index)
    wanted = grouped[stays]
    rows = read(simulated / "ub", "user_behavior").to_pandas()
    assert 500 < len(rows) == len(wanted) < len(grouped)
    for name in names[:3]:
        assert rows[name].tolist() == wanted[name].astype(str).tolist()
    for label, behaviour in {"click": "pv", "cart": "cart", "favourite": "fav"}.items():
        seen = [behaviour in actions for actions in wanted.behaviour]
        assert (rows[label] == 1).tolist() == seen


def test_pairs_of_ijcai_are_those_that_the_notebook_makes(simulated):
    folder = simulated / "ij" / "data_format1"
    log = pd.read_csv(folder / "user_log_format1.csv").dropna()
    info = pd.read_csv(folder / "user_info_format1.csv")
    keys = ["user_id", "item_id", "cat_id", "seller_id", "brand_id"]
    grouped = log.groupby(keys)["action_type"].agg(set).reset_index()
    grouped = grouped.merge(info, on="user_id", how="left").dropna()
    grouped["purchase"] = grouped.action_type.map(lambda s: 2 in s)
    bought = grouped[grouped.purchase]
    users, items = (bought[side].value_counts() for side in ("user_id", "item_id"))
    stays = grouped.user_id.isin(users[users >= 10].index)
    stays &= grouped.item_id.isin(items[items >= 10].index)
    wanted = grouped[stays]
    rows = read(simulated / "ij", "ijcai15").to_pandas()
    assert 500 < len(rows) == len(wanted)
    assert rows.user_id.tolist() == wanted.user_id.astype(str).tolist()
    assert rows.age_range.astype(float).tolist() == wanted.age_range.tolist()
    assert (rows.purchase == 1).tolist() == wanted.purchase.tolist()
    assert (rows.favourite == 1).tolist() == [3 in s for s in wanted.action_type]


@pytest.mark.parametrize(("folder", "data_set"), [("ub", "user_behavior"), ("ij", "ijcai15")])
def test_the_papers_split_is_seven_one_two_and_the_one_by_time_looks_back_alone(
    simulated, folder, data_set
):
    prepared = preparation(data_set, "automtl")
    path = str(simulated / folder)
    random = read_table(path, prepared.problem, prepared.source, prepared.split)
    total = sum(map(len, random.values()))
    shares = [len(table) / total for table in random.values()]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    better = prepared.better["by_time"]
    by_time = read_table(path, prepared.problem, better.source, better.split)
    times = {
        name: np.array(t[prepared.problem.time].to_pylist(), float) for name, t in by_time.items()
    }
    assert times["train"].max() < times["validation"].min()
    assert times["validation"].max() < times["test"].min()
    assert (
        times["train"].max()
        >= np.array(random["test"][prepared.problem.time].to_pylist(), float).min()
    )


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lambda t: t.replace("1,11,5,", "1,11,"), 2, "has 4 values"),
        (lambda t: t.replace("1,11,5,", "1,x,5,"), 2, "'x'"),
        (lambda t: t.replace("buy", "bought"), 2, "'bought'"),
        (lambda t: t.replace("1,11,5,", ",11,5,"), 2, "'user_id' is empty"),
        (lambda t: t[:-7], 6, "cut off"),
        (lambda t: t[:-14], 6, "cut off"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_line(file, change, where, what):
    file.write_text(change(EVENTS))
    message = fails(file, "user_behavior", least_bought=0)
    assert f"UserBehavior.csv, line {where}" in message and what in message


def test_a_last_line_without_a_line_break_that_is_whole_is_read(file):
    file.write_text(EVENTS.rstrip("\n"))
    assert len(read(file, "user_behavior", least_bought=0)) == 3


def test_a_cut_off_line_is_left_out_where_this_is_asked_for_plain_or_packed(file):
    for end in (7, 14, 21):
        file.write_text(EVENTS[:-end])
        rows = read(file, "user_behavior", rows="events", last_line="drop")
        assert len(rows) == 5
        packed = file.parent / "packed.csv.gz"
        packed.write_bytes(gzip.compress(EVENTS[:-end].encode()))
        assert read(packed, "user_behavior", rows="events", last_line="drop").equals(rows)


def test_a_sample_in_which_nobody_bought_ten_says_so(file):
    message = fails(file, "user_behavior")
    assert "10 bought pairs" in message and "least_bought" in message


def test_a_truncated_archive_is_named_with_its_line(simulated, tmp_path):
    text = (simulated / "ub" / "UserBehavior.csv").read_bytes()
    packed = gzip.compress(text)
    path = tmp_path / "UserBehavior.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    assert "UserBehavior.csv.gz, line" in fails(path, "user_behavior")
    # Asked to leave out the last line, it still does not pass half a file for all of it.
    assert "UserBehavior.csv.gz" in fails(path, "user_behavior", last_line="drop")


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("user_log_format1.csv", lambda t: t.replace("action_type", "action"), "'action_type'"),
        ("user_log_format1.csv", lambda t: t[:-3], "line"),
        ("user_info_format1.csv", lambda t: t.replace(b"\n2,".decode(), "\n2,x,"), "line"),
    ],
)
def test_damaged_files_of_ijcai_are_named(simulated, tmp_path, name, change, what):
    for each in ("user_log_format1.csv", "user_info_format1.csv"):
        text = (simulated / "ij" / "data_format1" / each).read_text()
        (tmp_path / each).write_text(change(text) if each == name else text)
    message = fails(tmp_path, "ijcai15")
    assert name in message and what in message


def test_the_users_file_is_asked_for(simulated, tmp_path):
    text = (simulated / "ij" / "data_format1" / "user_log_format1.csv").read_text()
    (tmp_path / "user_log_format1.csv").write_text(text)
    assert "'user_info_format1.csv'" in fails(tmp_path, "ijcai15")
