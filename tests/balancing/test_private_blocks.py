"""A stacked variable of which tasks share one block and not another, under surgery."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.task_gradients import TaskGradients

INPUT = np.array([1.0, -2.0, 3.0], np.float32)


@pytest.fixture
def gradients():
    """Of three losses: the first and the last read block `a` of a variable, the second `b`."""
    stacked = tf.Variable(tf.ones([2, 3]))
    offsets = {name: tf.Variable(0.0) for name in ("a", "b")}
    with tf.GradientTape(persistent=True) as tape:
        a, b = (
            tf.reduce_sum(stacked[place] * INPUT) + offset
            for place, offset in enumerate(offsets.values())
        )
        each = [a, b, 10 * a]
    losses = TaskLosses(each, tf.constant([True] * 3), [], {})
    step = Step(
        tape=tape,
        losses=losses,
        total=tf.add_n(each),
        variables=[stacked],
        last_shared=[],
        own_blocks={stacked.ref(): ("a", "b")},
        logits=offsets,
    )
    return TaskGradients(step)


def test_a_private_block_keeps_its_gradient_where_a_shared_one_is_weighted(gradients):
    (found,) = gradients.combined(tf.constant([2.0, 7.0, 5.0]))
    np.testing.assert_allclose(found, [(2 + 5 * 10) * INPUT, INPUT], rtol=1e-6)


def test_weights_of_one_for_all_are_the_plain_gradient(gradients):
    (found,) = gradients.combined(tf.ones([3]))
    np.testing.assert_allclose(found, [11 * INPUT, INPUT], rtol=1e-6)


def test_only_the_shared_block_counts_in_how_tasks_conflict(gradients):
    square = float((INPUT**2).sum())
    expected = square * np.array([[1, 0, 10], [0, 0, 0], [10, 0, 100]])
    np.testing.assert_allclose(gradients.gram(), expected, rtol=1e-6)
