"""Ali-CCP from its raw files, prepared as by AITM, trained by AITM's settings.

    python -m pipeline.local_runner --config ali_ccp --data FOLDER

`FOLDER` holds `sample_skeleton_train.csv`, `common_features_train.csv` and both for test, as
unpacked. Without --data, 60,000 impressions are generated in the same form. For a validation
without rows of the same user and time on both sides: `--source reader.split=aitm_grouped`.
"""

from tfmtl.datasets.presets import preset
from tfmtl.datasets.problems import preparation
from tfmtl.declare.experiment import Evaluation, ExperimentConfig

IMPRESSIONS = 60_000

PREPARATION = preparation("ali_ccp", "aitm")
PRESET = preset("aitm")
SOURCE, PROBLEM = PREPARATION.source, PREPARATION.problem

EXPERIMENT = ExperimentConfig(
    name="ali_ccp",
    problem=PROBLEM,
    split=PREPARATION.split,
    model=PRESET.model("aitm"),
    training=PRESET.training(),
    # The published AUC of clicks is about 0.60 and that of conversions 0.65, both over impressions.
    evaluation=Evaluation(bounds={"ctr/auc@imp": 0.53, "ctr/calibration@imp": (0.7, 1.4)}),
)


def generate(path: str) -> None:
    """Writes raw files to a folder."""
    from tfmtl.simulator import write_ali_ccp

    write_ali_ccp(path, rows=IMPRESSIONS, seed=1)
