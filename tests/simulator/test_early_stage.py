import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import open_table
from tfmtl.declare.features import Column
from tfmtl.simulator import (
    Funnel,
    auction_value,
    consolidated_batches,
    consolidated_log,
    draw_world,
    early_columns,
    final_stage,
    funnel_constants,
    logging_policy,
    replay_batches,
    replay_log,
    retrieve,
    run_funnel,
    write_early_stage_logs,
)
from tfmtl.simulator.__main__ import main

FUNNEL = Funnel()
FINAL = ["final_pctr", "final_rate", "final_cqs", "final_tv"]
HAPPENED = ["click", "conversion", "view_conversion", "xout", "hide", "report", "survey_shown"]


@pytest.fixture(scope="module")
def world():
    return draw_world(3, days=11, constants=funnel_constants())


@pytest.fixture(scope="module")
def policy(world):
    return logging_policy(world, seed=5)


@pytest.fixture(scope="module")
def log(world, policy):
    return frame(consolidated_log(world, FUNNEL, policy, requests=6_000, seed=5))


@pytest.fixture(scope="module")
def replay(world):
    return frame(replay_log(world, FUNNEL, requests=300, first_request=6_000, seed=5, first_day=10))


def frame(table):
    return table.drop(["interests"]).to_pandas()


def test_row_types_say_where_a_candidate_left_the_funnel(log):
    expected = {
        "R1": (log.is_impression == 1) & (log.ctr_traffic == 1),
        "R2": (log.is_impression == 1) & (log.ctr_traffic == 0),
        "R3": (log.is_impression == 0) & (log.in_final == 1),
        "R4": log.in_final == 0,
    }
    for kind, rows in expected.items():
        assert rows.sum() > 1_000
        assert ((log.row_type == kind) == rows).all()
    assert (log.in_final[log.is_impression == 1] == 1).all()


def test_only_ads_that_pay_for_clicks_or_what_follows_them_are_ctr_traffic(log):
    paid = log.objective.isin(["click", "conversion"])
    assert ((log.ctr_traffic == 1) == paid).all()
    assert set(log.objective) == {"click", "conversion", "view_conversion"}


def test_an_ad_that_was_not_shown_has_no_labels_at_all(log):
    for name in ["position", *HAPPENED]:
        assert (log[name].isna() == (log.is_impression == 0)).all(), name


def test_an_impression_whose_quality_alone_counts_keeps_its_click(log):
    assert log[log.row_type == "R2"].click.sum() > 50


def test_a_rating_is_known_of_those_who_were_asked(log):
    assert (log.survey_rating.notna() == (log.survey_shown == 1)).all()
    assert set(log.survey_rating.dropna()) == {0, 1}


def test_rows_are_the_candidates_of_the_funnel_when_all_are_kept(world, policy):
    table = consolidated_log(
        world, FUNNEL, policy, requests=300, seed=5, days=3, keep_final=1, keep_early=1
    )
    candidates = retrieve(world, FUNNEL, requests=300, seed=5, day=np.repeat(np.arange(3), 100))
    early_value = policy(candidates)
    done = run_funnel(world, FUNNEL, candidates, early_value, seed=5)
    rows = frame(table)
    assert len(rows) == 300 * 150
    np.testing.assert_array_equal(rows.ad_id, candidates.ad.ravel())
    np.testing.assert_array_equal(rows.day, np.repeat(candidates.day, 150))
    in_final = rows.in_final.to_numpy().reshape(300, 150)
    assert (in_final.sum(axis=1) == 20).all()
    assert np.take_along_axis(in_final, done.passed, axis=1).all()
    shown = rows[rows.is_impression == 1]
    expected = np.nonzero(done.shown)
    slot = shown.sort_values(["request_id", "position"])
    np.testing.assert_array_equal(slot.position - 1, expected[1])
    np.testing.assert_array_equal(slot.ad_id, done.ad[expected])
    for name in HAPPENED:
        np.testing.assert_array_equal(slot[name], done.outcomes[name][expected])
    np.testing.assert_allclose(slot.true_ctr, done.true["click"][expected], rtol=1e-12)
    np.testing.assert_allclose(slot.true_cqs, done.worth.cqs[expected], rtol=1e-9)
    for name, value in zip(FINAL, ("ctr", "rate", "cqs", "total_value"), strict=True):
        logged = rows[name].to_numpy().reshape(300, 150)
        logged = np.take_along_axis(logged, done.passed, axis=1)
        np.testing.assert_array_equal(logged, getattr(done.final, value))


def test_the_other_candidates_are_sampled_at_their_rates(log):
    shown = (log.is_impression == 1).sum()
    for kind, candidates, rate in (
        ("R3", 6_000 * 20 - shown, 0.25),
        ("R4", 6_000 * 130, 0.06),
    ):
        error = np.sqrt(rate * (1 - rate) / candidates)
        assert abs((log.row_type == kind).sum() / candidates - rate) < 4 * error


def test_a_higher_rate_keeps_the_rows_of_a_lower_one(world, policy):
    few, many = (
        consolidated_log(
            world, FUNNEL, policy, requests=200, days=1, keep_final=final, keep_early=early
        )
        for final, early in ((0.1, 0.0), (0.5, 0.2))
    )
    keys = ["request_id", "ad_id"]
    merged = frame(few).merge(frame(many), on=keys, how="left", suffixes=("", "_many"))
    assert merged.row_type_many.eq(merged.row_type).all()
    assert "R4" not in set(frame(few).row_type) and "R4" in set(frame(many).row_type)


def test_clicks_follow_the_truth_in_both_kinds_of_impressions(log):
    for _, rows in log[log.is_impression == 1].groupby("row_type"):
        p = rows.true_ctr
        assert abs(rows.click.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(rows)


def test_impressions_are_better_than_what_was_not_shown(log):
    means = log.groupby("row_type").final_tv.mean()
    assert min(means.R1, means.R2) > 0.1 > max(means.R3, means.R4)
    # Selection bias: users like what they are shown.
    assert (
        log[log.row_type == "R1"].true_ctr.mean() > 1.3 * log[log.row_type == "R4"].true_ctr.mean()
    )


def test_total_value_made_from_the_columns_is_the_auction_s(world, log, replay):
    for rows in (log, replay):
        value = auction_value(world.constants)(
            pctr=rows.final_pctr,
            rate=rows.final_rate,
            cqs=rows.final_cqs,
            bid=rows.bid,
            objective=rows.objective.to_numpy().astype(str),
        )
        np.testing.assert_array_equal(value, rows.final_tv)


def test_log_and_replay_of_a_request_agree_to_the_bit(world, log):
    again = frame(replay_log(world, FUNNEL, requests=6_000, first_request=0, seed=5, days=10))
    columns = [*FINAL, "early_cvr", "bid", "day", "user_id", "objective"]
    merged = log.merge(again, on=["request_id", "ad_id"], how="left", suffixes=("", "_again"))
    assert len(merged) == len(log)
    for name in columns:
        assert (merged[name] == merged[name + "_again"]).all(), name


def test_a_replay_has_all_retrieved_ads_ranked_by_the_final_stage(world, replay):
    candidates = retrieve(world, FUNNEL, requests=300, first_request=6_000, seed=5, day=10)
    np.testing.assert_array_equal(replay.ad_id, candidates.ad.ravel())
    np.testing.assert_array_equal(replay.request_id, np.repeat(np.arange(6_000, 6_300), 150))
    np.testing.assert_array_equal(
        replay.final_tv, final_stage(world, candidates, seed=5).total_value.ravel()
    )
    for _, rows in replay.groupby("request_id"):
        best_first = rows.sort_values(["final_tv", "ad_id"], ascending=[False, True])
        np.testing.assert_array_equal(best_first.rank_final, np.arange(150))
        assert best_first.is_gold.tolist() == [1] * 20 + [0] * 130


def test_a_replay_is_of_other_requests_on_the_day_after(log, replay):
    assert not set(log.request_id) & set(replay.request_id)
    assert set(replay.day) == {10} and set(log.day) == set(range(10))
    assert log.day.is_monotonic_increasing


def test_no_row_depends_on_how_the_log_is_cut(world, policy):
    whole = consolidated_log(world, FUNNEL, policy, requests=2_500, seed=5, days=1)
    parts = [
        consolidated_log(world, FUNNEL, policy, requests=count, seed=5, days=1, first_request=first)
        for first, count in ((0, 700), (700, 1), (701, 1_799))
    ]
    assert pa.concat_tables(parts).combine_chunks().equals(whole)
    batches = consolidated_batches(
        world, FUNNEL, policy, requests=2_500, seed=5, days=1, batch_rows=997
    )
    sizes = [batch.num_rows for batch in batches]
    assert set(sizes[:-1]) == {997} and sum(sizes) == whole.num_rows


def test_no_row_depends_on_how_the_replay_is_cut(world):
    arguments = {"requests": 1_100, "first_request": 200}
    whole = replay_log(world, FUNNEL, **arguments)
    batches = list(replay_batches(world, FUNNEL, **arguments, batch_rows=10_000))
    assert pa.Table.from_batches(batches).combine_chunks().equals(whole)


def test_the_early_stage_sees_coarse_users_and_no_dense_feature_of_ads(world, log, replay):
    for rows in (log, replay):
        assert not [name for name in rows if name.startswith("ad_dense")]
        dense = rows[[f"user_dense_{i}" for i in range(8)]].to_numpy()
        np.testing.assert_array_equal(dense, np.rint(world.user_dense)[rows.user_id])
    assert not [name for name in replay if name.startswith("true_")]


def test_early_columns_are_those_of_the_replay(world, replay):
    candidates = retrieve(world, FUNNEL, requests=300, first_request=6_000, seed=5, day=10)
    row, column = np.indices(candidates.ad.shape).reshape(2, -1)
    columns = early_columns(world, candidates, row, column)
    assert set(columns) - {"interests"} == set(replay) - {*FINAL, "rank_final", "is_gold"}
    for name in ("scene", "category", "advertiser_id", "objective", "early_cvr", "age"):
        np.testing.assert_array_equal(np.asarray(columns[name]), replay[name])


def test_a_second_scene_is_logged_with_its_own_ads_and_rates():
    world = draw_world(1, constants=funnel_constants(2))
    log = frame(consolidated_log(world, FUNNEL, logging_policy(world), requests=3_000))
    shown = log[log.is_impression == 1]
    ctr = shown.groupby("scene").true_ctr.mean()
    assert ctr.search > 1.3 * ctr.feed
    assert set(log[log.scene == "search"].ad_id) <= set(world.pool[1])
    assert set(log.scene) == {"feed", "search"}


def test_files_hold_the_logs(tmp_path):
    path = str(tmp_path / "logs")
    log_files, replay_files = write_early_stage_logs(
        path, requests=1_500, replay_requests=90, seed=2, days=4, rows_per_file=6_000
    )
    world = draw_world(2, days=5, constants=funnel_constants())
    policy = logging_policy(world, seed=2)
    log = consolidated_log(world, FUNNEL, policy, requests=1_500, seed=2, days=4)
    replay = replay_log(world, FUNNEL, requests=90, first_request=1_500, seed=2, first_day=4)
    assert pa.concat_tables(map(pq.read_table, log_files)).combine_chunks().equals(log)
    assert pa.concat_tables(map(pq.read_table, replay_files)).combine_chunks().equals(replay)
    assert len(log_files) == -(-log.num_rows // 6_000) > 1 and len(replay_files) == 3
    assert {os.path.dirname(f) for f in log_files} == {os.path.join(path, "log")}


def test_the_package_s_own_reader_reads_nulls_as_nulls(tmp_path):
    write_early_stage_logs(str(tmp_path), requests=300, replay_requests=10)
    columns = [
        Column(name="ad_id", dtype="string"),
        Column(name="interests", dtype="string", max_values=3),
        Column(name="click", dtype="float32"),
        Column(name="final_pctr", dtype="float32"),
        Column(name="row_type", dtype="string"),
    ]
    batches = open_table(str(tmp_path / "log"), {c.name: c for c in columns})
    rows = pa.Table.from_batches(list(batches)).to_pandas()
    assert (rows.click.isna() == rows.row_type.isin(["R3", "R4"])).all()
    assert rows.final_pctr.between(0, 1).all()


def test_the_command_writes_log_and_replay(tmp_path, capsys):
    out = str(tmp_path / "logs")
    flags = ["--kind", "early_stage", "--out", out, "--requests", "400", "--seed", "4"]
    assert main([*flags, "--replay-requests", "30", "--keep-early", "0", "--scenes", "2"]) == 0
    assert "400 requests written to" in capsys.readouterr().out
    log, replay = (frame(pq.read_table(os.path.join(out, name))) for name in ("log", "replay"))
    assert log.request_id.nunique() == 400 and set(log.scene) == {"feed", "search"}
    assert len(replay) == 30 * 150 and set(replay.request_id) == set(range(400, 430))
    assert set(log.row_type) == {"R1", "R2", "R3"}
    assert main(flags) == 1
    assert "not empty" in capsys.readouterr().err


def test_a_flag_of_the_other_kind_is_refused(tmp_path, capsys):
    for flags in (["--kind", "early_stage", "--impressions", "5"], ["--requests", "5"]):
        with pytest.raises(SystemExit):
            main(["--out", str(tmp_path / "logs"), *flags])
        assert "belongs to --kind" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"requests": 0}, "requests=0"),
        ({"requests": 5, "days": 12}, r"draw_world\(..., days=12\)"),
        ({"requests": 5, "first_day": 5}, r"draw_world\(..., days=15\)"),
        ({"requests": 5, "keep_final": 1.5}, "keep_final=1.5"),
        ({"requests": 5, "batch_rows": 0}, "batch_rows=0"),
    ],
)
def test_impossible_logs_are_refused_before_the_first_row(world, policy, wrong, message):
    with pytest.raises(ValueError, match=message):
        consolidated_batches(world, FUNNEL, policy, **wrong)


def test_nothing_is_written_of_an_impossible_log(tmp_path):
    with pytest.raises(ValueError, match="scenes=3"):
        write_early_stage_logs(str(tmp_path / "logs"), scenes=3)
    with pytest.raises(ValueError, match="requests=0"):
        write_early_stage_logs(str(tmp_path / "logs"), replay_requests=0)
    assert not os.listdir(tmp_path)
