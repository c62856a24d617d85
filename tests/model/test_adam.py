"""The fused Adam beside Keras' own."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.model.adam import Adam


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"amsgrad": True},
        {"clipnorm": 0.1},
        {"weight_decay": 0.01},
        {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 4)},
    ],
)
def test_weights_and_slots_are_those_of_keras(settings):
    random = np.random.default_rng(0)
    start = random.normal(size=(4, 3)).astype(np.float32)
    ends = []
    for kind in (Adam, keras.optimizers.Adam):
        gradients = np.random.default_rng(1)
        variable, optimizer = tf.Variable(start), kind(**{"learning_rate": 0.1, **settings})
        step = tf.function(lambda g, o=optimizer, v=variable: o.apply_gradients([(g, v)]))
        optimizer.build([variable])
        for _ in range(5):
            step(tf.constant(gradients.normal(size=(4, 3)), tf.float32))
        ends.append([variable, *optimizer.variables])
    assert len(ends[0]) == len(ends[1])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_keras_adam_is_one_of_ours(tmp_path):
    theirs, variable = keras.optimizers.Adam(0.1), tf.Variable([1.0, 2.0])
    theirs.apply_gradients([(tf.constant([0.5, -1.0]), variable)])
    path = tf.train.Checkpoint(optimizer=theirs).write(str(tmp_path / "adam"))
    ours = Adam(0.1)
    ours.build([variable])
    tf.train.Checkpoint(optimizer=ours).read(path).assert_existing_objects_matched()
    for one, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(one, other)
