"""AutoMTL on a simulated ads log: a searched network, trained from scratch and served.

    python -m pipeline.local_runner --config automtl

Without --data, 60,000 impressions are generated. The Tuner searches the network and writes it as
JSON. The Trainer rebuilds it from this JSON. For a short run, the search space has four experts of
two layers (eight of three in the paper), and the architecture's learning rate is five times that
of the paper. `AutoMTL()` has the paper's values.
"""

from pipeline.configs import man
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import by_hash

IMPRESSIONS = 60_000

PROBLEM = man.PROBLEM

EXPERIMENT = ExperimentConfig(
    name="automtl",
    problem=PROBLEM,
    split=by_hash("request_id", shares=(0.7, 0.1, 0.2)),
    model=Model(dim=16, l2=1e-5),
    training=Training(epochs=6, batch_size=512, learning_rate=1e-3),
    search=AutoMTL(num_experts=4, num_blocks=2, epochs=6, warm_up_epochs=1, architecture_rate=5e-3),
    evaluation=Evaluation(
        slices=("objective",),
        bounds={
            "ctr/auc@imp": 0.6,
            "ctr/calibration@imp": (0.8, 1.25),
            "ctcvr/auc@imp": 0.6,
            "ctcvr/calibration@imp": (0.7, 1.4),
        },
        slice_bounds={"ctr/auc@imp": 0.56},
    ),
)


def generate(path: str) -> None:
    """Writes the log to a folder."""
    from tfmtl.simulator import write_impression_log

    write_impression_log(path, impressions=IMPRESSIONS, seed=1)
