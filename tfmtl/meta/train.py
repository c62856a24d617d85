"""Two-stage meta-training (Luo et al., MAN, §4.3 and Algorithm 1), for any backbone.

The first stage learns weights from which a step of gradient descent on some rows of a task helps
on its other rows. Validation is without that step, as serving is. The second stage freezes
embedding, experts and gates and trains the layers above them on ordinary batches: the paper says
that "high-level information" is trained further, and these are the highest layers.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.experiment import ExperimentConfig, Training
from tfmtl.declare.meta import Meta
from tfmtl.errors import SpecError
from tfmtl.features.rows import PackedData
from tfmtl.meta.inner_loop import Inner, mean_meta_gradient
from tfmtl.meta.tasks import OBJECTIVES, QUERY, SUPPORT, tasks_of
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.checkpoints import Run
from tfmtl.training.epochs import Trained, Validate, built, compile_model, run_epochs


class MetaLearner(keras.Model):
    """A Keras model that is fitted to tasks, and that trains the weights of another model.

    A step adapts the weights to each task's support rows, takes the loss on its query rows, and
    applies the mean of the gradients through the adaptation to the model's weights. It uses the
    model's optimizers; of tables only looked-up rows change.

    Args:
        model: A compiled model.
        meta: The settings.

    Raises:
        SpecError: The model's balancer does more than weigh losses.
    """

    def __init__(self, model: MultiTaskModel, meta: Meta) -> None:
        super().__init__(name="meta_learner")
        model.balancer.check_weighs()
        self.model, self.meta = model, meta
        self.compile(optimizer=model.optimizer)

    @property
    def metrics(self):
        """The model's metrics; here they are those of query rows at adapted weights."""
        return self.model.metrics

    def call(self, packed, training=False):
        """Calls the model, without adaptation."""
        return self.model(packed, training=training)

    @tf.autograph.experimental.do_not_convert
    def train_step(self, tasks):
        """One update from the tasks of `tfmtl.meta.tasks`."""
        model = self.model
        gradients, loss, per_task = mean_meta_gradient(
            self.loss_of,
            tuple((tasks[half], tasks[OBJECTIVES]) for half in (SUPPORT, QUERY)),
            inner_of(model, self.meta),
            [*model.trained_tables, *model.dense_variables],
            length=len(model.heads.trained),
            second_order=self.meta.second_order,
        )
        model.update(gradients)
        return model.report(loss, per_task)

    def loss_of(self, rows):
        """The loss of packed rows over the objectives that count, and the losses of all tasks."""
        packed, objectives = rows
        losses = self.model.task_losses(packed, training=True)
        counted = dataclasses.replace(losses, observed=losses.observed & objectives)
        return counted.total(self.model.balancer), losses.stacked


def inner_of(model: MultiTaskModel, meta: Meta) -> Inner:
    """Which variables of a model adapt to a task, and how.

    The balancer's weights never adapt: a task must not decide how much it counts.

    Args:
        model: Any model, built.
        meta: The settings.
    """
    fixed = {v.ref() for v in model.balancer.variables}
    if meta.inner_params == "no_embedding":
        fixed |= {v.ref() for e in model.embeddings for v in e.variables}
    every = [*model.trained_tables, *model.dense_variables]
    adapting = [v for v in every if v.ref() not in fixed]
    return Inner(adapting, meta.inner_rate, meta.inner_steps)


def train_meta(
    experiment: ExperimentConfig,
    data: PackedData,
    *,
    checkpoint_dir: str | None = None,
    verbose: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    validate: Validate | None = None,
) -> Trained:
    """Trains in two stages; `tfmtl.train` calls this for an experiment with `meta`.

    The second stage starts from the first one's best epoch. If none of its epochs is better on
    validation rows, the weights of that epoch are the result.

    Args:
        experiment: Model, training settings and `meta`.
        data: Training and validation rows.
        checkpoint_dir: As in `train`; each stage has its own folder in it.
        verbose: As in `train`.
        callbacks: As in `train`, for both stages.
        validate: As in `train`.

    Returns:
        As `train`. The history has the epochs of both stages in order; `stage`, 1 or 2, is the
        stage of an epoch.

    Raises:
        SpecError: As `train`, the model's balancer does more than weigh losses, or the second stage
            has nothing to train.
        DataError: As `train`, or the rows make too few tasks.
    """
    assert experiment.meta is not None
    meta, settings = experiment.meta, experiment.training
    model = built(experiment, data, validate)
    if meta.finetune_epochs:
        # Checked now, and not after the first stage has been trained.
        unfreeze(freeze_below(model, meta.finetune_scope))
    tasks = tasks_of(
        experiment.problem,
        data.train,
        meta,
        batch_size=settings.batch_size,
        objectives=len(model.heads.trained),
    )
    compile_model(model, settings, tasks.steps)
    first = Run(model, experiment, _folder(checkpoint_dir, "meta"))
    first.restore()
    fit = functools.partial(run_epochs, verbose=verbose, callbacks=callbacks, validate=validate)
    fit(
        first,
        MetaLearner(model, meta),
        data,
        settings,
        batches=tasks.batches,
        steps=tasks.steps,
    )
    history = [{**epoch, "stage": 1} for epoch in first.state["history"]]
    if not meta.finetune_epochs:
        return Trained(model, history, first.state["best_epoch"])
    second = _second_stage(experiment, data, first, checkpoint_dir, fit)
    best = second.state["best_epoch"]
    best = first.state["best_epoch"] if best < 0 else len(history) + best
    history += [{**epoch, "stage": 2} for epoch in second.state["history"]]
    return Trained(model, history, best)


def _second_stage(
    experiment: ExperimentConfig,
    data: PackedData,
    first: Run,
    checkpoint_dir: str | None,
    fit: Callable[..., None],
) -> Run:
    """Trains the layers of `finetune_scope` alone, from the best epoch of the first stage."""
    assert experiment.meta is not None
    model, settings = first.model, _second_settings(experiment.training, experiment.meta)
    steps = max(data.train.count() // settings.batch_size, 1)
    before = freeze_below(model, experiment.meta.finetune_scope)
    compile_model(model, settings, steps)
    second = Run(model, experiment, _folder(checkpoint_dir, "finetune"))
    second.go_on_from(first)
    second.restore()
    fit(
        second,
        model,
        data,
        settings,
        batches=lambda seed, skip: data.train.batches(settings.batch_size, seed=seed, skip=skip),
        steps=steps,
    )
    unfreeze(before)
    return second


Trainable: TypeAlias = list[tuple[keras.layers.Layer, bool]]
"""Layers, each with whether it trains."""


def freeze_below(model: MultiTaskModel, scope: Sequence[str]) -> Trainable:
    """Freezes all but the highest layers of a model; `unfreeze` undoes it.

    The balancer's weights still train. Frozen batch normalisation works as in inference, so that
    its moments do not change either.

    Args:
        model: Any model, built; it must be compiled again.
        scope: `attention`, the layers of the backbone's `fine_tuned`; `towers`, with their logits.

    Returns:
        The layers, with whether each was trainable before.

    Raises:
        SpecError: Nothing of the scope has weights to train.
    """
    trained = []
    if "attention" in scope:
        trained += model.backbone.fine_tuned()
    if "towers" in scope:
        trained.append(model.heads)
    if not any(layer.trainable_variables for layer in trained):
        raise SpecError(
            f"meta: finetune_scope={tuple(scope)!r} leaves the second stage nothing to train: this "
            "model has no such layers with weights. Widen the scope, or give finetune_epochs=0 to "
            "leave the stage out."
        )
    trained.append(model.balancer)
    kept = {id(part) for layer in trained for part in (layer, *layer.submodules)}
    layers = [part for part in model.submodules if isinstance(part, keras.layers.Layer)]
    before = [(layer, layer.trainable) for layer in layers]
    for layer in layers:
        # A layer that contains a trained layer must stay trainable, because Keras ignores the
        # trainable variables inside a frozen layer.
        if not any(id(part) in kept for part in (layer, *layer.submodules)):
            layer.trainable = False
    return before


def unfreeze(before: Trainable) -> None:
    """Makes the layers trainable again that `freeze_below` froze, and no others.

    Args:
        before: The result of `freeze_below`.
    """
    # Setting `trainable` of a layer sets it for all layers inside. So layers that never train, such
    # as logits that are frozen to the identity, are set last.
    for layer, trainable in sorted(before, key=lambda pair: not pair[1]):
        layer.trainable = trainable


def _second_settings(settings: Training, meta: Meta) -> Training:
    return dataclasses.replace(
        settings,
        epochs=meta.finetune_epochs,
        patience=meta.finetune_patience,
        learning_rate=meta.finetune_rate,
        # Another order of the rows than in the first stage.
        seed=settings.seed + 1,
    )


def _folder(checkpoint_dir: str | None, stage: str) -> str | None:
    return None if checkpoint_dir is None else os.path.join(checkpoint_dir, stage)
