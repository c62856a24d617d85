"""Early-stage ranking of ads in a simulated auction, evaluated by recall on a replay log.

    python -m pipeline.local_runner --config early_stage

One light two-tower model predicts the click-through rate and the consolidated quality score. With
them, the early stage computes a total value and passes the ads that the final stage would value
most (Wang et al., AdKDD 2023). Without --data, the training log has 20,000 requests of ten days
and the replay log has 1,000 requests of the day after. For larger logs, run
`python -m tfmtl.simulator --kind early_stage --requests 200000 --out logs` and give its folders
`logs/log` and `logs/replay` as --data and --replay.
"""

from tfmtl.declare import early_stage
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Replay, Training
from tfmtl.declare.problem import ProblemSpec, categorical, numerical
from tfmtl.declare.split import by_time
from tfmtl.declare.total_value import TotalValue

REQUESTS = 20_000
REPLAYED = 1_000
DAYS = 10
LATENT = 8

# The features that an early stage may read: of an ad, only ids, category and objective.
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
    ),
    tasks=early_stage.tasks(),
    indicators=early_stage.INDICATORS,
    scene="scene",
    request_id="request_id",
    user_id="user_id",
    time="day",
    # A row is an ad that was a candidate for a request, shown or not.
    space="candidate",
)

EXPERIMENT = ExperimentConfig(
    name="early_stage",
    problem=PROBLEM,
    # A split by days keeps requests whole, and the test days come after the training days.
    split=by_time("day", validation_from=DAYS - 2, test_from=DAYS - 1),
    model=Model(
        backbone={"name": "two_tower"},
        dim=16,
        numeric_mode="joint",
        numeric_units=(32,),
        balancer={
            "name": "fixed",
            "task_weights": early_stage.loss_weights(),
            "reduction": "sum",
        },
    ),
    # With about 200 clicks per day, the AUC varies by ±0.02, too much to choose an epoch by it.
    training=Training(
        epochs=3, batch_size=1024, learning_rate=2e-3, decay="cosine", monitor="loss"
    ),
    sampling=early_stage.augmentation("both"),
    value=TotalValue(
        actions={
            "click": "click",
            "conversion": "click_conversion",
            "view_conversion": "view_conversion",
        }
    ),
    evaluation=Evaluation(bounds={"ctr/auc@ctr_traffic&is_impression": 0.55}, max_fall=0.05),
    # A ranking by bid only has a soft recall of 0.49, a random one 0.26.
    replay=Replay(k=20, ks=(5, 10, 50), final_pctr="final_pctr", bounds={"soft_recall@20": 0.7}),
)


def generate(path: str) -> None:
    """Writes the training log and the replay log to a folder."""
    from tfmtl.simulator import write_early_stage_logs

    write_early_stage_logs(path, requests=REQUESTS, replay_requests=REPLAYED, seed=1, days=DAYS)
