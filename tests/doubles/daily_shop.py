"""A shop's log with one folder per day, and its configuration."""

from pathlib import Path

import numpy as np

CONFIG = """
from tfmtl import Evaluation, ExperimentConfig, Model, ProblemSpec, Training, binary, categorical
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.split import whole

PROBLEM = ProblemSpec(
    features=(
        categorical("user", encoding="hash", size=64),
        categorical("ad", encoding="hash", size=64),
        categorical("scene", encoding="hash", size=64),
        categorical("day", encoding="identity", size=64),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
    ),
    scene="scene",
)
EXPERIMENT = ExperimentConfig(
    name="daily_shop",
    problem=PROBLEM,
    split=whole(),
    model=Model(backbone={"name": "shared_bottom", "bottom_units": (8,)}, dim=4),
    training=Training(epochs=1, batch_size=128),
    mtms=MTMS(
        scenes=("feed", "search"), window=2, history=2, update_units=(8,), fine_tune_units=(8,)
    ),
    evaluation=Evaluation(bounds={"ctr/auc@imp": 0.0, "cvr/auc@click": 0.0, "ctcvr/auc@imp": 0.0},
                          max_fall=1, max_slice_fall=1),
)
"""


def write_day(folder, day, rows=400, scenes=("feed", "search")):
    rng = np.random.default_rng(day)
    user, ad = rng.integers(0, 30, rows), rng.integers(0, 20, rows)
    click = rng.random(rows) < 0.2 + 0.03 * (ad % 10)
    conversion = click & (rng.random(rows) < 0.3 + 0.05 * (user % 5))
    lines = ["user,ad,scene,day,click,conversion"] + [
        f"u{u},a{a},{scenes[u % len(scenes)]},{day},{int(c)},{int(v)}"
        for u, a, c, v in zip(user, ad, click, conversion, strict=True)
    ]
    path = Path(folder) / f"day-{day}"
    path.mkdir(parents=True)
    (path / "rows.csv").write_text("\n".join(lines) + "\n")


def shop(folder, days=5):
    (folder / "shop.py").write_text(CONFIG)
    for day in range(days):
        write_day(folder / "log", day)
    return folder
