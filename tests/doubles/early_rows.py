"""A consolidated log of ten rows, written by hand, with every row type."""

import numpy as np

from tfmtl.declare import early_stage
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec, categorical, numerical, target_encoding
from tfmtl.features.fit import Preprocessor

FEATURES = (
    categorical("user_id", side="user"),
    numerical("age", side="user"),
    categorical("ad_id", side="ad"),
    target_encoding("ad_id", side="ad", task="ctr", folds=2),
)
NAN = np.nan
# Row type; whether the total value uses the click rate; whether the ad was shown; the click
# column; the final stage's pCTR and quality. If the ad was not shown, the click column may
# have any value, as in real logs.
TABLE = [
    ("R1", 1, 1, 1.0, 0.30, 0.5),
    ("R1", 1, 1, 0.0, 0.10, -0.2),
    ("R1", 1, 1, 1.0, 0.05, 0.1),
    ("R1", 1, 1, 0.0, 0.40, 0.9),
    ("R2", 0, 1, 1.0, 0.20, 0.3),
    ("R2", 0, 1, 0.0, 0.25, -0.7),
    ("R3", 1, 0, 0.0, 0.15, 0.2),
    ("R3", 0, 0, 1.0, 0.35, -0.4),
    ("R4", 1, 0, 1.0, 0.02, 0.0),
    ("R4", 0, 0, NAN, 0.45, 0.6),
]
KIND = np.array([row[0] for row in TABLE])
ASKED = np.array([row[1] for row in TABLE]) == 1
E = np.float32([row[4] for row in TABLE])
CQS = np.float32([row[5] for row in TABLE])


def log(**changes):
    """Returns the raw columns; `changes` replace some."""
    names = ("ctr_traffic", "is_impression", "click", "final_pctr", "final_cqs")
    values = zip(*(row[1:] for row in TABLE), strict=True)
    columns = {n: np.float32(v) for n, v in zip(names, values, strict=True)}
    index = np.arange(len(TABLE))
    return {
        "user_id": np.char.add("u", (index % 4).astype(str)),
        "age": np.float32(20 + index),
        "ad_id": np.char.add("a", (index % 3).astype(str)),
        FOLD: index,
        **columns,
        **changes,
    }


def problem(tasks=None, features=FEATURES, indicators=early_stage.INDICATORS):
    """Returns the declaration of the early stage, with changes."""
    tasks = early_stage.tasks() if tasks is None else tasks
    return ProblemSpec(features=features, tasks=tasks, indicators=indicators)


def pack(columns, spec=None):
    """Returns packed tensors; the statistics come from the same rows."""
    return Preprocessor(spec or problem()).fit(columns)
