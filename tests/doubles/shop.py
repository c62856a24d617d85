"""A small shop's log and its configuration, and the command that runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
CONFIG = """
from tfmtl import (
    Evaluation, ExperimentConfig, Model, ProblemSpec, Training, binary, by_hash, categorical,
    numerical, regression,
)

PROBLEM = ProblemSpec(
    features=(
        categorical("user_id", side="user"),
        categorical("ad_id", side="ad"),
        categorical("scene"),
        numerical("price", side="ad", encoding="log", indicator=True),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
        regression("quality", label="quality"),
    ),
    scene="scene",
    request_id="request_id",
)
EXPERIMENT = ExperimentConfig(
    name="shop",
    problem=PROBLEM,
    split=by_hash("request_id"),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 2, "expert_units": (16,)},
        dim=8,
        tower_units=(8,),
    ),
    training=Training(
        epochs=3, batch_size=256, learning_rate=3e-3, patience=9, checkpoint_every=5
    ),
    evaluation=Evaluation(bounds={"ctr/auc@imp": 0.6}, min_slice_rows=100),
)
"""


def write_shop(folder: Path) -> Path:
    """Writes 5,000 rows, whose clicks depend on users and ads, and a configuration."""
    (folder / "shop.py").write_text(CONFIG)
    rng = np.random.default_rng(5)
    user, ad = rng.integers(0, 200, 5000), rng.integers(0, 40, 5000)
    price, search = rng.lognormal(2, 1, 5000), rng.random(5000) < 0.4
    logit = -0.8 + rng.normal(0, 0.8, 200)[user] + 1.2 * (ad % 5 - 2) / 2 + 0.4 * search
    click = rng.random(5000) < 1 / (1 + np.exp(-logit))
    conversion = click & (rng.random(5000) < 0.2 + 0.1 * (ad % 5))
    lines = ["request_id,user_id,ad_id,price,scene,click,conversion,quality"]
    for i in range(5000):
        lines.append(
            f"r{i // 3},u{user[i]},a{ad[i]},{price[i]:.2f},{'search' if search[i] else 'feed'},"
            f"{int(click[i])},{int(conversion[i])},{ad[i] % 5 - 0.05 * price[i]:.3f}"
        )
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def command(shop, *arguments, config="shop.py", data="rows.csv", output="output"):
    """The command as a list of arguments."""
    return [
        *(sys.executable, "-m", "pipeline.local_runner"),
        *("--config", str(shop / config)),
        *("--data", str(shop / data)),
        *("--output", str(shop / output)),
        *arguments,
    ]


def run(*arguments, **options):
    """Runs the command until it ends."""
    return subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, cwd=ROOT, check=False
    )


def steps_of(output):
    """The output line of each component, by name."""
    lines = [line.split() for line in output.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1 and line[0][0].isupper()}


def run_until(condition, *arguments, may_end=False, **options):
    """Runs the command and kills it, as a power cut would, once `condition()` is true.

    Returns whether it was killed; where it `may_end` before, it need not be.
    """
    process = subprocess.Popen(
        command(*arguments, **options),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not condition():
        if process.poll() is not None:
            assert may_end, "the run ended before it could be killed"
            return False
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True
