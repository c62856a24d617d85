"""MTMS, trained day by day on a simulated ads log in two scenes.

    python -m pipeline.local_runner --config mtms --days 5

Without --data, eight days are generated: three days to train the first slot, and then five new
days. With --data, the log may have any number of days of any size, one folder per day, as
`tfmtl.simulator.write_daily_log` writes it.
"""

from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import whole

DAYS = 8
IMPRESSIONS_A_DAY = 60_000

# Ids are hashed, so that a user has the same id in every slot. Tables hold only ids that occur.
IDS = 2**30

PROBLEM = ProblemSpec(
    features=(
        categorical("user_id", dtype="int64", side="user", encoding="hash", size=IDS),
        categorical("segment", side="user", encoding="hash", size=IDS),
        numerical("age", side="user"),
        categorical("ad_id", dtype="int64", side="ad", encoding="hash", size=IDS),
        categorical("advertiser_id", dtype="int64", side="ad", encoding="hash", size=IDS),
        categorical("category", side="ad", encoding="hash", size=IDS),
        categorical("objective", side="ad", encoding="hash", size=IDS),
        numerical("bid", side="ad", encoding="log"),
        categorical("scene", encoding="hash", size=2**20),
        # The position lowers the click rate; rank with position 1 for all ads.
        categorical("position", encoding="identity", size=16),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
    ),
    scene="scene",
    request_id="request_id",
    user_id="user_id",
    time="day",
)

EXPERIMENT = ExperimentConfig(
    name="mtms",
    problem=PROBLEM,
    split=whole(),
    model=Model(dim=8, l2=1e-5),
    training=Training(epochs=1, batch_size=2048, learning_rate=1e-3),
    mtms=MTMS(scenes=("feed", "search"), update_units=(64, 32), fine_tune_units=(128, 64)),
    evaluation=Evaluation(
        bounds={
            "ctr/auc@imp": 0.6,
            "ctr/calibration@imp": (0.8, 1.25),
            "cvr/auc@click": 0.5,
            "ctcvr/auc@imp": 0.6,
        },
        max_fall=0.02,
        max_slice_fall=0.04,
    ),
)


def generate(path: str) -> None:
    """Writes the log to a folder, one folder per day."""
    from tfmtl.simulator import write_daily_log

    write_daily_log(path, impressions=IMPRESSIONS_A_DAY * DAYS, days=DAYS, seed=1)
