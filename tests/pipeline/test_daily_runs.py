"""The command over several days, from folders of rows to pushed models."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import local_runner
from tests.doubles.daily_shop import shop, write_day
from tfmtl import training
from tfmtl.declare.features import FIRST
from tfmtl.declare.layout import fixed_table_rows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

ROOT = Path(__file__).parents[2]
BOUNDS = (
    "evaluation.bounds={'ctr/calibration@imp': (0.3, 2), 'cvr/auc@click': 0, 'ctcvr/auc@imp': 0}"
)


class Trainer:
    """Trains a small model and notes the days of its rows and the slot it started from."""

    def __init__(self):
        self.calls, self.stops_at, self.bad = [], None, None

    def __call__(self, experiment, rows, *, slot, folder, previous=None, workers=1, verbose=1):
        start = previous and json.loads((Path(previous) / "slot.json").read_text())["slot"]
        batch = next(iter(rows.batches(rows.count())))
        days = sorted({int(i) - FIRST for i in batch["ids_context"].numpy()[:, 3]})
        self.calls.append({"slot": slot, "from": start, "days": days, "rows": rows.count()})
        if slot == self.stops_at:
            raise KeyboardInterrupt
        sizes = {f.name: fixed_table_rows(f) for f in experiment.problem.features}
        model = MultiTaskModel.build_from(experiment.problem, sizes, experiment.model)
        compile_model(model, experiment.training)
        model(batch)
        model.fit(rows.batches(128, seed=1), verbose=0)
        if slot == self.bad:
            for variable in model.variables:
                if variable.shape == (1,):
                    variable.assign(variable + 4)
        Path(folder).mkdir(parents=True)
        (Path(folder) / "slot.json").write_text(json.dumps({"slot": slot}))
        return model


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    # TFX imports the module of `run_fn` anew.
    monkeypatch.setattr(training, "train_slot", trainer)
    return trainer


def arguments(folder, *more, output="output"):
    return [
        *("--config", str(folder / "shop.py"), "--data", str(folder / "log")),
        *("--output", str(folder / output), *more),
    ]


def table_of(text):
    lines = text.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("day  "))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("day-"):
            break
        rows.append(line.split())
    return rows


# TFX 1.21 calls it from within our modules, where a warning is an error.
@pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_days_run_in_order_from_the_last_blessed_slot_and_once_each(tmp_path, trainer, capsys):
    shop(tmp_path, days=5)
    run = ["--verbose", "--set", BOUNDS]
    trainer.bad, trainer.stops_at = 2, 3
    assert local_runner.main(arguments(tmp_path, *run)) == 130
    assert trainer.calls == [
        {"slot": 1, "from": None, "days": [0, 1], "rows": 800},
        {"slot": 2, "from": 1, "days": [1, 2], "rows": 800},
        # Slot 2 was refused, so that slot 3 starts from slot 1.
        {"slot": 3, "from": 1, "days": [2, 3], "rows": 800},
    ]
    assert "Not blessed" in capsys.readouterr().out
    assert len([*(tmp_path / "output/serving/daily_shop").iterdir()]) == 1

    trainer.calls, trainer.stops_at = [], None
    assert local_runner.main(arguments(tmp_path, *run)) == 0
    assert trainer.calls == [{"slot": 3, "from": 1, "days": [2, 3], "rows": 800}]
    out = capsys.readouterr().out
    assert "day-2: done before" in out and "day-3: done before" in out
    table = table_of(out)
    assert [(row[0], row[-3]) for row in table] == [
        *[("day-2", "yes"), ("day-3", "no"), ("day-4", "yes")]
    ]
    assert (tmp_path / "output/days.png").stat().st_size > 10_000
    versions = sorted((tmp_path / "output/serving/daily_shop").iterdir())
    assert len(versions) == 2
    # What the next slot starts from is not served.
    (served, *_) = versions
    assert (served / "saved_model.pb").exists() and not [*served.rglob("slot.json")]

    trainer.calls = []
    assert local_runner.main(arguments(tmp_path, *run)) == 0
    out = capsys.readouterr().out
    assert trainer.calls == [] and table_of(out) == table
    assert out.count("done before") == 3 and "Trainer" not in out

    # The next day has come.
    write_day(tmp_path / "log", 5, scenes=("feed", "search", "video"))
    assert local_runner.main(arguments(tmp_path, *run)) == 0
    assert "split 'all' is unlike the schema in scene" in capsys.readouterr().out
    assert trainer.calls == [{"slot": 4, "from": 3, "days": [3, 4], "rows": 800}]


def command(folder, *more, **options):
    return [sys.executable, "-m", "pipeline.local_runner", *arguments(folder, *more, **options)]


def results(text):
    # All but the pushed version and the seconds.
    return [row[:-2] for row in table_of(text)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_inside_trainer_ends_with_the_same_table(tmp_path):
    shop(tmp_path, days=4)
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    whole = subprocess.run(command(tmp_path, output="whole"), **options)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        command(tmp_path, output="killed"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / "killed/artifacts/checkpoints"
    # Killed in the second day's slot, of which a part is finished.
    while not [*checkpoints.glob("slot-2-*/scenes/*/update-*/network.npz")]:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = subprocess.run(command(tmp_path, output="killed"), **options)
    assert resumed.returncode == 0, resumed.stderr
    assert "day-2: done before" in resumed.stdout and "Transform             cached" in (
        resumed.stdout
    )
    assert results(resumed.stdout) == results(whole.stdout)
    assert [row[0] for row in results(resumed.stdout)] == ["day-2", "day-3"]
    assert [*checkpoints.iterdir()] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tfx_own_command_runs_the_days_to_a_push(tmp_path):
    shop(tmp_path, days=3)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LOCAL_HOME": str(tmp_path / "tfx"),
        "TFMTL_CONFIG": str(tmp_path / "shop.py"),
        "TFMTL_DATA": str(tmp_path / "log"),
        "TFMTL_OUTPUT": str(tmp_path / "output"),
    }
    for arguments_ in (
        ["pipeline", "create", "--engine", "local", "--pipeline_path", "pipeline/local_runner.py"],
        ["run", "create", "--engine", "local", "--pipeline_name", "daily_shop"],
    ):
        done = subprocess.run(
            ["tfx", *arguments_],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        pushed = [*(tmp_path / "output").glob("serving/daily_shop/*/saved_model.pb")]
        assert len(pushed) == (arguments_[0] == "run")
