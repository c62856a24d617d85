"""An e-mail advertising experiment: who visits the shop, and who buys (Hillstrom, 2008).

The data have 64,000 customers in three randomised arms, no missing values and no customer id:

    python -m pipeline.local_runner --config hillstrom --data path/to/hillstrom

Only 578 customers bought, so the AUC of purchases has a standard error of about 0.03. The amount
spent (a regression on the buyers' rows) is not a task, because 115 buyers in the test rows are too
few for a result.
"""

from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number

PROBLEM = ProblemSpec(
    features=(
        numerical("recency", side="user", encoding="piecewise", bins=12),
        numerical("history", side="user", encoding="log"),
        numerical("history_bins", column="history", side="user", encoding="piecewise", bins=16),
        categorical("history_segment", side="user"),
        categorical("mens", side="user"),
        categorical("womens", side="user"),
        categorical("zip_code", side="user"),
        categorical("newbie", side="user"),
        categorical("channel", side="user"),
        # The arm is randomised, so it is a feature as well as the scene.
        categorical("segment", side="ad"),
    ),
    tasks=(
        binary("visit", label="visit"),
        binary("purchase", label="conversion", observed_if="visit"),
        binary("conversion", label="conversion"),
    ),
    scene="segment",
    space="customer",
)

EXPERIMENT = ExperimentConfig(
    name="hillstrom",
    problem=PROBLEM,
    split=by_row_number(shares=(0.6, 0.2, 0.2), modulo=10),
    model=Model(
        backbone={"name": "mmoe", "num_experts": 4, "expert_units": (32, 16), "dropout": 0.1},
        dim=4,
        tower_units=(16,),
        l2=1e-4,
    ),
    training=Training(
        epochs=30,
        batch_size=1024,
        learning_rate=3e-3,
        patience=4,
        monitor="visit/auc@customer",
    ),
    evaluation=Evaluation(
        slices=("channel",),
        bounds={
            "visit/auc@customer": 0.61,
            "visit/calibration@customer": (0.9, 1.1),
            "conversion/calibration@customer": (0.6, 1.6),
        },
        slice_bounds={"visit/auc@customer": 0.56},
    ),
)
