"""Training an experiment's model: one entrance, whatever the loop behind it."""

import tf_keras as keras

from tfmtl.balancing.base import EpochEnd
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import SpecError
from tfmtl.features.rows import PackedData
from tfmtl.meta.train import train_meta
from tfmtl.training.checkpoints import Run, forget, lower_is_better
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
    `checkpoint_dir` a run that was killed goes on from its last checkpoint: the rows it had
    seen in the epoch are passed over, and without dropout the result is the same as if it had
    not been killed (dropout draws anew).

    Args:
        experiment: Model and training settings.
        data: Training and validation rows.
        checkpoint_dir: Where checkpoints are kept; none without it. A finished run's is
            removed by `forget`.
        verbose: 1 shows a progress bar, 2 a line an epoch, 0 nothing.
        callbacks: Further tf_keras callbacks. Every epoch is a `fit` of its own, so one that
            counts from its beginning, such as `EarlyStopping`, counts one epoch; `patience` and
            `decay` are for that.
        validate: Gives further validation metrics of a model, which `monitor` may name, such as
            the recall of a replay.

    Raises:
        SpecError: `monitor` is no metric of the problem, the network is yet to be searched, or
            `checkpoint_dir` holds a run of another experiment.
        DataError: A split is empty, or `monitor` is not defined on the validation rows.
        FloatingPointError: The training loss is no finite number any more.
    """
    if experiment.search is not None:
        raise SpecError(
            f"experiment {experiment.name!r} leaves its network to a search: found = "
            "tfmtl.search(experiment, data), and then tfmtl.train(found.experiment, data)."
        )
    if experiment.meta is not None:
        return train_meta(
            experiment,
            data,
            checkpoint_dir=checkpoint_dir,
            verbose=verbose,
            callbacks=callbacks,
            validate=validate,
        )
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
        # First, so that the epoch's checkpoint has it.
        callbacks=(EpochEnd(), *callbacks),
        validate=validate,
    )
    return Trained(model, run.state["history"], run.state["best_epoch"])
