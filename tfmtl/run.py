"""Training an experiment's model: one function for every kind of training."""

import tf_keras as keras

from tfmtl.balancing.base import EpochEnd
from tfmtl.calibration.fit import calibrate
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import SpecError
from tfmtl.features.rows import PackedData
from tfmtl.meta.train import train_meta
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.training.checkpoints import Run, forget
from tfmtl.training.epochs import (
    Trained,
    Validate,
    best_metrics,
    compile_model,
    ready,
    run_epochs,
)

__all__ = [
    "Trained",
    "Validate",
    "best_metrics",
    "compile_model",
    "forget",
    "lower_is_better",
    "train",
]


def train(
    experiment: ExperimentConfig,
    data: PackedData,
    *,
    checkpoint_dir: str | None = None,
    verbose: int = 1,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    validate: Validate | None = None,
) -> Trained:
    """Trains the experiment's model and returns it with the weights of its best epoch.

    With `experiment.meta` it is meta-trained in two stages; see `tfmtl.meta.train`.

    The same experiment and rows give the same weights, bit for bit, on CPU. With a
    `checkpoint_dir` a run that was killed continues from its last checkpoint: rows of the epoch
    that it has already seen are skipped. Without dropout the result is the same as if the run had
    not been killed; dropout draws new masks.

    Args:
        experiment: Model and training settings.
        data: Training and validation rows.
        checkpoint_dir: Where checkpoints are kept; without it none are written. `forget` removes
            those of a finished run.
        verbose: 1 shows a progress bar, 2 one line per epoch, 0 nothing.
        callbacks: Further tf_keras callbacks. Every epoch is a separate `fit`, so a callback that
            counts epochs from the start of `fit`, such as `EarlyStopping`, sees one epoch only;
            use `patience` and `decay` for that.
        validate: Returns further validation metrics of a model, which `monitor` may name, such as
            the recall of a replay.

    Raises:
        SpecError: `monitor` is not a metric of the problem, the network has still to be searched,
            or `checkpoint_dir` holds a run of another experiment.
        DataError: A split is empty, or `monitor` is not defined on the validation rows.
        FloatingPointError: The training loss is no longer finite.
    """
    if experiment.search is not None:
        raise SpecError(
            f"experiment {experiment.name!r} leaves its network to a search: found = "
            "tfmtl.search(experiment, data), and then tfmtl.train(found.experiment, data)."
        )
    if experiment.meta is not None:
        trained = train_meta(
            experiment,
            data,
            checkpoint_dir=checkpoint_dir,
            verbose=verbose,
            callbacks=callbacks,
            validate=validate,
        )
        return _calibrated(trained, experiment, data)
    settings = experiment.training
    model = ready(experiment, data, validate)
    run = Run(model, experiment, checkpoint_dir)
    run.restore()
    run_epochs(
        run,
        model,
        data,
        settings,
        batches=lambda seed, skip: data.train.batches(settings.batch_size, seed=seed, skip=skip),
        steps=max(data.train.count() // settings.batch_size, 1),
        verbose=verbose,
        # First, so that the checkpoint of the epoch holds the balancer's new state.
        callbacks=(EpochEnd(), *callbacks),
        validate=validate,
    )
    trained = Trained(model, run.state["history"], run.state["best_epoch"])
    return _calibrated(trained, experiment, data)


def _calibrated(trained: Trained, experiment: ExperimentConfig, data: PackedData) -> Trained:
    if experiment.calibration is not None:
        calibrate(trained.model, data.validation, experiment.calibration)
    return trained
