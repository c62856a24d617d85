"""Multi-task, multi-scene ranking of ads and recommendations on TensorFlow."""

import importlib
import os
from typing import Any

# TFRS needs Keras 2, and whoever imports TensorFlow first decides what `tf.keras` is.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from tfmtl._version import __version__  # noqa: E402

# Loaded on first use: declaring a problem should not wait for TensorFlow.
_PUBLIC = {
    "tfmtl.errors": ("DataError", "SpecError"),
    "tfmtl.problem": (
        "ProblemSpec",
        "binary",
        "categorical",
        "count_encoding",
        "numerical",
        "regression",
        "target_encoding",
    ),
    "tfmtl.experiment": (
        "Evaluation",
        "ExperimentConfig",
        "Model",
        "Replay",
        "Training",
        "Tuning",
    ),
    "tfmtl.meta": ("Meta",),
    "tfmtl.automtl.architecture": ("Architecture",),
    "tfmtl.automtl.declare": ("AutoMTL",),
    "tfmtl.automtl.found": ("Found",),
    "tfmtl.automtl.pictures": ("draw_architecture",),
    "tfmtl.mtms.declare": ("MTMS",),
    "tfmtl.partition": (
        "Sampling",
        "by_column",
        "by_hash",
        "by_row_number",
        "by_time",
        "whole",
    ),
    "tfmtl.total_value": ("TotalValue",),
    "tfmtl.boosting": ("Boosters", "train_boosters"),
    "tfmtl.data.readers": ("Source",),
    "tfmtl.data.table": ("read_table",),
    "tfmtl.inputs": ("ArrayRows",),
    "tfmtl.preparation": ("prepare",),
    "tfmtl.replay": ("ReplayLog",),
    "tfmtl.recall": ("recall_at", "tvd"),
    "tfmtl.replay_report": ("consistency_report",),
    "tfmtl.few_shot.report": ("ColdStart",),
    "tfmtl.few_shot.picture": ("draw_cold_start",),
    "tfmtl.training.cold_start": ("cold_start",),
    "tfmtl.training.replayed": ("replay_validation",),
    "tfmtl.training.search": ("search",),
    "tfmtl.training.transfer": ("negative_transfer",),
    "tfmtl.training.weights": ("tune_loss_weights",),
    "tfmtl.transfer.report": ("TransferReport",),
    "tfmtl.transfer.picture": ("draw_transfer",),
    "tfmtl.features.fit": ("Preprocessor",),
    "tfmtl.model": ("MultiTaskModel",),
    "tfmtl.training": ("load_slot", "train", "train_slot"),
    "tfmtl.serving": ("export", "to_examples"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tfmtl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
