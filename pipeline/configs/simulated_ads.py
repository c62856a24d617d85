"""A simulated ads log in two scenes, whose true probabilities are known.

    python -m pipeline.local_runner --config simulated_ads

Without --data, 300,000 impressions are generated. For a larger log, run
`python -m tfmtl.simulator --impressions 2000000 --out ads_log` and give its folder as --data. The
columns `true_*` hold the probabilities that labels were drawn from. They show how good a model
could be. They are never features.
"""

from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.declare.split import by_hash

IMPRESSIONS = 300_000
LATENT = 8

PROBLEM = ProblemSpec(
    features=(
        categorical("user_id", dtype="int64", side="user"),
        categorical("segment", side="user"),
        categorical("interests", side="user", max_values=3),
        numerical("age", side="user"),
        *(numerical(f"user_dense_{i}", side="user") for i in range(LATENT)),
        categorical("ad_id", dtype="int64", side="ad"),
        categorical("advertiser_id", dtype="int64", side="ad"),
        categorical("category", side="ad"),
        categorical("objective", side="ad"),
        numerical("bid", side="ad", encoding="log"),
        *(numerical(f"ad_dense_{i}", side="ad") for i in range(LATENT)),
        categorical("scene"),
        # The position lowers the click rate; rank with position 1 for all ads.
        categorical("position", encoding="identity", size=16),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
        regression("cqs", label="final_cqs"),
    ),
    scene="scene",
    request_id="request_id",
    user_id="user_id",
    time="day",
)

EXPERIMENT = ExperimentConfig(
    name="simulated_ads",
    problem=PROBLEM,
    split=by_hash("request_id", shares=(0.8, 0.1, 0.1)),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 6, "expert_units": (128, 64)},
        dim=16,
        # Users and ads match dimension by dimension; one joint projection would mix dimensions.
        numeric_mode="fieldwise",
        tower_units=(32,),
        l2=1e-5,
    ),
    training=Training(epochs=4, batch_size=2048, learning_rate=2e-3, decay="cosine"),
    evaluation=Evaluation(
        slices=("objective",),
        bounds={
            "ctr/auc@imp": 0.66,
            "ctr/calibration@imp": (0.9, 1.1),
            "cvr/auc@click": 0.55,
            "ctcvr/auc@imp": 0.68,
            "ctcvr/calibration@imp": (0.8, 1.25),
        },
        slice_bounds={"ctr/auc@imp": 0.62},
    ),
)


def generate(path: str) -> None:
    """Writes the log to a folder."""
    from tfmtl.simulator import write_impression_log

    write_impression_log(path, impressions=IMPRESSIONS, seed=1)
