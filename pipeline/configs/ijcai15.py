"""IJCAI-15 from its raw files, prepared as by AutoMTL: purchases and favourites per user and item.

    python -m pipeline.local_runner --config ijcai15 --data FOLDER

`FOLDER` holds `user_log_format1.csv` and `user_info_format1.csv`, as unpacked. Without --data, both
are generated. The split is the paper's, random pairs at 7:1:2; `PREPARATION.better` has one by
time.
"""

from tfmtl.datasets.presets import preset
from tfmtl.datasets.problems import preparation
from tfmtl.declare.experiment import Evaluation, ExperimentConfig

IMPRESSIONS = 80_000

PREPARATION = preparation("ijcai15", "automtl")
PRESET = preset("automtl")
SOURCE, PROBLEM = PREPARATION.source, PREPARATION.problem

EXPERIMENT = ExperimentConfig(
    name="ijcai15",
    problem=PROBLEM,
    split=PREPARATION.split,
    model=PRESET.model("mmoe"),
    training=PRESET.training(epochs=10),
    evaluation=Evaluation(bounds={"purchase/auc@pair": 0.5}),
)


def generate(path: str) -> None:
    """Writes raw files to a folder."""
    from tfmtl.simulator import write_ijcai15

    write_ijcai15(path, rows=IMPRESSIONS, seed=1)
