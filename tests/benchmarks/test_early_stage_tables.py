"""The signs of the early-stage paper's tables, in worlds that no constant was chosen on."""

import math

import pytest

from benchmarks.papers.early_stage import PAIRS, PAPER, RECALL, TVD, XOUT
from benchmarks.papers.early_stage.arms import ARMS, Sizes, differences, study


@pytest.fixture(scope="module")
def small():
    arms = ("mt", "mt_no_augmentation", "ctr_and_cqs", "ctr_and_events")
    return study(21, Sizes(requests=12_000, test=1_000, online=1_500), arms=arms)


def test_without_ads_nobody_saw_recall_falls_by_a_tenth(small):
    value, low, high = differences(small, *PAIRS["no_augmentation"])[RECALL]
    assert low < value < high < -0.10


def test_the_multi_task_model_ranks_more_like_the_final_stage_than_two_models(small):
    found = differences(small, *PAIRS["mt"])
    assert found[RECALL][1] > 0
    assert found[TVD][2] < 0
    assert found["macs@request"][0] < 0


def test_one_quality_score_closes_fewer_ads_than_a_model_for_each_event(small):
    assert differences(small, *PAIRS["cqs"])[XOUT][2] < 0


def test_impressions_alone_misjudge_ads_nobody_saw(small):
    # On impressions both look alike, which is why recall is what counts.
    with_them, without = (small.offline[r] for r in ("mt", "mt_no_augmentation"))
    assert abs(with_them["ne@imp"] / without["ne@imp"] - 1) < 0.1
    assert 0.8 < with_them["calibration@not_shown"] < 1.3
    assert without["calibration@not_shown"] > 1.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [31, 32, 33, 34, 35])
def test_the_gated_signs_hold_in_every_fresh_world(seed):
    gated = [cell for cell in PAPER.cells if cell.gate and not cell.not_comparable]
    pairs = {cell.run["arm"]: PAIRS[cell.run["arm"]] for cell in gated}
    arms = [arm for arm in ARMS if any(arm in pair for pair in pairs.values())]
    found = study(seed, Sizes(), arms=arms)
    figures = {name: differences(found, *pair) for name, pair in pairs.items()}
    for cell in gated:
        value = figures[cell.run["arm"]][cell.metric][0]
        assert math.copysign(1, cell.range[0]) * value > cell.least, (cell.name, value)
