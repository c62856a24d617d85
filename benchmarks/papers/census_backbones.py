"""Census income (KDD): multi-task backbones as reported in the READMEs of other libraries.

Torch-RecHub (examples/ranking/README.md) and PaddleRec (models/multitask/mmoe) train on the
official training half and test on the official test half, as far as their READMEs say. Ours uses
only the test half, split by row number, and chooses on validation rows. So the table shows the
usual level of AUC. It cannot confirm or refute any figure.
"""

import argparse
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from benchmarks.paper import Measured, Paper, Published
from tfmtl.errors import DataError

INCOME, MARRIAGE = "income50k/auc@person", "never_married/auc@person"
OTHER_SPLIT = "trained on another and larger half of the census, and on other features"
NO_CHAIN = "neither of these tasks implies the other, so ours is not trained"
RECHUB, PADDLE = "Torch-RecHub README", "PaddleRec README"


def measure(run: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Measured]:
    """Trains the backbone of `run` once per seed; returns test metrics by name.

    Raises:
        DataError: `--data` is missing.
    """
    if not options.data:
        raise DataError("census_backbones needs the census rows: --data path/to/census_income.")
    # Imported here, so that listing the papers does not load TensorFlow.
    from benchmarks.quality import train_and_test

    experiment, tables = _census(options.data)
    if options.quick:
        experiment = experiment.replace_path("training.epochs", 2)
    runs = [
        train_and_test(experiment, tables, backbone=run["backbone"], seed=seed)[0]
        for seed in range(1, options.seeds + 1)
    ]
    return {
        metric: Measured(values=[figures[metric] for figures in runs])
        for metric in (INCOME, MARRIAGE)
    }


@functools.cache
def _census(path: str):
    from benchmarks.quality import read_split

    return read_split("census_income", path)


def _cells(backbone: str, income: float | tuple[float, float], marriage: float) -> list[Published]:
    return [
        Published(
            name=f"{backbone}/{metric.split('/')[0]}",
            value=value,
            metric=metric,
            source=RECHUB,
            run={"backbone": backbone},
            not_comparable=OTHER_SPLIT,
        )
        for metric, value in ((INCOME, income), (MARRIAGE, marriage))
    ]


def _untrained(backbone: str, income: float, marriage: float, why: str) -> list[Published]:
    return [
        dataclasses.replace(cell, run=None, not_comparable=why)
        for cell in _cells(backbone, income, marriage)
    ]


PAPER = Paper(
    title="Census income: AUC of two tasks, by backbone",
    cells=(
        *_cells("shared_bottom", 0.9560, 0.9948),
        *_untrained("esmm", 0.7223, 0.9906, f"ESMM multiplies click and conversion; {NO_CHAIN}"),
        *_cells("mmoe", 0.9579, 0.9950),
        Published(
            name="mmoe/never_married (PaddleRec)",
            value=0.99324,
            metric=MARRIAGE,
            source=PADDLE,
            run={"backbone": "mmoe"},
            not_comparable=OTHER_SPLIT,
        ),
        *_cells("ple", (0.9583, 0.9593), 0.9950),
        *_untrained("aitm", 0.9595, 0.9951, f"AITM orders the probabilities; {NO_CHAIN}"),
    ),
    measure=measure,
)
