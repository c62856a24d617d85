"""Fields of ids that a training row does not see."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed, towers_of
from tfmtl import registry
from tfmtl.declare.experiment import Model
from tfmtl.errors import SpecError
from tfmtl.layers.id_dropout import IdDropout
from tfmtl.model.multitask import MultiTaskModel

_, DATA = packed()
BATCH = next(iter(DATA.train.batches(64)))


def test_a_share_of_the_ids_is_zero_and_the_rest_is_as_it_was():
    layer = IdDropout(0.3, 4)
    fields = tf.ones([4000, 6, 5])
    seen = layer(fields, training=True).numpy()
    assert set(np.unique(seen)) == {0.0, 1.0}
    dropped = (seen == 0).all(axis=2)
    np.testing.assert_array_equal(dropped, (seen == 0).any(axis=2))
    np.testing.assert_allclose(dropped[:, :4].mean(axis=0), 0.3, atol=0.03)
    assert not dropped[:, 4:].any()
    # Each field by itself: two are left out together as often as chance has it.
    assert (dropped[:, 0] & dropped[:, 1]).mean() == pytest.approx(0.09, abs=0.02)


def test_without_training_nothing_changes():
    fields = tf.random.normal([8, 6, 5])
    np.testing.assert_array_equal(IdDropout(0.9, 4)(fields, training=False), fields)


@pytest.mark.parametrize("name", registry.names("backbone"))
def test_every_backbone_trains_with_it_and_is_served_without(name):
    def model(rate):
        keras.utils.set_random_seed(1)
        settings = experiment(
            backbone={"name": name, **SMALL[name]}, id_dropout=rate, tower_units=towers_of(name)
        )
        made = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
        made(BATCH)
        return made

    plain, dropping = model(0.0), model(0.9)
    for variable in plain.trainable_variables:
        # Some start at zero, or so near that leaving an id out hardly shows.
        variable.assign_add(0.3 * tf.random.normal(variable.shape, seed=2))
    for variable, value in zip(dropping.variables, plain.variables, strict=True):
        variable.assign(value)
    for task, prediction in plain(BATCH).items():
        np.testing.assert_allclose(dropping(BATCH)[task], prediction, atol=1e-6)
    one, other = (m.task_losses(BATCH, training=True).stacked.numpy() for m in (plain, dropping))
    assert not np.allclose(one, other)


def test_the_decay_of_tables_has_its_own_weight():
    def decay(**changes):
        settings = experiment(
            backbone={"name": "shared_bottom", **SMALL["shared_bottom"]}, **changes
        )
        keras.utils.set_random_seed(1)
        model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
        losses = model.task_losses(BATCH)
        return float(losses.others[-1]) if losses.others else 0.0

    both, kernels, rows = decay(l2=0.1), decay(l2=0.1, table_l2=0.0), decay(l2=0.0, table_l2=0.1)
    assert kernels > 0 and rows > 0
    assert both == pytest.approx(kernels + rows, rel=1e-5)
    assert decay(l2=0.1, table_l2=0.3) == pytest.approx(kernels + 3 * rows, rel=1e-5)
    assert decay(l2=0.0) == 0.0


@pytest.mark.parametrize("rate", [1.0, -0.1, "no"])
def test_a_share_that_is_none_is_refused(rate):
    with pytest.raises(SpecError, match=r"model.id_dropout"):
        Model(id_dropout=rate)
