"""What a run tells at its end."""

import numpy as np
import pytest

from components.consistency_verdict import judge
from pipeline.config import load
from pipeline.report import Outcome, both, report
from tfmtl.evaluation.blessing import bless
from tfmtl.metrics.sliced import SlicedMetrics
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import rank
from tfmtl.replay.report import consistency_report

EXPERIMENT = load("early_stage").experiment
METRICS = {
    "ctr/rows@ctr_traffic&is_impression": 900.0,
    "ctr/positives@ctr_traffic&is_impression": 90.0,
    "ctr/auc@ctr_traffic&is_impression": 0.5,
    "cqs/rows@candidate": 900.0,
    "cqs/mae@candidate": 0.1,
    "cqs/r2@candidate": 0.2,
}


@pytest.fixture(scope="module")
def consistency():
    rng = np.random.default_rng(2)
    request, ad = np.divmod(np.arange(40 * 60), 60)
    final = rng.random(len(request))
    log = ReplayLog(
        request=request,
        ad=ad,
        final_value=final,
        slices={"scene": np.where(request < 30, "feed", "search")},
    )
    # By chance: soft recall at 20 of 60 is some 0.6, below the configuration's bound.
    early = rank(log, rng.random(len(request)))
    cost = {
        "macs_per_request": 2e6,
        "macs_per_request_cached": 5e5,
        "ms_per_request_by_pairs": 3.21,
    }
    return consistency_report(log, early, (5, 20), also=cost)


def outcome_of(tmp_path, consistency):
    sliced = SlicedMetrics(slices={(): METRICS})
    ranking = bless(sliced, None, EXPERIMENT.problem, EXPERIMENT.evaluation).to_json()
    refused = not ranking["blessed"]
    replayed = judge(consistency, None, EXPERIMENT.replay, refused=refused).to_json()
    return Outcome(
        metrics=sliced,
        verdict=both(ranking, replayed),
        evaluation=str(tmp_path / "ranking"),
        model=str(tmp_path / "model"),
        pushed=None,
        anomalies={},
        searched=[],
        request=str(tmp_path / "request.json"),
        consistency=consistency,
        replayed=str(tmp_path / "replayed"),
    )


def test_recall_stands_below_the_metrics_with_its_intervals(tmp_path, consistency):
    text = report(outcome_of(tmp_path, consistency), EXPERIMENT, "again")
    interval = consistency.overall.metrics["hard_recall@20"]
    expected = f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    assert expected in text
    places = [text.index(part) for part in ("cqs@candidate", "overall (40)", "scene=search (10)")]
    assert places == sorted(places)
    assert "2,000,000 multiply-adds, 500,000 with cached ads, and 3.2 ms" in text
    assert f"Its curve is   {tmp_path / 'replayed' / 'recall_curve.png'}" in text


def test_both_verdicts_are_told_as_one_and_nothing_twice(tmp_path, consistency):
    outcome = outcome_of(tmp_path, consistency)
    text = report(outcome, EXPERIMENT, "again")
    # One of the first evaluator; of the second, which heard the first, one of its own.
    assert text.count("\n- ") == 2
    recall = consistency.overall.metrics["soft_recall@20"]
    assert f"soft_recall@20 is {recall:.4f}, below its bound 0.7000" in text
    assert "ctr/auc@ctr_traffic&is_impression is 0.5000, below its bound 0.5500" in text
    assert "the RankingEvaluator did not bless" not in text
    assert text.count("There is no earlier blessed model") == 1
    # AUC and R2 of the first, the bound of the second.
    assert outcome.verdict["checks"] == 3
    assert text.count("verdict.json") == 2


def test_a_scene_that_is_all_requests_is_not_told_twice(tmp_path, consistency):
    whole = consistency.slices[()]
    alone = {(): whole, (("scene", "feed"),): whole}
    text = report(
        outcome_of(tmp_path, type(consistency)(**{**vars(consistency), "slices": alone})),
        EXPERIMENT,
        "again",
    )
    assert "scene=feed" not in text
