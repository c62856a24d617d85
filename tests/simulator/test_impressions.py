import dataclasses
import hashlib
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import open_table
from tfmtl.declare.features import Column
from tfmtl.metrics.auc import auc
from tfmtl.simulator import (
    FEED,
    Constants,
    Funnel,
    consolidated_log,
    cqs,
    draw_world,
    final_predictions,
    funnel_constants,
    impression_batches,
    impression_log,
    logging_policy,
    probabilities,
    true_logits,
    write_impression_log,
)
from tfmtl.simulator.__main__ import main
from tfmtl.simulator.noise import keyed_normal


@pytest.fixture(scope="module")
def world():
    return draw_world(3)


@pytest.fixture(scope="module")
def table(world):
    return impression_log(world, impressions=300_000, seed=5)


@pytest.fixture(scope="module")
def log(table):
    return table.drop(["interests"]).to_pandas()


def assert_drawn_from(labels, probability):
    error = np.sqrt((probability * (1 - probability)).sum()) / len(labels)
    assert abs(labels.mean() - probability.mean()) < 4 * error


@pytest.mark.parametrize("scene", ["feed", "search"])
def test_the_click_rate_of_each_scene_is_its_mean_true_probability(log, scene):
    rows = log[log.scene == scene]
    assert_drawn_from(rows.click, rows.true_ctr)


@pytest.mark.parametrize("column", ["position", "segment", "objective", "day"])
def test_clicks_agree_with_the_truth_in_every_slice(log, column):
    for _, rows in log.groupby(column):
        assert_drawn_from(rows.click, rows.true_ctr)


def test_true_ctr_is_calibrated_in_each_of_its_deciles(log):
    for _, rows in log.groupby(pd.qcut(log.true_ctr, 10)):
        assert_drawn_from(rows.click, rows.true_ctr)


def test_conversions_of_clicked_rows_follow_true_cvr(log):
    clicked = log[log.click == 1]
    assert_drawn_from(clicked.conversion, clicked.true_cvr)


def test_conversions_of_all_rows_follow_the_product_of_ctr_and_cvr(log):
    assert_drawn_from(log.conversion, log.true_ctcvr)
    np.testing.assert_allclose(log.true_ctcvr, log.true_ctr * log.true_cvr, rtol=1e-15)


def test_there_is_no_conversion_without_a_click(log):
    assert log.conversion.sum() > 1_000
    assert (log.conversion <= log.click).all()


def test_the_rates_are_those_a_demo_can_learn_from(log):
    rates = log.groupby("scene").click.mean()
    cvr = log[log.click == 1].groupby("scene").conversion.mean()
    assert 0.04 < rates.feed < 0.06 < rates.search < 0.09
    assert 0.08 < cvr.feed < cvr.search < 0.16


def test_rows_of_a_request_share_user_scene_and_day_and_differ_in_the_ad(log):
    requests = log.groupby("request_id")
    assert (requests[["user_id", "scene", "day"]].nunique() == 1).all(axis=None)
    assert not log.duplicated(["request_id", "ad_id"]).any()


def test_a_request_shows_four_to_ten_ads_in_positions_from_one(log):
    shown = log[log.request_id < log.request_id.max()].groupby("request_id").position
    assert shown.size().between(4, 10).all()
    assert (shown.min() == 1).all() and (shown.max() == shown.size()).all()
    assert (shown.nunique() == shown.size()).all()


def test_days_are_in_order_and_of_one_size(log):
    assert log.day.is_monotonic_increasing
    np.testing.assert_allclose(np.bincount(log.day), len(log) / 10, rtol=0.05)


def test_a_scene_shows_ads_of_its_pool_only(world, log):
    for index, name in enumerate(["feed", "search"]):
        shown = set(log[log.scene == name].ad_id)
        assert shown <= set(world.pool[index])
    assert set(world.pool[0]) != set(world.pool[1])


def test_older_users_come_to_the_search_more_often(log):
    age = log.drop_duplicates("request_id").groupby("scene").age.mean()
    assert age.search > age.feed + 3


def test_ads_that_match_an_interest_are_shown_more_often_than_by_chance(table, log):
    interests = np.asarray(table["interests"].combine_chunks().flatten()).reshape(-1, 3)
    matched = (interests == log.category.to_numpy()[:, None]).any(axis=1).mean()
    assert 0.6 < matched < 0.75


def test_the_second_position_gets_three_tenths_less_click_logit(world):
    first, second = (true_logits(world, 4, 9, position=k)["click"] for k in (1, 2))
    assert second - first == pytest.approx(-0.3)


def test_logits_are_the_written_sums_of_the_hidden_terms(world):
    user, ad, day = 11, 23, 6
    z, v = world.user_latent[user], world.ad_latent[ad]
    r = z @ v / np.sqrt(8)
    cb, g, e = world.clickbait[ad], world.skill[ad], world.creative[ad]
    expected = {
        "click": -4.3
        + 0.75 * r
        + 0.12 * cb
        + 0.3 * world.clicker[user]
        + 0.3 * world.appeal[day, ad]
        + 0.25 * np.tanh(z[0] * v[1]),
        "conversion": -2.6 + 0.5 * r - 0.4 * cb + 0.3 * g,
        "view_conversion": -6.0 + 0.55 * r - 0.3 * cb + 0.3 * g,
        "xout": -4.6 - 0.9 * r + 0.5 * cb + 0.4 * world.closer[user],
        "hide": -4.6 - 0.7 * r + 0.3 * cb + 0.8 * e,
        "report": -6.5 - 0.5 * r + 0.7 * cb,
        "survey": 0.8 * r - 0.8 * cb - 0.3 * e,
    }
    logits = true_logits(world, user, ad, day=day)
    assert {k: float(x) for k, x in logits.items()} == pytest.approx(expected)


def test_pairs_broadcast_and_a_pair_does_not_depend_on_its_neighbours(world):
    users, ads = np.array([[3], [8]]), np.array([[5, 6, 7], [7, 5, 5]])
    grid = true_logits(world, users, ads, scene=np.array([[0], [1]]), position=[1, 2, 3])
    assert grid["click"].shape == (2, 3)
    alone = true_logits(world, 8, 5, scene=1, position=3)
    assert all(grid[name][1, 2] == pytest.approx(float(alone[name])) for name in grid)


def test_only_the_asked_events_are_made(world):
    assert list(true_logits(world, 0, 0, events=["xout"])) == ["xout"]


def test_the_final_stage_errs_by_its_constant_and_the_same_way_when_asked_again(world):
    ads = np.arange(2_000)
    logits = true_logits(world, 1, ads, events=["click", "xout"])
    first = final_predictions(world, logits, request=7, ad=ads, seed=0)
    again = final_predictions(
        world, {k: x[::-1] for k, x in logits.items()}, request=7, ad=ads[::-1], seed=0
    )
    np.testing.assert_array_equal(first["click"], again["click"][::-1])
    error = {k: np.log(p / (1 - p)) - logits[k] for k, p in first.items()}
    assert np.std(error["click"]) == pytest.approx(0.15, rel=0.08)
    assert abs(np.corrcoef(error["click"], error["xout"])[0, 1]) < 0.1


def test_quality_is_linear_in_the_scalars_and_counts_a_survey_from_a_half(world):
    p = {"xout": 0.02, "hide": 0.01, "report": 0.002, "survey": 0.75}
    expected = -1.5 * (0.02 + 0.01 + 0.002) + 0.12 * 0.25
    assert float(cqs(world.constants, p)) == pytest.approx(expected)
    double = {k: 2 * x for k, x in world.constants.scalars.items()}
    doubled = dataclasses.replace(world.constants, scalars=double)
    assert float(cqs(doubled, p)) == pytest.approx(2 * expected)


def test_the_log_s_quality_is_the_true_one_with_the_final_stage_s_error(world, log):
    rows = log.iloc[:1000]
    args = rows.user_id.to_numpy(), rows.ad_id.to_numpy()
    logits = true_logits(world, *args, day=rows.day.to_numpy())
    np.testing.assert_allclose(rows.true_cqs, cqs(world.constants, probabilities(logits)))
    final = final_predictions(world, logits, request=rows.request_id, ad=args[1], seed=5)
    np.testing.assert_allclose(rows.final_cqs, cqs(world.constants, final), rtol=1e-5)
    assert 0.98 < np.corrcoef(log.final_cqs, log.true_cqs)[0, 1] < 0.999


def test_clickbait_wins_clicks_and_loses_quality(log, world):
    bait = world.clickbait[log.ad_id]
    assert np.corrcoef(bait, log.true_ctr)[0, 1] > 0.05
    assert np.corrcoef(bait, log.true_cqs)[0, 1] < -0.3


def test_keyed_noise_is_standard_normal_and_independent_between_neighbouring_keys():
    x = keyed_normal(0, 0, np.arange(1_000)[:, None], np.arange(1_000))
    assert abs(x.mean()) < 4 / 1_000 and x.std() == pytest.approx(1, abs=0.003)
    assert np.quantile(x, [0.025, 0.975]) == pytest.approx([-1.96, 1.96], abs=0.01)
    for shifted in (
        x[1:] * x[:-1],
        x[:, 1:] * x[:, :-1],
        x * keyed_normal(1, 0, *np.ix_(*[range(1_000)] * 2)),
    ):
        assert abs(shifted.mean()) < 4 / 1_000


def test_appeal_drifts_slowly_and_keeps_its_spread():
    appeal = draw_world(0, days=400).appeal
    assert np.diff(appeal, axis=0).std() == pytest.approx(0.1, rel=0.02)
    assert appeal[-1].std() == pytest.approx(1, abs=0.06)


def test_one_seed_gives_one_world_and_one_log(world, table):
    again = impression_log(draw_world(3), impressions=300_000, seed=5)
    assert again.equals(table)


def checksum(table):
    """Of numbers as float32, which forgives a last bit that another machine rounds otherwise."""
    digest = hashlib.sha256()
    for name in table.column_names:
        values = table[name].combine_chunks()
        digest.update(name.encode())
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            digest.update(values.to_numpy(zero_copy_only=False).astype(np.float32).tobytes())
        else:
            digest.update(repr(values.to_pylist()).encode())
    return digest.hexdigest()


def test_the_default_logs_are_those_that_published_numbers_were_measured_on():
    # Whoever changes these rows on purpose measures the published numbers again.
    log = impression_log(draw_world(0), impressions=3_000)
    assert checksum(log) == "f2e6fb85da8c4135f5429e7c8acb3d94abe56eb9d7ec841cbd4cbeda85e73e34"
    world = draw_world(1, constants=funnel_constants(2))
    early = consolidated_log(world, Funnel(), logging_policy(world), requests=600)
    assert checksum(early) == "0aecf9ca0df68a13665a7bbc84227146d01e045dacd68fbd29863048b77396c7"


def test_another_seed_gives_another_log_of_the_same_world(world, table):
    other = impression_log(world, impressions=1_000, seed=6)
    assert not other["ad_id"].slice(0, 1000).equals(table["ad_id"].slice(0, 1000))


def test_more_days_leave_the_world_as_it_was(world):
    longer = draw_world(3, days=60)
    np.testing.assert_array_equal(longer.appeal[:30], world.appeal)
    np.testing.assert_array_equal(longer.visits, world.visits)


def test_a_second_scene_leaves_users_and_ads_as_they_were(world):
    alone = draw_world(3, constants=Constants(scenes=(FEED,)))
    np.testing.assert_array_equal(alone.user_latent, world.user_latent)
    np.testing.assert_array_equal(alone.pool[0], world.pool[0])
    assert set(impression_log(alone, impressions=500)["scene"].to_pylist()) == {"feed"}


@pytest.mark.parametrize("batch_rows", [1, 997, 40_000, 10**6])
def test_rows_do_not_depend_on_the_size_of_batches(world, table, batch_rows):
    count = 500 if batch_rows == 1 else 90_000
    whole = impression_log(world, impressions=count, seed=5)
    batches = list(impression_batches(world, impressions=count, seed=5, batch_rows=batch_rows))
    assert [b.num_rows for b in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    assert pa.Table.from_batches(batches).combine_chunks().equals(whole)


def test_files_hold_the_rows_of_the_log_whatever_their_size(tmp_path):
    whole = impression_log(draw_world(2), impressions=20_000, seed=2)
    files = write_impression_log(
        str(tmp_path / "log"), impressions=20_000, seed=2, rows_per_file=7_000
    )
    assert [pq.read_metadata(f).num_rows for f in files] == [7_000, 7_000, 6_000]
    assert pa.concat_tables(map(pq.read_table, files)).combine_chunks().equals(whole)


def test_the_package_s_own_reader_reads_the_files(tmp_path):
    write_impression_log(str(tmp_path / "log"), impressions=1_000)
    columns = [
        Column(name="user_id", dtype="string"),
        Column(name="interests", dtype="string", max_values=3),
        Column(name="click", dtype="float32"),
    ]
    batches = list(open_table(str(tmp_path / "log"), {c.name: c for c in columns}))
    assert sum(b.num_rows for b in batches) == 1_000
    assert len(batches[0].column("interests")[0]) == 3


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        write_impression_log(str(tmp_path), impressions=10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"impressions": 0}, "at least 1"),
        ({"impressions": 5, "days": 31}, r"draw_world\(..., days=31\)"),
        ({"impressions": 5, "batch_rows": 0}, "at least 1"),
    ],
)
def test_impossible_sizes_are_refused_before_the_first_row(world, wrong, message):
    with pytest.raises(ValueError, match=message):
        impression_batches(world, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"users": 0}, "users=0"),
        ({"interests": 30}, "at most all"),
        ({"scenes": (FEED, FEED)}, "different names"),
        ({"objectives": {"click": 1.0}}, "same objectives"),
        ({"scalars": {"xuot": -1.0}}, "no event"),
    ],
)
def test_contradicting_constants_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Constants(**wrong)


def test_a_world_with_empty_categories_still_shows_ads():
    small = draw_world(0, constants=Constants(users=5, ads=6, categories=20))
    rows = impression_log(small, impressions=2_000).to_pandas()
    assert rows.groupby("request_id").size().max() <= 6


def test_the_command_writes_the_log_and_says_where(tmp_path, capsys):
    out = str(tmp_path / "log")
    assert main(["--out", out, "--impressions", "2500", "--seed", "4"]) == 0
    assert "2,500 impressions written to" in capsys.readouterr().out
    assert pq.read_table(out).equals(impression_log(draw_world(4), impressions=2_500, seed=4))
    assert main(["--out", out]) == 1
    assert "not empty" in capsys.readouterr().err


def test_the_truth_ranks_far_better_than_chance_and_not_perfectly(log):
    clicked = log[log.click == 1]
    assert 0.73 < auc(log.click, log.true_ctr) < 0.78
    assert 0.65 < auc(clicked.conversion, clicked.true_cvr) < 0.73
    assert 0.78 < auc(log.conversion, log.true_ctcvr) < 0.84


@pytest.mark.slow
def test_a_million_rows_take_less_than_ten_seconds_of_one_core(world):
    started = time.process_time()
    rows = sum(b.num_rows for b in impression_batches(world, impressions=1_000_000))
    assert rows == 1_000_000
    assert time.process_time() - started < 10
