"""Two-stage meta-training (Luo et al., MAN, §4.3 and Algorithm 1), for any backbone.

The first stage learns weights from which a step of gradient descent on some rows of a task helps
on its other rows; validation is without that step, as serving is. The second stage freezes
embedding, experts and gates and trains what stands above them on ordinary batches: the paper
says that "high-level information" goes on to be trained, and these are its highest layers.
"""

import dataclasses
import os
from collections.abc import Sequence
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
from tfmtl.training.epochs import Trained, Validate, compile_model, ready, run_epochs


class MetaLearner(keras.Model):
    """A model to `fit` on tasks; what it trains is another model's weights.

    A step adapts the weights to each task's support rows, takes the loss on its query rows, and
    moves the model's own weights by the mean of the gradients through the adaptation. The model's
    optimizers do so, and only rows that were looked up move.

    Args:
        model: A compiled model.
        meta: The settings.

    Raises:
        SpecError: The model's balancer changes gradients, and not only losses.
    """

    def __init__(self, model: MultiTaskModel, meta: Meta) -> None:
        super().__init__(name="meta_learner")
        model.balancer.check_weighs()
        self.model, self.meta = model, meta
        self.compile(optimizer=model.optimizer)

    @property
    def metrics(self):
        """Those of the model, here of query rows at adapted weights."""
        return self.model.metrics

    def call(self, packed, training=False):
        """As the model; nothing adapts."""
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
        """The loss of packed rows, of the objectives that count, and the losses of all tasks."""
        packed, objectives = rows
        found = self.model.task_losses(packed, training=True)
        counted = dataclasses.replace(found, observed=found.observed & objectives)
        return counted.total(self.model.balancer), found.stacked


def inner_of(model: MultiTaskModel, meta: Meta) -> Inner:
    """What of a model adapts to a task, and how.

    The balancer's own weights never do: how much a task counts is not for a task to say.

    Args:
        model: Any model, built.
        meta: The settings.
    """
    kept = {v.ref() for v in model.balancer.variables}
    if meta.inner_params == "no_embedding":
        kept |= {v.ref() for e in model.embeddings for v in e.variables}
    every = [*model.trained_tables, *model.dense_variables]
    adapting = [v for v in every if v.ref() not in kept]
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
    """Trains in two stages; `tfmtl.train` does so where the experiment has `meta`.

    The second stage starts from the first one's best epoch and may end there: where none of its
    epochs is better on validation, those weights stay.

    Args:
        experiment: Model, training settings and `meta`.
        data: Training and validation rows.
        checkpoint_dir: As in `train`; each stage has a folder in it.
        verbose: As in `train`.
        callbacks: As in `train`, for both stages.
        validate: As in `train`.

    Returns:
        As `train`. The history has the epochs of both stages, one after the other, and says by
        `stage`, 1 or 2, which an epoch is of.

    Raises:
        SpecError: As `train`, the model's balancer changes gradients, or the second stage has
            nothing to train.
        DataError: As `train`, or the rows make too few tasks.
    """
    assert experiment.meta is not None
    meta, settings = experiment.meta, experiment.training
    model = ready(experiment, data, validate)
    if meta.finetune_epochs:
        # Refused now, rather than when the first stage has been trained.
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
    run_epochs(
        first,
        MetaLearner(model, meta),
        data,
        settings,
        batches=tasks.batches,
        steps=tasks.steps,
        verbose=verbose,
        callbacks=callbacks,
        validate=validate,
    )
    history = [{**epoch, "stage": 1} for epoch in first.state["history"]]
    if not meta.finetune_epochs:
        return Trained(model, history, first.state["best_epoch"])
    settings = _second_settings(settings, meta)
    steps = max(data.train.count() // settings.batch_size, 1)
    before = freeze_below(model, meta.finetune_scope)
    compile_model(model, settings, steps)
    second = Run(model, experiment, _folder(checkpoint_dir, "finetune"))
    second.go_on_from(first)
    second.restore()
    run_epochs(
        second,
        model,
        data,
        settings,
        batches=lambda seed, skip: data.train.batches(settings.batch_size, seed=seed, skip=skip),
        steps=steps,
        verbose=verbose,
        callbacks=callbacks,
        validate=validate,
    )
    unfreeze(before)
    best = second.state["best_epoch"]
    best = first.state["best_epoch"] if best < 0 else len(history) + best
    history += [{**epoch, "stage": 2} for epoch in second.state["history"]]
    return Trained(model, history, best)


Trainable: TypeAlias = list[tuple[keras.layers.Layer, bool]]
"""Layers, and whether each trains."""


def freeze_below(model: MultiTaskModel, scope: Sequence[str]) -> Trainable:
    """Lets a model train its highest layers alone; `unfreeze` undoes it.

    A balancer's own weights still train. Frozen batch normalisation works as in inference, so
    that its moments stay too.

    Args:
        model: Any model, built; it must be compiled anew.
        scope: `attention`, what the backbone calls `fine_tuned`; `towers`, with their logits.

    Returns:
        What was trainable before.

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
        # A layer around one that trains must stay trainable itself, or it would hide it.
        if not any(id(part) in kept for part in (layer, *layer.submodules)):
            layer.trainable = False
    return before


def unfreeze(before: Trainable) -> None:
    """Lets layers train again that `freeze_below` froze, and no others.

    Args:
        before: What that returned.
    """
    # Whether a layer trains is set for all that is in it. Those that never train, such as logits
    # that only pass on, come last.
    for layer, trainable in sorted(before, key=lambda pair: not pair[1]):
        layer.trainable = trainable


def _second_settings(settings: Training, meta: Meta) -> Training:
    return dataclasses.replace(
        settings,
        epochs=meta.finetune_epochs,
        patience=meta.finetune_patience,
        learning_rate=meta.finetune_rate,
        # Other rows' order than the first stage's.
        seed=settings.seed + 1,
    )


def _folder(checkpoint_dir: str | None, stage: str) -> str | None:
    return None if checkpoint_dir is None else os.path.join(checkpoint_dir, stage)
