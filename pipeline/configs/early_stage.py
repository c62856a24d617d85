"""Early-stage ranking of ads in a simulated auction, judged by replayed recall.

    python -m pipeline.local_runner --config early_stage

One light model of two towers predicts click-through rate and consolidated quality, so that its
total value passes on the ads that the final stage would value most (Wang et al., AdKDD 2023).
Without --data, 20,000 requests of ten days are logged for training and 1,000 of the day after
are replayed. With --data and --replay, the folders `log` and `replay` are read that
`python -m tfmtl.simulator --kind early_stage --requests 200000 --out logs` wrote.
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

# What the early stage may know: of an ad nothing but ids, category and objective.
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
    # A row is an ad that the funnel held for a request, shown or not.
    space="candidate",
)

EXPERIMENT = ExperimentConfig(
    name="early_stage",
    problem=PROBLEM,
    # Days never cut a request, and a model is judged on days it has not seen.
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
    # Some 200 clicks a day make an AUC of ±0.02, too coarse to choose an epoch by.
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
    # Ranking by bid alone has a soft recall of 0.49, by chance 0.26.
    replay=Replay(k=20, ks=(5, 10, 50), final_pctr="final_pctr", bounds={"soft_recall@20": 0.7}),
)


def generate(path: str) -> None:
    """Writes the log that the model learns from, and the replay log, into a folder."""
    from tfmtl.simulator import write_early_stage_logs

    write_early_stage_logs(path, requests=REQUESTS, replay_requests=REPLAYED, seed=1, days=DAYS)
