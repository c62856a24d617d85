"""Recall and divergence against hand-computed cases, a plain loop, and what must hold."""

import json
import time

import numpy as np
import pytest

from tfmtl.errors import DataError
from tfmtl.replay.curve import draw
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import checked_ks, cqs_error, divergence_at, rank, recall_at, tvd
from tfmtl.replay.report import Consistency, compare, consistency_report, format_consistency


def random_log(seed, *, requests=40, least=1, most=30, rounded=True):
    """Requests of varying size, with many equal values and some negative ones."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(least, most + 1, requests)
    sizes[0] = most
    request = np.repeat(np.arange(requests), sizes)
    ad = np.concatenate([rng.permutation(3 * most)[:size] for size in sizes])
    final, early = rng.normal(0.5, 1, len(request)), rng.normal(0, 1, len(request))
    early = 0.7 * final + early
    if rounded:
        final, early = np.round(final), np.round(early)
    shuffled = rng.permutation(len(request))
    request, ad, final, early = (x[shuffled] for x in (request, ad, final, early))
    log = ReplayLog(request=request, ad=ad, final_value=final, final_cqs=final / 3 + 1)
    return log, early


def by_loop(log, early, k):
    """Hard recall, soft recall, regret and divergence of each request, as the paper says them."""
    found = []
    for request in sorted(set(log.request.tolist())):
        rows = [i for i in range(len(log)) if log.request[i] == request]
        depth = min(k, len(rows))
        picked = sorted(rows, key=lambda i: (-early[i], log.ad[i]))[:depth]
        golden = sorted(rows, key=lambda i: (-log.final_value[i], log.ad[i]))[:depth]
        got = sum(max(log.final_value[i], 0) for i in picked)
        best = sum(max(log.final_value[i], 0) for i in golden)
        found.append(
            (
                len(set(picked) & set(golden)) / depth,
                got / best if best > 0 else np.nan,
                best - got,
                sum(abs(log.final_value[i] - early[i]) for i in picked),
                sum(abs(log.final_value[i]) for i in picked),
            )
        )
    return np.array(found).T


def four_ads():
    # Request 1: ads 1 and 3 tie at 3, of which the smaller is golden at K=1.
    # Request 2: one positive value, two negative ones.
    return ReplayLog(
        request=[1, 2, 1, 2, 1, 2, 1, 2],
        ad=[3, 1, 1, 2, 2, 3, 4, 4],
        final_value=[3.0, -1.0, 3.0, 2.0, 1.0, 0.5, 2.0, -4.0],
    )


def test_two_requests_of_four_ads_by_hand():
    # Early order of request 1: ads 3, then 2 and 4 tied; of request 2: ads 1, 3, 2, 4.
    recall = recall_at(four_ads(), [9, 8, 0, 2, 5, 3, 5, 1], [1, 2, 3])
    # Golden sets: {1}, {1, 3}, {1, 3, 4} and {2}, {2, 3}, {2, 3, 1}.
    np.testing.assert_array_equal(recall.overlap, [[0, 1, 2], [0, 1, 3]])
    np.testing.assert_allclose(recall.hard, [[0, 1 / 2, 2 / 3], [0, 1 / 2, 1]])
    np.testing.assert_array_equal(recall.picked, [[3, 4, 6], [0, 0.5, 2.5]])
    np.testing.assert_array_equal(recall.golden, [[3, 6, 8], [2, 2.5, 2.5]])
    np.testing.assert_allclose(recall.soft, [[1, 2 / 3, 3 / 4], [0, 0.2, 1]])
    np.testing.assert_array_equal(recall.regret, [[0, 2, 2], [2, 2, 0]])
    values = recall.values()
    np.testing.assert_allclose(values["soft_recall"], [0.5, 13 / 30, 0.875])
    np.testing.assert_allclose(values["soft_recall_micro"], [3 / 5, 4.5 / 8.5, 8.5 / 10.5])


def test_divergence_by_hand_is_over_the_early_stage_s_own_candidates():
    early = [9, 8, 0, 2, 5, 3, 5, 1]
    # K=1 picks ad 3 of request 1 (3 for 9) and ad 1 of request 2 (-1 for 8).
    assert tvd(four_ads(), early, 1) == (6 + 9) / (3 + 1)
    # K=2 adds ad 2 (1 for 5) and ad 3 (0.5 for 3).
    assert tvd(four_ads(), early, 2) == (6 + 4 + 9 + 2.5) / (3 + 1 + 1 + 0.5)


@pytest.mark.parametrize("seed", range(6))
def test_a_plain_loop_agrees_on_random_logs(seed):
    log, early = random_log(seed, requests=25, most=15)
    for k in (1, 2, 5, 15):
        hard, soft, regret, apart, total = by_loop(log, early, k)
        recall = recall_at(log, early, k)
        np.testing.assert_allclose(recall.hard[:, 0], hard, rtol=1e-12)
        np.testing.assert_allclose(recall.soft[:, 0], soft, rtol=1e-12)
        np.testing.assert_allclose(recall.regret[:, 0], regret, rtol=1e-12, atol=1e-12)
        assert recall.skipped[0] == np.isnan(soft).sum()
        divergence = divergence_at(log, early, k)
        np.testing.assert_allclose(divergence.numerator[:, 0], apart, rtol=1e-12)
        assert tvd(log, early, k) == pytest.approx(apart.sum() / total.sum(), rel=1e-12)


@pytest.mark.parametrize("rounded", [True, False])
def test_the_final_value_itself_has_recall_exactly_1_and_divergence_0(rounded):
    log, _ = random_log(1, rounded=rounded)
    recall = recall_at(log, log.final_value, [1, 3, 10, 30])
    for name in ("soft_recall", "hard_recall", "soft_recall_micro", "hard_recall_micro"):
        assert (recall.values()[name] == 1.0).all()
    assert (recall.regret == 0).all()
    assert tvd(log, log.final_value, 10) == 0.0


@pytest.mark.parametrize("rising", [np.exp, lambda v: 2 * v, lambda v: v**3 - 1, np.arctan])
def test_a_rising_transform_of_the_final_value_keeps_recall_and_not_divergence(rising):
    log, _ = random_log(2)
    early = rising(log.final_value)
    recall = recall_at(log, early, [1, 5, 20])
    assert (recall.hard == 1).all() and (recall.regret == 0).all()
    assert tvd(log, early, 5) > 0.1


def test_twice_the_final_value_has_divergence_1():
    log, _ = random_log(3)
    assert tvd(log, 2 * np.asarray(log.final_value), 5) == 1.0


def test_the_golden_set_in_another_order_has_recall_exactly_1():
    # In another order the same ads' values add up to another float.
    values = np.array([0.1, 0.2, 0.3, 0.7, 1e-9, -1.0])
    log = ReplayLog(request=[0] * 6, ad=np.arange(6), final_value=values)
    recall = recall_at(log, [5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5])
    assert recall.soft[0, 3:].tolist() == [1.0, 1.0]
    assert (recall.soft <= 1).all()


def test_random_scores_have_hard_recall_of_k_over_n():
    n, k, requests = 50, 10, 3000
    rng = np.random.default_rng(0)
    final, early = rng.normal(size=(2, requests * n))
    request, ad = np.repeat(np.arange(requests), n), np.tile(np.arange(n), requests)
    log = ReplayLog(request=request, ad=ad, final_value=final)
    hard = recall_at(log, early, k).hard
    assert abs(hard.mean() - k / n) < 4 * hard.std() / np.sqrt(requests)
    # The spread is that of a hypergeometric draw.
    expected = np.sqrt(k * (k / n) * (1 - k / n) * (n - k) / (n - 1)) / k
    assert hard.std() == pytest.approx(expected, rel=0.05)


def test_constant_scores_pick_the_smallest_ads():
    log, _ = random_log(4)
    constant = recall_at(log, np.zeros(len(log)), [3, 9])
    by_ad = recall_at(log, -np.asarray(log.ad, float), [3, 9])
    np.testing.assert_array_equal(constant.overlap, by_ad.overlap)
    np.testing.assert_array_equal(constant.picked, by_ad.picked)


def test_recall_lies_between_0_and_1_and_soft_is_no_less_than_the_worst_pick():
    for seed in range(5):
        log, early = random_log(seed, rounded=False)
        ks = [1, 4, 12, 30]
        recall = recall_at(log, early, ks)
        worst = recall_at(log, -np.asarray(log.final_value), ks)
        for values in (recall.hard, recall.soft):
            assert np.nanmin(values) >= 0 and np.nanmax(values) <= 1
        counted = recall.golden > 0
        assert (recall.soft[counted] >= worst.soft[counted] - 1e-12).all()


def test_neither_the_order_of_rows_nor_that_of_requests_matters():
    log, early = random_log(5, rounded=False)
    turned = np.random.default_rng(9).permutation(len(log))
    # Renaming the requests turns their order; the results follow their requests.
    other = ReplayLog(
        request=-log.request[turned], ad=log.ad[turned], final_value=log.final_value[turned]
    )
    first, second = recall_at(log, early, [2, 7]), recall_at(other, early[turned], [2, 7])
    np.testing.assert_array_equal(first.requests, -second.requests[::-1])
    np.testing.assert_array_equal(first.hard, second.hard[::-1])
    np.testing.assert_array_equal(first.soft, second.soft[::-1])
    assert tvd(log, early, 7) == pytest.approx(tvd(other, early[turned], 7), rel=1e-14)


def test_a_sweep_equals_one_k_at_a_time_in_any_order():
    log, early = random_log(6, rounded=False)
    ks = [20, 1, 5, 5, 11]
    sweep = recall_at(log, early, ks)
    assert sweep.ks == (1, 5, 11, 20)
    for i, k in enumerate(sweep.ks):
        one = recall_at(log, early, k)
        np.testing.assert_array_equal(sweep.hard[:, i], one.hard[:, 0])
        np.testing.assert_allclose(sweep.soft[:, i], one.soft[:, 0], rtol=1e-13)
        assert divergence_at(log, early, ks).value[i] == pytest.approx(tvd(log, early, k))


def test_requests_with_k_ads_or_fewer_pass_whole_and_are_counted():
    log = ReplayLog(request=[0] * 2 + [1] * 3 + [2] * 4, ad=range(9), final_value=range(1, 10))
    recall = recall_at(log, -np.arange(9.0), 3)
    np.testing.assert_array_equal(recall.depth[:, 0], [2, 3, 3])
    assert recall.hard[:, 0].tolist() == [1, 1, 2 / 3]
    assert recall.whole.tolist() == [2]
    assert recall.values()["hard_recall_micro"].item() == 7 / 8


def test_a_k_above_every_request_is_refused():
    log = ReplayLog(request=[0, 0, 1], ad=[1, 2, 3], final_value=[1, 2, 3])
    assert checked_ks(log, 2) == (2,)
    with pytest.raises(DataError, match="K=3, but all 2 requests .* fewer ads, 2 at most"):
        recall_at(log, [1, 2, 3], [1, 3])
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="integer of at least 1"):
            recall_at(log, [1, 2, 3], wrong)


def test_a_request_whose_golden_set_is_worth_nothing_is_skipped_and_counted():
    log = ReplayLog(request=[0, 0, 1, 1, 2, 2], ad=[1, 2] * 3, final_value=[-1, -2, 4, 1, 0, -3])
    recall = recall_at(log, [1, 2] * 3, 1)
    assert recall.skipped.tolist() == [2]
    np.testing.assert_array_equal(recall.soft[:, 0], [np.nan, 0.25, np.nan])
    assert recall.values()["soft_recall"].item() == 0.25
    # Which ads were picked still counts.
    assert recall.values()["hard_recall"].item() == 0.0


def test_what_has_no_positive_value_anywhere_is_nan_and_says_so(caplog):
    log = ReplayLog(request=[0, 0, 1], ad=[1, 2, 1], final_value=[0, 0, 0])
    with caplog.at_level("WARNING", logger="absl"):
        assert np.isnan(recall_at(log, [1, 2, 3], 1).values()["soft_recall"].item())
        assert np.isnan(tvd(log, [1, 2, 3], 1))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "soft recall at 1 is nan",
        "tvd at 1 is nan",
    ]


def test_a_negative_value_lowers_neither_picked_nor_golden():
    log = ReplayLog(request=[0] * 3, ad=[1, 2, 3], final_value=[4.0, -100.0, -1.0])
    recall = recall_at(log, [2, 3, 1], 2)
    assert (recall.picked.item(), recall.golden.item(), recall.hard.item()) == (4.0, 4.0, 0.5)


def test_scores_of_minus_infinity_rank_last_but_have_no_divergence():
    log = ReplayLog(request=[0] * 3, ad=[1, 2, 3], final_value=[4.0, 2.0, 1.0])
    early = [4.0, -np.inf, 1.0]
    assert recall_at(log, early, 2).hard.item() == 0.5
    assert tvd(log, early, 2) == 0.0
    with pytest.raises(DataError, match="early value of 1 ads .* infinite"):
        tvd(log, early, 3)


def test_the_quality_error_is_of_candidates_in_training_deviations():
    log = ReplayLog(
        request=[0, 0, 0], ad=[1, 2, 3], final_value=[3, 2, 1], final_cqs=[0.1, 0.2, 0.3]
    )
    error = cqs_error(log, [1, 3, 2], [9.0, 0.4, 0.2], 2, std=0.1)
    assert error == pytest.approx((0.2**2 + 0.1**2) / 2 / 0.1**2)
    with pytest.raises(ValueError, match="std=0"):
        cqs_error(log, [1, 3, 2], [0, 0, 0], 2, std=0)
    with pytest.raises(DataError, match="no final_cqs"):
        cqs_error(four_ads(), np.zeros(8), np.zeros(8), 2, std=1.0)


def sliced_log():
    log, early = random_log(7, requests=90)
    scene = np.where(np.asarray(log.request) % 3 == 0, "feed", "search")
    return (
        ReplayLog(
            request=log.request,
            ad=log.ad,
            final_value=log.final_value,
            final_cqs=log.final_cqs,
            slices={"scene": scene, "age": np.asarray(log.request) % 2},
        ),
        early,
    )


def test_a_slice_is_what_its_requests_alone_would_give():
    log, early = sliced_log()
    report = consistency_report(log, early, [3, 10], slices=["scene", ("scene", "age")], samples=50)
    assert len(report.slices) == 1 + 2 + 4
    chosen = (log.slices["scene"] == "feed") & (log.slices["age"] == 1)
    alone = ReplayLog(
        request=log.request[chosen], ad=log.ad[chosen], final_value=log.final_value[chosen]
    )
    part = report.slices[(("scene", "feed"), ("age", 1))]
    expected = consistency_report(alone, early[chosen], [3, 10], samples=50).overall
    assert (part.requests, part.rows) == (expected.requests, expected.rows)
    assert (part.whole, part.skipped) == (expected.whole, expected.skipped)
    assert part.metrics == expected.metrics


def test_a_slice_without_a_request_of_k_ads_has_no_recall():
    log = ReplayLog(
        request=[0] * 4 + [1] * 2 + [2] * 2,
        ad=range(8),
        final_value=range(1, 9),
        slices={"scene": ["feed"] * 4 + ["search"] * 4},
    )
    report = consistency_report(log, np.arange(8.0), 3, samples=20)
    search = report.slices[(("scene", "search"),)]
    assert search.whole == {3: 2}
    assert np.isnan(search.metrics["hard_recall@3"].value)
    assert search.metrics["tvd@3"].value == pytest.approx(4 / 26)


def test_slices_by_numbers_with_holes_and_by_dates_are_written_as_json():
    days = np.array(["2024-05-01", "2024-05-01", "2024-05-02"], "datetime64[D]")
    log = ReplayLog(
        request=[0, 0, 1],
        ad=[1, 2, 1],
        final_value=[1.0, 2.0, 3.0],
        slices={"age": [1.0, 1.0, np.nan], "day": days},
    )
    report = consistency_report(log, [1.0, 2.0, 3.0], 1, samples=10)
    assert list(report.slices)[1:3] == [(("age", 1.0),), (("age", "(missing)"),)]
    assert json.loads(json.dumps(report.to_json()))["slices"][-1]["slice"][0][0] == "day"


def test_a_report_survives_json_with_its_undefined_values():
    log, early = sliced_log()
    report = consistency_report(
        log,
        early,
        [3, 10],
        early_cqs=early,
        cqs_std=2.0,
        also={"ctr/ne@imp": 0.8, "cost": np.nan},
        samples=30,
    )
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Consistency.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert again.overall == report.overall
    assert np.isnan(again.also["cost"])
    assert "ctr/ne@imp 0.8" in format_consistency(again)


def test_the_report_says_what_the_functions_say():
    log, early = sliced_log()
    ranking = rank(log, early)
    report = consistency_report(log, ranking, [3, 10], early_cqs=early, cqs_std=2.0, samples=30)
    overall = report.overall.metrics
    values = recall_at(log, early, [3, 10]).values()
    for name in ("soft_recall", "hard_recall", "soft_recall_micro", "value_regret"):
        assert overall[f"{name}@10"].value == pytest.approx(values[name][1], rel=1e-12)
    assert overall["tvd@3"].value == pytest.approx(tvd(log, early, 3), rel=1e-12)
    error = cqs_error(log, early, early, 10, std=2.0)
    assert overall["cqs_error@10"].value == pytest.approx(error, rel=1e-12)
    for interval in overall.values():
        assert interval.low < interval.value < interval.high


def test_comparing_two_arms_gives_their_difference():
    log, early = sliced_log()
    pairs = compare(log, early, log.final_value, [3, 10], samples=200)
    soft = recall_at(log, early, 3).values()["soft_recall"].item()
    assert pairs["soft_recall@3"].difference.value == pytest.approx(1 - soft)
    assert pairs["soft_recall@3"].difference.low > 0
    assert pairs["tvd@3"].relative.value == -1.0


def test_the_figure_shows_every_arm_with_its_band():
    log, early = sliced_log()
    arms = {
        "noisy": consistency_report(log, early, [3, 10, 20], samples=30),
        "oracle": consistency_report(log, log.final_value, [5, 15], samples=30),
    }
    figure = draw(arms)
    for axis, metric in zip(figure.axes, ("soft_recall", "hard_recall"), strict=True):
        assert [line.get_label() for line in axis.lines] == ["noisy", "oracle"]
        shown = axis.lines[0].get_ydata()
        expected = [arms["noisy"].overall.metrics[f"{metric}@{k}"].value for k in (3, 10, 20)]
        np.testing.assert_allclose(shown, expected)
        assert len(axis.collections) == 2
    with pytest.raises(DataError, match="no slice 'scene=mall'"):
        draw(arms, slice_=(("scene", "mall"),))


def test_a_million_rows_take_seconds():
    n, requests = 150, 6667
    rng = np.random.default_rng(0)
    final, noise = rng.normal(size=(2, requests * n))
    request, ad = np.repeat(np.arange(requests), n), np.tile(np.arange(n), requests)
    turned = rng.permutation(requests * n)
    started = time.process_time()
    log = ReplayLog(request=request[turned], ad=ad[turned], final_value=final[turned])
    recall = recall_at(log, (final + noise)[turned], [5, 10, 20, 50, 100])
    # About 1 s on an idle core; a loop over requests or Ks takes minutes.
    assert time.process_time() - started < 6
    assert (np.diff(recall.values()["hard_recall"]) > 0).all()
