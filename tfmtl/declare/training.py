"""The settings of training."""

import dataclasses

from tfmtl.declare.checks import (
    SEED,
    above,
    at_least,
    between,
    check_settings,
    filled,
    inside,
    one_of,
)
from tfmtl.errors import SpecError
from tfmtl.plain import freeze

DECAYS = ("none", "cosine", "linear", "inverse_sqrt")
FLOORED = ("cosine", "linear")
OPTIMIZERS = ("adam", "adagrad", "sgd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the network is trained.

    Args:
        epochs: Most passes over the training rows.
        batch_size: Rows per step.
        learning_rate: Of the dense variables.
        embedding_learning_rate: Of the tables; as `learning_rate` if not given.
        decay: How both rates change over the updates of `epochs`: `none`, `cosine` or `linear`
            (down to `decay_floor`), or `inverse_sqrt` (as one over the root of the updates, from
            the warm-up on). With a constant rate predictions keep the noise of the last batches,
            which shows in their calibration. See `tfmtl.training.schedules`.
        decay_floor: The last rate as a share of the first, for `cosine` and `linear`.
        warmup: Updates in which both rates rise from near zero: a whole number, or a share below 1
            of all updates.
        clip_norm: The highest norm of the gradients of all variables together, tables included;
            larger ones are scaled down to it. Not clipped by default.
        ema: Share of the running average that an update keeps, such as 0.999; validation, the best
            epoch and the trained model then have averaged weights. Not averaged by default. See
            `tfmtl.training.averages`.
        reset_tables: Whether the tables start anew in each epoch while the network goes on, so that
            ids are seen once only by each table (Fan et al., MEDA, arXiv 2305.19531).
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
    decay_floor: float = 0.0
    warmup: int | float = 0
    clip_norm: float | None = None
    ema: float | None = None
    reset_tables: bool = False
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
                "decay_floor": between(0, 1),
                "warmup": at_least(0),
                "clip_norm": above(0),
                "ema": inside(0, 1),
                "optimizer": one_of(OPTIMIZERS),
                "patience": at_least(0),
                "monitor": filled(),
                "checkpoint_every": at_least(1),
                "seed": SEED,
            },
        )
        self._check_rates()
        if self.ema is not None and self.reset_tables:
            raise SpecError(
                f"training.ema={self.ema} averages the tables over epochs, and "
                "training.reset_tables=True starts them anew in each. Leave out one of them."
            )

    def _check_rates(self) -> None:
        if isinstance(self.warmup, float) and self.warmup >= 1:
            raise SpecError(
                f"training.warmup={self.warmup} must be a whole number of updates, such as 500, or "
                "a share of all updates below 1, such as 0.05."
            )
        if self.decay_floor and self.decay not in FLOORED:
            raise SpecError(
                f"training.decay_floor={self.decay_floor} is where a rate ends that falls by "
                f"{' or '.join(FLOORED)}; training.decay is {self.decay!r}."
            )
        if self.decay == "inverse_sqrt" and not self.warmup:
            raise SpecError(
                "training.decay='inverse_sqrt' falls from the end of the warm-up on; give "
                "training.warmup, such as 500 updates."
            )

    def changing_rate(self) -> str | None:
        """The setting by which the learning rate changes over updates, if one does."""
        return "decay" if self.decay != "none" else "warmup" if self.warmup else None
