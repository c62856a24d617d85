"""What the architectures are for: tasks in conflict, and steps in their order."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones import AITM, CGC, PLE, SharedBottom
from tfmtl.losses.terms import OrderCalibration
from tfmtl.metrics.auc import auc

TASKS = ("a", "b")
BATCH = 256


def fit(backbone, fields, labels, *, steps, term=None):
    """Trains with linear heads on all rows; returns the function of predictions."""
    heads = {t: keras.layers.Dense(1) for t in TASKS}
    optimizer = keras.optimizers.Adam(0.01)

    def logits(fields):
        representations = backbone(fields)
        return tf.concat([heads[t](representations[t]) for t in TASKS], axis=1)

    logits(fields[:1])
    weights = [w for layer in (backbone, *heads.values()) for w in layer.trainable_weights]
    optimizer.build(weights)

    @tf.function
    def train(fields, labels):
        for step in tf.range(steps):
            start = step * BATCH % (tf.shape(labels)[0] - BATCH)
            x, y = fields[start : start + BATCH], labels[start : start + BATCH]
            with tf.GradientTape() as tape:
                z = logits(x)
                loss = tf.reduce_sum(
                    tf.reduce_mean(
                        tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z), axis=0
                    )
                )
                if term is not None:
                    p = dict(zip(TASKS, tf.unstack(tf.sigmoid(z), axis=1), strict=True))
                    loss += term(p, y, tf.ones_like(y))
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    train(tf.constant(fields), tf.constant(labels))
    return lambda fields: tf.sigmoid(logits(fields)).numpy()


def opposed(seed, rows):
    """Two tasks whose linear parts have correlation -0.5, each bent by sines of its own.

    After the synthetic data of Ma et al. (KDD 2018, section 3.2), with the sign turned.
    """
    rng = np.random.default_rng(seed)
    first, second = np.linalg.qr(rng.normal(size=(16, 2)))[0].T
    x = rng.normal(size=(rows, 16))
    linear = x @ np.stack([first, -0.5 * first + 0.75**0.5 * second], axis=1)
    bends = zip(rng.uniform(1, 3, 6), rng.uniform(0, 2 * np.pi, 6), strict=True)
    z = linear + sum(np.sin(slope * linear + shift) for slope, shift in bends)
    z = 2 * (z - z.mean(axis=0)) / z.std(axis=0)
    labels = rng.uniform(size=z.shape) < 1 / (1 + np.exp(-z))
    return x.reshape(rows, 4, 4).astype(np.float32), labels.astype(np.float32)


@pytest.mark.slow
def test_branches_of_their_own_help_tasks_that_disagree():
    # Experts of the bottom's shape, as the papers compare; with as many parameters in all, a
    # wider bottom is no worse on data like these.
    kinds = {
        "shared": lambda: SharedBottom(TASKS, bottom_units=(8, 4)),
        "cgc": lambda: CGC(TASKS, num_specific=1, num_shared=1, expert_units=(8, 4)),
        "ple": lambda: PLE(TASKS, num_specific=1, num_shared=1, expert_units=[(8,), (4,)]),
    }
    found = {kind: [] for kind in kinds}
    for seed in range(5):
        fields, labels = opposed(seed, 12_000)
        for kind, make in kinds.items():
            keras.utils.set_random_seed(seed)
            predict = fit(make(), fields[:8000], labels[:8000], steps=600)
            scores = predict(fields[8000:])
            found[kind].append(np.mean([auc(labels[8000:, k], scores[:, k]) for k in (0, 1)]))
    mean = {kind: np.mean(aucs) for kind, aucs in found.items()}
    assert mean["cgc"] > mean["shared"] + 0.002
    assert mean["ple"] > mean["shared"] + 0.002


def test_the_calibrator_halves_how_far_later_steps_are_held_likelier():
    # Enough rows that none is learnt by heart: what is breaks the order on new rows anyhow.
    train, test = 12_000, 8_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(train + test, 16))
    first, second = rng.normal(size=(2, 16)) / 4
    click = rng.uniform(size=len(x)) < 1 / (1 + np.exp(-2 * x @ first))
    buy = click & (rng.uniform(size=len(x)) < 1 / (1 + np.exp(-1 - 2 * x @ second)))
    fields = x.reshape(-1, 4, 4).astype(np.float32)
    labels = np.stack([click, buy], axis=1).astype(np.float32)
    excess = {}
    for weight in (0.0, 0.6):
        keras.utils.set_random_seed(0)
        term = OrderCalibration(TASKS, weight=weight)
        aitm = AITM(TASKS, bottom_units=(16, 8))
        p = fit(aitm, fields[:train], labels[:train], steps=200, term=term)(fields[train:])
        assert auc(labels[train:, 1], p[:, 1]) > 0.8
        excess[weight] = np.mean(np.maximum(p[:, 1] - p[:, 0], 0))
    assert excess[0.0] > 0.001
    assert excess[0.6] <= 0.5 * excess[0.0]
