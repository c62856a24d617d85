"""What a run tells at its end."""

import csv
import dataclasses
import os
import shlex

import numpy as np
import pytest

from components.consistency_verdict import judge
from pipeline.config import load
from pipeline.report import Outcome, both, report, serving_commands
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


def test_commands_are_quoted_for_the_shell():
    pushed = "/my out/it's; rm -rf $HOME/serving/shop/17"
    commands = serving_commands(pushed, "/my out/request.json", "shop")
    show, docker, curl = (shlex.split(command) for command in commands)
    assert show[3] == pushed
    assert docker[docker.index("-v") + 1] == f"{os.path.dirname(pushed)}:/models/shop"
    assert docker[-1] == "tensorflow/serving" and "MODEL_NAME=shop" in docker
    assert curl[1:3] == ["-d", "@/my out/request.json"]
    assert curl[3] == "http://localhost:8501/v1/models/shop:predict"


def test_a_folder_with_a_colon_is_mounted_another_way():
    docker = shlex.split(serving_commands("/a:b,c/serving/shop/17", "/r.json", "shop")[1])
    assert "-v" not in docker
    (fields,) = csv.reader([docker[docker.index("--mount") + 1]])
    assert fields == ["type=bind", "source=/a:b,c/serving/shop", "target=/models/shop"]


@pytest.fixture
def version(tmp_path):
    """A pushed version."""
    path = tmp_path / "shop/1700000000"
    path.mkdir(parents=True)
    (path / "saved_model.pb").touch()
    return path


def notes_of(tmp_path, consistency, version):
    outcome = outcome_of(tmp_path, consistency)
    outcome = dataclasses.replace(outcome, pushed=str(version))
    text = report(outcome, EXPERIMENT, "command")
    return [line for line in text.splitlines() if line.startswith("Note: ")]


def beside(version, name):
    (version.parent / name).mkdir()
    (version.parent / name / "saved_model.pb").touch()


def test_a_version_that_is_the_newest_needs_no_note(tmp_path, consistency, version):
    (version.parent / "1700000001").mkdir()
    assert notes_of(tmp_path, consistency, version) == []


def test_a_newer_version_is_noted_with_how_to_push_again(tmp_path, consistency, version):
    beside(version, "1700000001")
    (note,) = notes_of(tmp_path, consistency, version)
    assert "version 1700000001" in note and "--no-cache pushes this one again" in note


def test_a_version_later_than_now_is_to_be_removed_as_no_push_comes_after_it(
    tmp_path, consistency, version
):
    beside(version, "9999999999999")
    (note,) = notes_of(tmp_path, consistency, version)
    assert "--no-cache" not in note and "later than now" in note
    assert note.endswith(f"rm -r {version.parent}/9999999999999")


def test_a_pushed_version_that_is_gone_is_not_said_to_be_served(tmp_path, consistency, version):
    (version / "saved_model.pb").unlink()
    (note,) = notes_of(tmp_path, consistency, version)
    assert f"{version} is not there any more. --no-cache pushes" in note
