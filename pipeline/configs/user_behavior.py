"""UserBehavior-2017 from its raw file, prepared as by AutoMTL: four tasks per user and item.

    python -m pipeline.local_runner --config user_behavior --data FOLDER

`FOLDER` holds `UserBehavior.csv` (or is such a file). Without --data, one is generated. A sample
of the file needs `--source reader.least_bought=0`, because AutoMTL keeps only users and items with
ten bought pairs. The split is the paper's, random pairs at 7:1:2; `PREPARATION.better` has one by
time.
"""

from tfmtl.datasets.presets import preset
from tfmtl.datasets.problems import preparation
from tfmtl.declare.experiment import Evaluation, ExperimentConfig

IMPRESSIONS = 80_000

PREPARATION = preparation("user_behavior", "automtl")
PRESET = preset("automtl")
SOURCE, PROBLEM = PREPARATION.source, PREPARATION.problem

EXPERIMENT = ExperimentConfig(
    name="user_behavior",
    problem=PROBLEM,
    split=PREPARATION.split,
    model=PRESET.model("mmoe"),
    training=PRESET.training(epochs=10),
    evaluation=Evaluation(bounds={"buy/auc@pair": 0.5}),
)


def generate(path: str) -> None:
    """Writes a raw file to a folder."""
    from tfmtl.simulator import write_user_behavior

    write_user_behavior(path, rows=IMPRESSIONS, seed=1)
