"""The early stage through the command: replayed, blessed or withheld, and cached."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A small log and a small replay, in CSV for a change."""
    from tfmtl.simulator import write_early_stage_logs

    folder = tmp_path_factory.mktemp("logs")
    write_early_stage_logs(str(folder / "made"), requests=3000, replay_requests=100, seed=3)
    shutil.move(folder / "made" / "log", folder / "log")
    replay = pd.read_parquet(folder / "made" / "replay")
    replay["interests"] = ["|".join(names) for names in replay["interests"]]
    replay.to_csv(folder / "replay.csv", index=False)
    return folder


def run(logs, *arguments, replay="replay.csv", output="output"):
    command = [
        *(sys.executable, "-m", "pipeline.local_runner", "--config", "early_stage"),
        *("--data", str(logs / "log"), "--output", str(logs / output), "--epochs", "1"),
        *("--set", 'evaluation.bounds={"ctr/auc@ctr_traffic&is_impression": 0.2}'),
        *(("--replay", str(logs / replay)) if replay else ()),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def steps_of(output):
    lines = [line.split() for line in output.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1 and line[0][0].isupper()}


def test_a_log_and_a_replay_become_a_pushed_model_and_recall_that_is_cached(logs):
    first = run(logs, "--set", 'replay.bounds={"soft_recall@20": 0.2}')
    assert first.returncode == 0, first.stderr
    assert "Blessed: all" in first.stdout and "100 requests of 150 ads" in first.stdout
    recall = re.search(r"\n +20  (\d\.\d{4}) \[(\d\.\d{4}), (\d\.\d{4})\]", first.stdout)
    value, low, high = map(float, recall.groups())
    assert 0.264 < low < value < high < 1
    curve = re.search(r"Its curve is   (.+)", first.stdout).group(1)
    assert Path(curve).read_bytes()[1:4] == b"PNG"
    assert "multiply-adds" in first.stdout
    (version,) = (logs / "output/serving/early_stage").iterdir()

    # The same bytes at another place and time.
    shutil.copy(logs / "replay.csv", logs / "replay.copy")
    (logs / "replay.csv").unlink()
    shutil.move(logs / "replay.copy", logs / "replay.csv")
    second = run(logs, "--set", 'replay.bounds={"soft_recall@20": 0.2}')
    cached = {name for name, how in steps_of(second.stdout).items() if how == ["cached"]}
    assert {"ReplayGen", "Trainer", "RankingEvaluator", "ConsistencyEvaluator"} <= cached
    assert [*(logs / "output/serving/early_stage").iterdir()] == [version]

    strict = run(logs, "--set", 'replay.bounds={"soft_recall@20": 0.99}')
    assert strict.returncode == 0, strict.stderr
    assert "Not blessed: 1 of" in strict.stdout and "below its bound 0.9900" in strict.stdout
    assert "Not pushed" in strict.stdout
    assert steps_of(strict.stdout)["Trainer"] == ["cached"]
    assert [*(logs / "output/serving/early_stage").iterdir()] == [version]


def test_a_bad_replay_log_is_found_before_anything_is_trained(logs):
    table = pd.read_csv(logs / "replay.csv")
    table.loc[4, "final_tv"] = None
    table.to_csv(logs / "bad.csv", index=False)
    done = run(logs, replay="bad.csv", output="bad")
    assert done.returncode == 1
    assert "error: column 'final_tv' of the replay log is missing in 1 of 15,000" in done.stderr
    assert "Traceback" not in done.stderr and "Trainer" not in done.stdout


def test_own_data_without_a_replay_log_are_told_what_is_missing(logs):
    done = run(logs, replay=None, output="without")
    assert done.returncode == 1 and "--replay replay.parquet" in done.stderr
