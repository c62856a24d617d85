"""Training: repeatable, resumable, selected on validation."""

import dataclasses
import os

import numpy as np
import pytest
import tf_keras as keras

import tfmtl
from tests.doubles.kills import Kill
from tests.doubles.own_metrics import top_rate
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl import registry
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.run import train
from tfmtl.training import checkpoints

_, DATA = packed()


def settings(**changes):
    return experiment(backbone={"name": "mmoe", **SMALL["mmoe"]}, **changes)


def weights(trained):
    return [v.numpy() for v in trained.model.trainable_variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    one, other = (train(settings(), DATA, verbose=0) for _ in range(2))
    assert same(weights(one), weights(other))
    # As text: a metric that is not defined is NaN, which equals nothing.
    assert repr(one.history) == repr(other.history)
    assert not same(weights(one), weights(train(settings(seed=2), DATA, verbose=0)))


@pytest.mark.parametrize("after", [7, 13])
def test_a_killed_run_ends_where_an_unkilled_one_does(tmp_path, after):
    config = settings(checkpoint_every=3, epochs=2)
    whole = train(config, DATA, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(Kill(after),))
    seen = Count()
    resumed = train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(seen,))
    assert seen.steps < 20 - after + 3
    assert same(weights(whole), weights(resumed))
    assert resumed.best_epoch == whole.best_epoch
    for one, other in zip(whole.history, resumed.history, strict=True):
        # Training losses are means over what a process saw; validation is exact.
        assert {k: v for k, v in one.items() if k.startswith("val_")} == pytest.approx(
            {k: v for k, v in other.items() if k.startswith("val_")}, nan_ok=True
        )


class Count(keras.callbacks.Callback):
    """Counts steps."""

    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1


def test_a_finished_run_is_not_trained_again(tmp_path):
    config = settings()
    train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0)
    seen = Count()
    train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(seen,))
    assert seen.steps == 0
    assert len([n for n in os.listdir(tmp_path) if n.startswith("at-")]) == checkpoints.KEPT


def test_the_weights_returned_are_those_of_the_best_validation_epoch():
    config = settings(epochs=12, patience=2, learning_rate=0.05)
    trained = train(config, DATA, verbose=0)
    values = [epoch["val_mean_auc"] for epoch in trained.history]
    assert trained.best_epoch == int(np.argmax(values))
    assert len(values) == min(12, trained.best_epoch + 1 + 2)
    again = trained.model.evaluate(DATA.validation.batches(512))
    assert again["mean_auc"] == pytest.approx(max(values), abs=1e-9)


def test_a_loss_is_minimised_where_it_is_monitored():
    config = settings(epochs=8, patience=1, monitor="ctr/log_loss@imp", learning_rate=0.05)
    trained = train(config, DATA, verbose=0)
    values = [epoch["val_ctr/log_loss@imp"] for epoch in trained.history]
    assert trained.best_epoch == int(np.argmin(values))


def test_a_decaying_rate_falls_as_a_cosine_for_tables_and_dense_variables():
    trained = train(settings(decay="cosine", epochs=1), DATA, verbose=0)
    for optimizer in (trained.model.optimizer, trained.model.embedding_optimizer):
        # The rate of the last of ten steps.
        assert float(optimizer.learning_rate.numpy()) == pytest.approx(
            1e-3 * 0.5 * (1 + np.cos(0.9 * np.pi)), rel=1e-4
        )


def test_an_unknown_monitor_or_optimizer_is_named():
    with pytest.raises(SpecError, match="the name is 'ctr/auc@imp'"):
        train(settings(monitor="ctr/auc@im"), DATA, verbose=0)
    with pytest.raises(SpecError, match="Did you mean 'adam'"):
        train(settings(optimizer="adma"), DATA, verbose=0)


def masked(rows, task, **changes):
    """The rows, with one task's labels or weights replaced."""
    tensors = {name: value.numpy() for name, value in rows.tensors.items()}
    for name, value in changes.items():
        tensors[name][:, PROBLEM.task_names.index(task)] = value
    return ArrayRows(tensors)


def test_a_monitor_that_is_not_defined_on_validation_stops_instead_of_choosing_an_epoch():
    without = masked(DATA.validation, "cvr", label_weights=0.0, labels=0.0)
    data = PackedData(DATA.train, without, DATA.table_rows)
    with pytest.raises(DataError, match=r"'cvr/auc@click' is not defined.*'mean_auc'"):
        train(settings(monitor="cvr/auc@click"), data, verbose=0)
    trained = train(settings(monitor="loss", epochs=1), data, verbose=0)
    assert np.isfinite(trained.history[0]["val_loss"])


def test_an_empty_split_is_said_to_be_empty():
    empty = ArrayRows({name: value[:0] for name, value in DATA.train.tensors.items()})
    with pytest.raises(DataError, match="no training rows"):
        train(settings(), PackedData(empty, DATA.validation, DATA.table_rows), verbose=0)
    with pytest.raises(DataError, match="no rows"):
        train(settings(), PackedData(DATA.train, empty, DATA.table_rows), verbose=0)


def test_a_loss_that_is_no_number_stops_training_where_predictions_would_not_show_it():
    broken = masked(DATA.train, "cqs", labels=np.inf)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train(settings(), PackedData(broken, DATA.validation, DATA.table_rows), verbose=0)


def test_checkpoints_of_another_experiment_are_refused_by_what_changed(tmp_path):
    folder = str(tmp_path)
    train(settings(epochs=1), DATA, checkpoint_dir=folder, verbose=0)
    with pytest.raises(SpecError, match=r"\['training.learning_rate'\]"):
        train(settings(epochs=1, learning_rate=0.5), DATA, checkpoint_dir=folder, verbose=0)


def test_killed_between_best_weights_and_their_checkpoint_the_former_best_stands(
    tmp_path, monkeypatch
):
    config = settings(epochs=2, monitor="loss")
    first = weights(train(settings(epochs=1, monitor="loss"), DATA, verbose=0))
    save, ends = checkpoints.Run.save, []

    def killed_at_the_second_end(run):
        ends.append(run.state["best_epoch"])
        if len(ends) == 2:
            raise KeyboardInterrupt
        save(run)

    monkeypatch.setattr(checkpoints.Run, "save", killed_at_the_second_end)
    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, checkpoint_dir=str(tmp_path), verbose=0)
    assert ends == [0, 1]
    model = train(config, DATA, verbose=0).model
    run = checkpoints.Run(model, config, str(tmp_path))
    run.restore()
    run.load_best()
    assert run.state["best_epoch"] == 0
    assert same(first, [v.numpy() for v in model.trainable_variables])


def asking(metrics, **changes):
    """The experiment, whose first task asks for metrics."""
    config = settings(**changes)
    first, *others = config.problem.tasks
    tasks = (dataclasses.replace(first, metrics=metrics), *others)
    return config.replace_path("problem", dataclasses.replace(config.problem, tasks=tasks))


@pytest.mark.parametrize(
    ("name", "best"), [("pr_auc", np.argmax), ("brier", np.argmin), ("top_rate", np.argmax)]
)
def test_a_metric_that_a_task_asks_for_is_monitored_in_its_own_direction(name, best):
    monitor = f"ctr/{name}@imp"
    metrics = ("pr_auc", "brier", top_rate)
    config = asking(metrics, epochs=5, patience=5, learning_rate=0.05)
    config = config.replace_path("training.monitor", monitor)
    trained = train(config, DATA, verbose=0)
    values = [epoch[f"val_{monitor}"] for epoch in trained.history]
    assert len(set(values)) > 1 and trained.best_epoch == int(best(values))


def test_a_validation_metric_of_no_known_direction_is_refused_before_training():
    def validate(model):
        return {"cost": 1.0}

    with pytest.raises(SpecError, match=r"unknown metric 'cost'.*Metric\(name='cost'"):
        train(settings(monitor="cost"), DATA, verbose=0, validate=validate)


def test_a_validation_metric_is_minimised_where_it_was_declared_so(monkeypatch):
    parts = {**registry._PARTS, "metric": registry.parts("metric")}
    monkeypatch.setattr(registry, "_PARTS", parts)
    tfmtl.register("metric", "cost")(tfmtl.Metric(name="cost", best="low"))
    costs = iter([9.0, 3.0, 1.0, 2.0])
    config = settings(monitor="cost", epochs=3, patience=3)
    trained = train(config, DATA, verbose=0, validate=lambda model: {"cost": next(costs)})
    # The first call is the check before training.
    assert trained.best_epoch == 1
