"""MAN on a simulated ads log: task attention, learnt loss weights, two-stage meta-training.

    python -m pipeline.local_runner --config man

Without --data, 100,000 impressions are generated. For a larger log, run
`python -m tfmtl.simulator --impressions 2000000 --out ads_log` and give its folder as --data.
"""

from pipeline.configs import simulated_ads
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.declare.split import by_hash

IMPRESSIONS = 100_000

PROBLEM = ProblemSpec(
    features=simulated_ads.PROBLEM.features,
    # The funnel's order is the order of the attention. Both use all impressions, as in the paper.
    tasks=(binary("ctr", label="click"), binary("ctcvr", label="conversion")),
    scene="scene",
    request_id="request_id",
    user_id="user_id",
    time="day",
)

EXPERIMENT = ExperimentConfig(
    name="man",
    problem=PROBLEM,
    split=by_hash("request_id", shares=(0.8, 0.1, 0.1)),
    model=Model(
        backbone={"name": "man", "expert_units": ((128, 64),)},
        dim=8,
        # Users and ads match dimension by dimension; one joint projection would mix dimensions.
        numeric_mode="fieldwise",
        balancer={"name": "uncertainty", "form": "paper_eq3"},
        l2=1e-6,
    ),
    training=Training(epochs=6, batch_size=512, learning_rate=2e-3),
    meta=Meta(tasks_per_step=2, inner_rate=1e-3, finetune_epochs=3),
    evaluation=Evaluation(
        slices=("objective",),
        bounds={
            "ctr/auc@imp": 0.66,
            "ctr/calibration@imp": (0.8, 1.25),
            "ctcvr/auc@imp": 0.68,
            "ctcvr/calibration@imp": (0.7, 1.4),
        },
        slice_bounds={"ctr/auc@imp": 0.62},
    ),
)


def generate(path: str) -> None:
    """Writes the log to a folder."""
    from tfmtl.simulator import write_impression_log

    write_impression_log(path, impressions=IMPRESSIONS, seed=1)
