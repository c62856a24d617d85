"""AliExpress, one country, from its raw files or MTReclib's; MMoE with MTReclib's settings.

    python -m pipeline.local_runner --config aliexpress --data FOLDER

`FOLDER` holds `NL_user_train.csv`, `NL_item_train.csv` and both for test, or `AliExpress_NL/` with
`train.csv` and `test.csv`, or these two alone. With several countries, `--source reader.country=US`
says which one. Without --data, 40,000 rows are generated. A fifth of the training file's searches
validates, with all rows of a search. The papers choose rows, which cuts searches apart:
`--source reader.split=automtl --set problem.request_id=None`.
"""

from tfmtl.datasets.presets import preset
from tfmtl.datasets.problems import preparation
from tfmtl.declare.experiment import Evaluation, ExperimentConfig

ROWS = 40_000

PREPARATION = preparation("aliexpress", "automtl")
PRESET = preset("mtreclib")
BETTER = PREPARATION.better["by_search"]
SOURCE, PROBLEM = BETTER.source, BETTER.problem

EXPERIMENT = ExperimentConfig(
    name="aliexpress",
    problem=PROBLEM,
    split=BETTER.split,
    model=PRESET.model("mmoe"),
    training=PRESET.training(epochs=10),
    # The published AUC of clicks is about 0.72, that of purchases 0.86, both over impressions.
    evaluation=Evaluation(bounds={"ctr/auc@imp": 0.55, "ctr/calibration@imp": (0.7, 1.4)}),
)


def generate(path: str) -> None:
    """Writes raw files to a folder."""
    from tfmtl.simulator import write_aliexpress

    write_aliexpress(path, rows=ROWS, seed=1)
