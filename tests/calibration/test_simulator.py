"""On the simulated log: calibrated per task and scene, also with a tenth of the negatives."""

import dataclasses

import numpy as np
import pytest

import tfmtl
from tfmtl.simulator import draw_world, impression_log

PROBLEM = tfmtl.ProblemSpec(
    features=(
        tfmtl.categorical("segment", side="user"),
        *(tfmtl.numerical(f"user_dense_{i}", side="user") for i in range(8)),
        tfmtl.categorical("category", side="ad"),
        *(tfmtl.numerical(f"ad_dense_{i}", side="ad") for i in range(8)),
        tfmtl.categorical("scene"),
        tfmtl.categorical("position", encoding="identity", size=16),
    ),
    tasks=(
        tfmtl.binary("ctr", label="click"),
        tfmtl.binary("cvr", label="conversion", observed_if="click"),
        tfmtl.binary("ctcvr", label="conversion"),
    ),
    scene="scene",
    request_id="request_id",
)
ROWS = 800_000


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1.0, 0.1])
def test_calibration_per_task_and_scene_is_within_three_hundredths(kept):
    table = impression_log(draw_world(seed=1), impressions=ROWS, seed=1)
    parts = [table[: ROWS // 2], table[ROWS // 2 : ROWS * 3 // 4], table[ROWS * 3 // 4 :]]
    train = parts[0].to_pandas()
    chance = np.random.default_rng(0).random(len(train))
    train = train[(train["click"] > 0) | (chance < kept)]
    tables = {"train": train, "validation": parts[1], "test": parts[2]}
    prepared = tfmtl.prepare(PROBLEM, tables)
    experiment = tfmtl.ExperimentConfig(
        name="ads",
        problem=PROBLEM,
        split=tfmtl.by_hash("request_id"),
        model=tfmtl.Model(backbone={"name": "esmm"}, dim=8, tower_units=(16,)),
        training=tfmtl.Training(epochs=2, batch_size=2048, learning_rate=3e-3, decay="cosine"),
        calibration=tfmtl.Calibration(),
    )
    if kept < 1:
        sampling = tfmtl.Sampling(column="click", rates={"0": kept}, correct="offset")
        experiment = dataclasses.replace(experiment, sampling=sampling)
    model = tfmtl.train(experiment, prepared.data, verbose=0).model
    report = tfmtl.calibration_report(model, prepared.test)
    print(report.to_string())
    judged = 0
    for (task, scene), line in report.iterrows():
        # What the test rows cannot tell from 1 is not judged.
        if line["standard_error"] < 0.015:
            judged += 1
            allowed = 0.03 + 2 * line["standard_error"]
            assert abs(line["calibration_after"] - 1) < allowed, (task, scene, line.to_dict())
        if scene != "all" and task != "ctcvr":
            assert line["auc_after"] == pytest.approx(line["auc_before"], abs=1e-6)
    assert judged >= 3
