"""The search for an experiment's network (AutoMTL)."""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras
from absl import logging
from tqdm import tqdm

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.bilevel import Bilevel, Schedule, supernet_model
from tfmtl.automtl.checks import check_search
from tfmtl.automtl.derive import derive, skip_count, softmax
from tfmtl.automtl.found import CHECKPOINTS, Budget, Found
from tfmtl.automtl.random_search import search_at_random
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import DataError
from tfmtl.features.rows import PackedData, Rows, label_moments
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.checkpoints import Run
from tfmtl.training.epochs import seed_of


def search(
    experiment: ExperimentConfig,
    data: PackedData,
    *,
    directory: str | None = None,
    verbose: int = 1,
) -> Found:
    """Searches for the network of an experiment with `search`.

        found = tfmtl.search(experiment, data, directory="search")
        print(found.architecture)
        trained = tfmtl.train(found.experiment, data)

    In turns, training rows train the weights of all candidates and the tasks' choices of experts,
    and validation rows train the architecture (AutoMTL, Algorithm 1). The batch size, the seed and
    the interval of checkpoints are those of `experiment.training`; rates and epochs are those of
    `experiment.search`. The network is derived from the last epoch, not the best: a lower loss in
    an early epoch shows how well weights are trained, not which operation is better.

    The same experiment and rows give the same network, bit for bit, on CPU. With a `directory` a
    search that was killed continues from its last checkpoint, with the same result as if it had not
    been killed (except for dropout, which draws new masks).

    Args:
        experiment: An experiment with `search`.
        data: Training and validation rows.
        directory: Folder of the checkpoints and, at the end, of the files of `Found.save`; without
            it nothing is written.
        verbose: 1 shows a progress bar, 2 logs one line per epoch, 0 nothing.

    Raises:
        SpecError: The experiment has no `search`, or one that does not fit it; or `directory`
            holds a search of another experiment.
        DataError: A split is empty, or no task has a validation row.
        FloatingPointError: The training loss is no longer finite.
    """
    declared = check_search(experiment)
    for name, rows in (("training", data.train), ("validation", data.validation)):
        if not rows.count():
            raise DataError(f"there are no {name} rows; was the split empty?")
    if declared.algorithm == "random":
        found = search_at_random(experiment, data, directory=directory, verbose=verbose)
    else:
        found = search_by_gradient(experiment, data, directory=directory, verbose=verbose)
    if directory is not None:
        found.save(directory)
    return found


def search_by_gradient(
    experiment: ExperimentConfig, data: PackedData, *, directory: str | None, verbose: int
) -> Found:
    """The differentiable search; see `search`."""
    declared, settings = check_search(experiment), experiment.training
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = supernet_model(experiment, declared, data.table_rows)
    model(next(iter(data.train.batches(min(data.train.count(), settings.batch_size)))))
    model.heads.adapt(*label_moments(data.train))
    steps = max(data.train.count() // settings.batch_size, 1)
    bilevel = Bilevel(model, declared, Schedule(declared, steps))
    run = Run(
        model,
        experiment,
        None if directory is None else os.path.join(directory, CHECKPOINTS),
        monitor="loss",
        keep_best=False,
        more=bilevel.state,
    )
    run.state["budget"] = {}
    run.restore()
    budget = Budget(run.state["budget"])
    with tqdm(
        total=bilevel.schedule.total,
        initial=run.state["epoch"] * steps + run.state["step"],
        disable=verbose != 1,
        unit=" steps",
    ) as bar:
        while run.state["epoch"] < declared.epochs and run.state["wait"] < declared.search_patience:
            row = _epoch(run, bilevel, data, experiment, budget, bar)
            run.finish_epoch(row, row["val_loss"])
            # No early end in the warm-up, in which the tasks' choices of experts are not trained.
            if declared.selection and run.state["epoch"] <= declared.warm_up_epochs:
                run.state["wait"] = 0
            run.save()
            _show(row, bar, verbose)
    history = run.state["history"]
    architecture = architecture_of(
        model,
        declared,
        dataset=experiment.name,
        seed=settings.seed,
        width=experiment.model.dim,
        dim=experiment.model.dim,
        fields=sum(len(embedding.field_names) for embedding in model.embeddings),
        frozen_ops=history[-1]["frozen"],
    )
    about = {**dataclasses.asdict(declared), "budget": budget.spent}
    architecture = dataclasses.replace(architecture, search=about)
    return Found(architecture, architecture.apply(experiment), history, budget.spent)


def _epoch(
    run: Run,
    bilevel: Bilevel,
    data: PackedData,
    experiment: ExperimentConfig,
    budget: Budget,
    bar: tqdm,
) -> dict[str, Any]:
    """Trains to the end of an epoch; returns its row of the history."""
    settings, model, epoch = experiment.training, bilevel.model, run.state["epoch"]
    size, steps = settings.batch_size, bilevel.schedule.steps
    done = epoch * steps + run.state["step"]
    for mean in model.metrics:
        mean.reset_state()
    batches = zip(
        data.train.batches(size, seed=seed_of(settings.seed, epoch), skip=run.state["step"]),
        cycled(data.validation, size, seed=settings.seed, start=done),
        strict=False,
    )
    losses: dict[str, tf.Tensor] = {}
    for train, validation in batches:
        losses = bilevel.step(train, validation, done)
        done += 1
        budget.add(1, _rows_of(train) + _rows_of(validation))
        run.state["step"] += 1
        if run.state["step"] % settings.checkpoint_every == 0 and run.state["step"] < steps:
            run.save()
        bar.set_description(f"epoch {epoch + 1}/{bilevel.search.epochs}", refresh=False)
        bar.update()
    row: dict[str, Any] = {name: float(value) for name, value in losses.items()}
    if not math.isfinite(row.get("loss", 0.0)):
        raise FloatingPointError(
            f"the training loss is {row['loss']} in epoch {epoch}: the search diverged. Lower "
            f"search.learning_rate (it is {bilevel.search.learning_rate:g}), or look for enormous "
            "numbers among labels and features."
        )
    # Batches as small as in training, because all candidates of all experts are in memory.
    metrics = model.evaluate(data.validation.batches(size))
    if math.isnan(metrics["loss"]):
        raise DataError("no task has a validation row, so that no architecture can be judged.")
    row.update({f"val_{name}": value for name, value in metrics.items()})
    row.update(_progress(bilevel, epoch, done))
    budget.add(0, 0)
    return row


def _progress(bilevel: Bilevel, epoch: int, done: int) -> dict[str, Any]:
    """The state of the search at the end of an epoch, apart from losses."""
    model, declared = bilevel.model, bilevel.search
    skips, blocks = skip_count(declared, alphas_of(model))
    beta = model.backbone.beta
    report: dict[str, Any] = {"frozen": [], "difference": {}}
    if bilevel.stopping is not None:
        report = bilevel.stopping.report()
    return {
        "epoch": epoch,
        "step": done,
        "n_skip": skips,
        "n_blocks": blocks,
        "aux_weight": bilevel.schedule.aux_weight(done - 1),
        "architecture": architecture_of(model, declared).line,
        "selection": {}
        if beta is None
        else dict(zip(model.backbone.tasks, softmax(beta.numpy()).tolist(), strict=True)),
        **report,
    }


def alphas_of(model: MultiTaskModel) -> dict[str, Any]:
    """A supernet's logits by kind of block, in the form that `derive` takes."""
    supernet = model.backbone
    kinds = {
        "interaction": supernet.alpha_interaction,
        "pooling": supernet.alpha_pooling,
        "hidden": supernet.alpha_hidden,
    }
    return {kind: None if alpha is None else alpha.numpy() for kind, alpha in kinds.items()}


def architecture_of(model: MultiTaskModel, declared: AutoMTL, **more: Any) -> Architecture:
    """The network that is derived from a supernet's present weights."""
    beta = model.backbone.beta
    return derive(
        declared,
        alphas_of(model),
        None if beta is None else beta.numpy(),
        model.backbone.tasks,
        **more,
    )


def cycled(rows: Rows, batch_size: int, *, seed: int, start: int) -> Iterator[Packed]:
    """Yields shuffled batches without end; every pass over the rows has another order.

    Args:
        rows: The rows.
        batch_size: Rows per batch.
        seed: Seed of the orders.
        start: Number of batches to skip, for resuming.
    """
    steps = max(rows.count() // batch_size, 1)
    number, skip = divmod(start, steps)
    while True:
        yield from rows.batches(batch_size, seed=seed_of(seed, number), skip=skip)
        number, skip = number + 1, 0


def _rows_of(batch: Packed) -> int:
    return int(next(iter(batch.values())).shape[0])


def _show(row: dict[str, Any], bar: tqdm, verbose: int) -> None:
    shown = {
        "val_loss": f"{row['val_loss']:.4f}",
        "frozen": len(row["frozen"]),
        "skips": f"{row['n_skip']}/{row['n_blocks']}",
    }
    bar.set_postfix(shown)
    if verbose == 1:
        bar.write(f"epoch {row['epoch'] + 1}: {row['architecture']}")
    elif verbose:
        logging.info("Search, epoch %d: %s; %s", row["epoch"] + 1, shown, row["architecture"])
