"""The replay log, its rules for bad logs, joined scores, and the command."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.errors import DataError
from tfmtl.replay.__main__ import main
from tfmtl.replay.log import ReplayLog, positions
from tfmtl.replay.recall import recall_at, tvd
from tfmtl.replay.scores import join_scores


def rows(**changed):
    columns = {
        "request_id": ["a", "a", "a", "b", "b"],
        "ad_id": [1, 2, 3, 1, 3],
        "final_tv": [0.1, 0.4, 0.3, 0.2, -0.1],
        "scene": ["feed", "feed", "feed", "search", "search"],
    }
    return columns | changed


def test_a_log_is_the_same_from_arrow_from_pandas_and_from_arrays():
    early = [0.5, 0.1, 0.4, 0.2, 0.3]
    tables = [pa.table(rows()), pd.DataFrame(rows()), rows()]
    dictionary = pa.table(rows()).set_column(
        0, "request_id", pa.array(rows()["request_id"]).dictionary_encode()
    )
    softs = [
        recall_at(ReplayLog.from_table(table), early, [1, 2]).soft
        for table in [*tables, dictionary]
    ]
    for soft in softs:
        np.testing.assert_array_equal(soft, [[0.25, 0.4 / 0.7], [0.0, 1.0]])


def test_positions_rank_by_falling_value_and_equal_values_by_rising_ad():
    codes = [1, 0, 1, 0, 1, 0]
    value = [2.0, 5.0, 3.0, 5.0, 3.0, 7.0]
    assert positions(codes, value, [9, 4, 8, 3, 7, 5]).tolist() == [2, 2, 1, 1, 0, 0]
    text = positions(codes, value, ["i", "d", "h", "c", "g", "e"])
    assert text.tolist() == [2, 2, 1, 1, 0, 0]


def test_zero_and_negative_zero_are_equal():
    assert positions([0, 0], [-0.0, 0.0], [1, 2]).tolist() == [0, 1]
    assert positions([0, 0], [0.0, -0.0], [1, 2]).tolist() == [0, 1]


def test_ads_with_numbers_tie_as_numbers():
    log = ReplayLog(request=[0, 0], ad=[10, 9], final_value=[1.0, 1.0])
    assert recall_at(log, [1.0, 1.0], 1).hard.item() == 1.0
    assert log.order[log.final_place == 0].item() == 1


def test_positions_refuse_nan():
    with pytest.raises(DataError, match="1 of 2 values to rank by are NaN, first in row 2"):
        positions([0, 0], [1.0, np.nan], [1, 2])


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_final_value_names_column_count_row_and_request(missing):
    table = pa.table(rows(final_tv=[0.1, missing, 0.3, missing, 1.0]))
    with pytest.raises(
        DataError, match=r"'final_tv' .* missing in 2 of 5 rows, first in row 2 \(request 'a', ad 2"
    ):
        ReplayLog.from_table(table)


def test_a_missing_quality_score_names_its_column():
    table = rows(quality=[0.1, 0.2, 0.3, 0.4, np.nan])
    with pytest.raises(DataError, match=r"'quality' .* 1 of 5 rows, first in row 5 \(request 'b'"):
        ReplayLog.from_table(table, final_cqs="quality")


def test_an_infinite_final_value_is_refused():
    with pytest.raises(DataError, match=r"'final_tv' .* infinite in 1 of 5 rows, first in row 4"):
        ReplayLog.from_table(rows(final_tv=[0.1, 0.2, 0.3, np.inf, 1.0]))


def test_text_where_numbers_belong_is_refused():
    with pytest.raises(DataError, match="'final_tv' does not hold numbers"):
        ReplayLog.from_table(rows(final_tv=["0.1", "high", "1", "1", "1"]))


def test_an_ad_twice_in_a_request_names_both_rows():
    with pytest.raises(DataError, match=r"request 'a' holds ad 1 twice, in rows 1 and 3 .* \(1 "):
        ReplayLog.from_table(rows(ad_id=[1, 2, 1, 1, 3]))


def test_an_ad_in_two_requests_is_fine():
    assert len(ReplayLog.from_table(rows(ad_id=[1, 2, 3, 1, 2]))) == 5


def test_a_missing_column_hints_at_the_nearest():
    with pytest.raises(DataError, match="no column 'final_tb'.* Did you mean 'final_tv'"):
        ReplayLog.from_table(rows(), final_value="final_tb")
    with pytest.raises(DataError, match="no column 'scne'.* Did you mean 'scene'"):
        ReplayLog.from_table(rows(), slices=["scne"])


def test_a_missing_id_names_its_column_and_row():
    with pytest.raises(DataError, match="'request_id' is missing in 1 of 5 rows, first in row 3"):
        ReplayLog.from_table(pa.table(rows(request_id=["a", "a", None, "b", "b"])))
    with pytest.raises(DataError, match="'ad_id' is missing in 1 of 5 rows, first in row 2"):
        ReplayLog.from_table(pa.table(rows(ad_id=[1, None, 3, 1, 3])))


def test_an_empty_log_and_uneven_columns_are_refused():
    with pytest.raises(DataError, match="holds no rows"):
        ReplayLog(request=[], ad=[], final_value=[])
    with pytest.raises(DataError, match="one value a row"):
        ReplayLog(request=[1, 1], ad=[1, 2], final_value=[1.0])


def test_a_slice_column_that_varies_inside_a_request_is_refused():
    # Adjacent rows of one request agree here; its rows do not.
    table = rows(
        request_id=["a", "b", "a", "b", "a"], ad_id=[1, 1, 2, 2, 3], scene=["x", "y", "x", "y", "z"]
    )
    with pytest.raises(DataError, match="'scene' varies inside request 'a': it is 'x' and 'z'"):
        ReplayLog.from_table(table, slices=["scene"])


def test_a_request_without_a_slice_value_is_a_slice_of_its_own():
    table = pa.table(rows(scene=[None, None, None, "search", "search"]))
    log = ReplayLog.from_table(table, slices=["scene"])
    assert log.slice_values("scene").tolist() == ["(missing)", "search"]


def test_early_values_of_another_length_or_with_nan_are_refused():
    log = ReplayLog.from_table(rows())
    with pytest.raises(DataError, match=r"one value a row of the log, \(5,\); got \(4,\)"):
        recall_at(log, np.zeros(4), 1)
    missing = r"early_value is missing in 1 of 5 rows, first in row 4 \(request 'b', ad 1\)"
    with pytest.raises(DataError, match=missing):
        recall_at(log, [0, 0, 0, np.nan, 0], 1)


def test_scores_join_by_request_and_ad_in_any_order_and_further_ones_are_counted():
    log = ReplayLog.from_table(rows())
    scores = {
        "request_id": ["b", "a", "c", "a", "b", "a"],
        "ad_id": [3, 3, 3, 1, 1, 2],
        "early_tv": [33, 13, 0, 11, 31, 12],
    }
    joined = join_scores(log, scores)
    assert joined.early_value.tolist() == [11, 12, 13, 31, 33]
    assert (joined.early_cqs, joined.unused) == (None, 1)


def test_ids_that_are_numbers_here_and_text_there_join():
    log = ReplayLog(request=[7, 7], ad=[10, 9], final_value=[1.0, 2.0])
    scores = {"request_id": ["7", "7"], "ad_id": ["9", "10"], "early_tv": [0.9, 0.1]}
    assert join_scores(log, scores).early_value.tolist() == [0.1, 0.9]


def test_a_pair_without_a_score_is_named():
    log = ReplayLog.from_table(rows())
    scores = {"request_id": ["a", "a", "b"], "ad_id": [1, 3, 3], "early_tv": [1, 2, 3]}
    with pytest.raises(DataError, match="2 of 5 rows .* the first is request 'a', ad 2"):
        join_scores(log, scores)


def test_a_pair_with_two_scores_is_named():
    log = ReplayLog.from_table(rows())
    scores = {
        "request_id": ["a", "a", "a", "b", "b", "b"],
        "ad_id": [1, 2, 3, 3, 1, 3],
        "early_tv": [1, 2, 3, 4, 5, 6],
    }
    with pytest.raises(DataError, match="request 'b', ad 3 twice, in rows 4 and 6"):
        join_scores(log, scores)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(3)
    sizes = rng.integers(8, 30, 60)
    request = np.repeat(np.arange(60), sizes)
    log = pd.DataFrame(
        {
            "request_id": request,
            "ad_id": np.concatenate([rng.permutation(100)[:size] for size in sizes]),
            "final_tv": rng.normal(size=len(request)),
            "scene": np.where(request % 2, "feed", "search"),
        }
    ).sample(frac=1, random_state=1)
    log.to_parquet(tmp_path / "log.parquet")
    early = log.assign(early_tv=log.final_tv + rng.normal(size=len(log)))
    early = early[["request_id", "ad_id", "early_tv"]].sample(frac=1, random_state=2)
    early.to_csv(tmp_path / "noisy.csv", index=False)
    pq.write_table(
        pa.table(log.assign(early_tv=2 * log.final_tv)[["request_id", "ad_id", "early_tv"]]),
        tmp_path / "oracle.parquet",
    )
    return tmp_path, log, early


def test_the_command_measures_what_the_functions_do(files, capsys):
    path, log, early = files
    status = main(
        ["--log", str(path / "log.parquet"), "--scores", str(path / "noisy.csv")]
        + [f"twice={path / 'oracle.parquet'}", "--k", "3", "8", "--slice", "scene", "--json"]
        + ["--plot", str(path / "recall.png"), "--samples", "50"]
    )
    said = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (path / "recall.png").read_bytes().startswith(b"\x89PNG")
    overall = said["arms"]["twice"]["slices"][0]["metrics"]
    assert overall["soft_recall@3"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert overall["tvd@8"]["value"] == pytest.approx(1.0, rel=1e-12)
    joined = log.merge(early, on=["request_id", "ad_id"])
    replay = ReplayLog.from_table(joined)
    noisy = said["arms"]["noisy"]["slices"][0]["metrics"]
    soft = recall_at(replay, joined.early_tv, [3, 8]).values()["soft_recall"]
    assert [noisy["soft_recall@3"]["value"], noisy["soft_recall@8"]["value"]] == pytest.approx(soft)
    assert noisy["tvd@3"]["value"] == pytest.approx(tvd(replay, joined.early_tv, 3))
    gain = said["differences"]["twice"]["soft_recall@3"]["difference"]
    assert gain["value"] == pytest.approx(1 - soft[0]) and gain["low"] > 0


def test_the_command_prints_a_line_for_each_slice_and_k(files, capsys):
    path, _, _ = files
    arguments = ["--log", str(path / "log.parquet"), "--scores", str(path / "noisy.csv")]
    assert main([*arguments, "--k", "3", "8", "--slice", "scene", "--samples", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [" ".join(line.split()[:2]) for line in lines[2:]]
    assert starts == [f"{s} {k}" for s in ("overall", "scene=feed", "scene=search") for k in (3, 8)]


def test_the_command_says_what_is_wrong(files, capsys):
    path, _, early = files
    early.iloc[1:].to_csv(path / "short.csv", index=False)
    arguments = ["--log", str(path / "log.parquet"), "--scores", str(path / "short.csv")]
    assert main([*arguments, "--k", "3"]) == 1
    error = capsys.readouterr().err
    first = early.iloc[0]
    assert "short.csv: the table of scores has none for 1 of" in error
    assert f"request {int(first.request_id)}, ad {int(first.ad_id)}" in error
    assert main([*arguments, "--k", "3", "--early", "early_tb"]) == 1
    error = capsys.readouterr().err
    assert "short.csv has no column 'early_tb'" in error and "Did you mean 'early_tv'?" in error
    assert main([*arguments, "--k", "3", "--final", "final"]) == 1
    assert "log.parquet has no column 'final'" in capsys.readouterr().err
    assert main([*arguments, "--cqs-std", "1"]) == 1
    assert "--final-cqs, --early-cqs and --cqs-std go together" in capsys.readouterr().err
