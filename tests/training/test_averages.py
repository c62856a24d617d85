"""Averaged weights: a table's equal the dense average, though its rows are rarely updated."""

import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.kills import Kill
from tests.doubles.worlds import SMALL, experiment, packed
from tfmtl.declare.training import Training
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.training.averages import Averages
from tfmtl.training.epochs import compile_model

_, DATA = packed()
ROWS = 6


def config(**training):
    return experiment(backbone={"name": "mmoe", **SMALL["mmoe"]}, **training)


def weights(trained):
    return [v.numpy() for v in trained.model.trainable_variables]


def of_table(decay):
    """Averages of one table of `[6, 2]`, and the table."""
    table = tf.Variable(np.random.default_rng(0).normal(size=(ROWS, 2)), dtype=tf.float64)
    model = types.SimpleNamespace(dense_variables=[], trained_tables=[table])
    averages = Averages(model, decay)
    averages.build()
    return averages, table


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), min_size=1, max_size=25),
    st.sampled_from([0.5, 0.9, 0.999]),
)
def test_a_table_s_average_is_the_dense_one_whichever_rows_an_update_touches(touches, decay):
    averages, table = of_table(decay)
    rng = np.random.default_rng(1)
    expected = table.numpy()
    for t, rows in enumerate(touches, 1):
        gradient = tf.IndexedSlices(tf.zeros([len(rows), 2]), tf.constant(rows, tf.int32))
        touched = averages.before([gradient])
        for row in set(rows):
            table[row].assign(rng.normal(size=2))
        averages.after(touched)
        beta = min(decay, (1 + t) / (10 + t))
        expected = beta * expected + (1 - beta) * table.numpy()
    averages.flush()
    np.testing.assert_allclose(averages.tables[0].numpy(), expected, atol=1e-12)
    averages.flush()
    np.testing.assert_allclose(averages.tables[0].numpy(), expected, atol=1e-12)


def test_a_row_that_is_averaged_only_when_it_is_looked_up_would_differ():
    averages, table = of_table(0.9)
    row = tf.IndexedSlices(tf.zeros([1, 2]), tf.constant([2]))
    other = tf.IndexedSlices(tf.zeros([1, 2]), tf.constant([3]))
    naive = table.numpy()[2]
    for t in range(1, 30):
        gradient = row if t % 10 == 1 else other
        touched = averages.before([gradient])
        table[int(gradient.indices[0])].assign([float(t), -float(t)])
        averages.after(touched)
        if t % 10 == 1:
            beta = min(0.9, (1 + t) / (10 + t))
            naive = beta * naive + (1 - beta) * table.numpy()[2]
    averages.flush()
    assert np.abs(averages.tables[0].numpy()[2] - naive).max() > 1.0


def test_dense_variables_are_averaged_over_the_real_updates_of_a_model():
    model = MultiTaskModel.build_from(config().problem, DATA.table_rows, config().model)
    compile_model(model, Training(ema=0.8))
    batch = next(iter(DATA.train.batches(64)))
    model(batch)
    model.averages.build()
    variables = [*model.dense_variables, *model.trained_tables]
    expected = [v.numpy() for v in variables]
    step = tf.function(model.train_step)
    for t in range(1, 8):
        step(batch)
        beta = min(0.8, (1 + t) / (10 + t))
        expected = [
            beta * a + (1 - beta) * v.numpy() for a, v in zip(expected, variables, strict=True)
        ]
    trained = [v.numpy() for v in variables]
    with model.averages.applied():
        for variable, average in zip(variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), average, atol=1e-6)
    for variable, value in zip(variables, trained, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_averages_are_no_variables_of_the_model():
    model = MultiTaskModel.build_from(config().problem, DATA.table_rows, config().model)
    compile_model(model, Training())
    model(next(iter(DATA.train.batches(64))))
    count = len(model.variables)
    compile_model(model, Training(ema=0.9))
    model.averages.build()
    assert len(model.variables) == count


def test_what_is_validated_and_returned_is_averaged():
    averaged = train(config(ema=0.97, epochs=2), DATA, verbose=0)
    plain = train(config(epochs=2), DATA, verbose=0)
    assert averaged.history[0]["val_loss"] != plain.history[0]["val_loss"]
    # The training itself goes on from the weights that are not averaged.
    assert averaged.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-6)
    metrics = averaged.model.evaluate(DATA.validation.batches(256))
    best = averaged.history[averaged.best_epoch]
    assert metrics["loss"] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.parametrize("after", [7, 13])
def test_a_killed_run_ends_with_the_averages_of_an_unkilled_one(tmp_path, after):
    made = config(checkpoint_every=3, epochs=2, ema=0.9)
    whole = train(made, DATA, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        train(made, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(Kill(after),))
    resumed = train(made, DATA, checkpoint_dir=str(tmp_path), verbose=0)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(SpecError, match=r"training.ema"):
        Training(ema=share)
