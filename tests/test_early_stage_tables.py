"""The signs of the early-stage paper's tables, in worlds that no constant was chosen on."""

import pytest

from benchmarks.early_stage_arms import ARMS, Sizes, differences, study
from benchmarks.papers.early_stage import CVR, NE, PAIRS, RECALL, TVD, VALUE, XOUT

SIGNS = {
    ("no_augmentation", RECALL): -1,
    ("no_augmentation", XOUT): 1,
    ("no_augmentation", TVD): 1,
    ("mt", RECALL): 1,
    ("mt", VALUE): 1,
    ("mt", TVD): -1,
    ("no_teacher", NE): 1,
    ("no_teacher", RECALL): -1,
    ("cqs", RECALL): 1,
    ("cqs", XOUT): -1,
    ("cqs", CVR): 1,
}


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
@pytest.mark.parametrize("seed", [31, 32, 33])
def test_the_signs_hold_in_fresh_worlds(seed):
    pairs = {name: PAIRS[name] for name in ("cqs", "mt", "no_teacher", "no_augmentation")}
    arms = [arm for arm in ARMS if any(arm in pair for pair in pairs.values())]
    found = study(seed, Sizes(), arms=arms)
    figures = {name: differences(found, *pair) for name, pair in pairs.items()}
    for (name, metric), sign in SIGNS.items():
        assert figures[name][metric][0] * sign > 0, (name, metric, figures[name][metric])
    assert figures["no_augmentation"][RECALL][0] < -0.10
