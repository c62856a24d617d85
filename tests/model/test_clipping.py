"""One norm over the gradients of tables and dense variables."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import SMALL, experiment, packed
from tfmtl.model.clipping import clipped
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

SLICES = tf.IndexedSlices(
    tf.constant([[1.0, 2.0], [3.0, 0.0], [1.0, 2.0]]), tf.constant([4, 1, 4]), tf.constant([6, 2])
)
DENSE = tf.constant([[2.0, -1.0, 0.5]])
NORM = np.sqrt((np.array([[2.0, 4.0], [3.0, 0.0]]) ** 2).sum() + 5.25)


def dense(gradient):
    return tf.convert_to_tensor(gradient).numpy()


def test_the_norm_is_that_of_the_dense_gradients_where_a_row_occurs_twice():
    _, norm = clipped([SLICES, DENSE], 1.0)
    assert float(norm) == pytest.approx(NORM, rel=1e-6)


def test_a_larger_norm_becomes_the_given_one_and_the_direction_stays():
    (slices, rest), _ = clipped([SLICES, DENSE], 1.5)
    expected = [dense(g) * 1.5 / NORM for g in (SLICES, DENSE)]
    np.testing.assert_allclose(dense(slices), expected[0], rtol=1e-6)
    np.testing.assert_allclose(dense(rest), expected[1], rtol=1e-6)


def test_a_smaller_norm_stays_as_it_is():
    (slices, rest), _ = clipped([SLICES, DENSE], 100.0)
    np.testing.assert_array_equal(dense(slices), dense(SLICES))
    np.testing.assert_array_equal(dense(rest), dense(DENSE))


def test_a_variable_that_is_not_reached_stays_none():
    gradients, norm = clipped([None, DENSE, None], 1.0)
    assert gradients[0] is None and gradients[2] is None
    assert float(norm) == pytest.approx(np.sqrt(5.25), rel=1e-6)
    assert clipped([None], 1.0)[0] == [None]


def test_no_table_becomes_dense():
    (slices,), _ = clipped([SLICES], 1.0)
    assert isinstance(slices, tf.IndexedSlices)
    assert sorted(slices.indices.numpy().tolist()) == [1, 4]


def _model(**training):
    _, data = packed()
    settings = experiment(backbone={"name": "shared_bottom", **SMALL["shared_bottom"]})
    keras.utils.set_random_seed(3)
    model = MultiTaskModel.build_from(settings.problem, data.table_rows, settings.model)
    for name, value in training.items():
        settings = settings.replace_path(f"training.{name}", value)
    compile_model(model, settings.training)
    batch = next(iter(data.train.batches(64)))
    model(batch)
    return model, batch


def test_an_update_with_sgd_is_as_long_as_the_rate_times_the_norm():
    # Plain steps on tables too, so that the length of the whole update can be read.
    lengths = {}
    for norm in (None, 0.01):
        model, batch = _model(optimizer="sgd", clip_norm=norm)
        model.embedding_optimizer = keras.optimizers.SGD(model.optimizer.learning_rate.numpy())
        variables = [*model.trained_tables, *model.dense_variables]
        before = [v.numpy() for v in variables]
        model.train_step(batch)
        moved = [v.numpy() - b for v, b in zip(variables, before, strict=True)]
        lengths[norm] = np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moved))
    rate = float(model.optimizer.learning_rate)
    assert lengths[None] > 2 * rate * 0.01
    assert lengths[0.01] == pytest.approx(rate * 0.01, rel=1e-3)


def test_two_kinds_of_clipping_at_once_are_refused():
    model, _ = _model()
    with pytest.raises(ValueError, match=r"clip_norm=1.0 .* global_clipnorm=2.0"):
        model.compile(keras.optimizers.Adam(global_clipnorm=2.0), clip_norm=1.0)
