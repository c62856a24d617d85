"""The settings of training."""

import dataclasses

from tfmtl.declare.checks import SEED, above, at_least, check_settings, filled, one_of
from tfmtl.plain import freeze

DECAYS = ("none", "cosine")
OPTIMIZERS = ("adam", "adagrad", "sgd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the network is trained.

    Args:
        epochs: Most passes over the training rows.
        batch_size: Rows per step.
        learning_rate: Of the dense variables.
        embedding_learning_rate: Of the tables; as `learning_rate` if not given.
        decay: `none`, or `cosine`: both rates fall to zero over `epochs`. With a constant
            rate predictions keep the noise of the last batches, which shows in their calibration.
        optimizer: `adam`, `adagrad` or `sgd`, for the dense variables.
        embedding_optimizer: Registered row-wise optimizer for the tables.
        patience: Epochs without a better `monitor` before training stops.
        monitor: A validation metric (`cvr/auc@click`), `mean_auc` over the binary tasks, or
            `loss` (regressions alone have no AUC). It has a direction, which its declaration
            gives: see `tfmtl.metric`.
        checkpoint_every: Steps between checkpoints; an epoch's end always makes one.
        seed: Decides initial weights, the order of rows and dropout.

    Raises:
        SpecError: A setting has the wrong type or lies out of its range.
    """

    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 1e-3
    embedding_learning_rate: float | None = None
    decay: str = "none"
    optimizer: str = "adam"
    embedding_optimizer: str = "rowwise_adam"
    patience: int = 2
    monitor: str = "mean_auc"
    checkpoint_every: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(
            "training.",
            self,
            {
                "epochs": at_least(1),
                "batch_size": at_least(1),
                "learning_rate": above(0),
                "embedding_learning_rate": above(0),
                "decay": one_of(DECAYS),
                "optimizer": one_of(OPTIMIZERS),
                "patience": at_least(0),
                "monitor": filled(),
                "checkpoint_every": at_least(1),
                "seed": SEED,
            },
        )
