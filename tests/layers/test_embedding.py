"""The fused tables: right rows, exact zeros, gradients only where looked up."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.layers.embedding import Embedding
from tfmtl.model.optimizers import RowwiseAdam

TASKS = (binary("ctr", label="click"),)


def embedding_of(*features, rows=5, **arguments):
    problem = ProblemSpec(features=features, tasks=TASKS)
    ids = {f.name: rows for f in features if f.kind == "categorical"}
    layer = Embedding(problem, ids, **arguments)
    layer.build(None)
    return layer


def test_each_field_reads_its_own_rows_of_the_one_table():
    layer = embedding_of(categorical("a"), categorical("b"), dim=4)
    assert [t.shape for t in layer.tables.values()] == [(11, 4)]
    table = layer.tables["table_4"].numpy()
    fields = layer({"ids_context": tf.constant([[3, 3], [0, 4]])}).numpy()
    np.testing.assert_array_equal(fields, table[[[4, 9], [1, 10]]])


def test_the_unknown_row_and_the_padding_row_start_at_zero():
    layer = embedding_of(categorical("a"), categorical("b"), dim=4)
    table = layer.tables["table_4"].numpy()
    zero = np.flatnonzero(~table.any(axis=1))
    np.testing.assert_array_equal(zero, [0, 1, 6])


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_a_list_is_pooled_over_its_values_and_not_its_padding(pooling):
    layer = embedding_of(categorical("t", max_values=3, pooling=pooling), dim=2)
    table = layer.tables["table_2"].numpy()
    ids = tf.constant([[2, 4, -1], [-1, -1, -1]])
    fields = layer({"ids_context": ids}).numpy()
    expected = getattr(np, pooling)(table[[3, 5]], axis=0)
    np.testing.assert_allclose(fields[0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(fields[1, 0], [0, 0])


def test_a_weighted_mean_is_weighted():
    layer = embedding_of(categorical("t", max_values=2, weights="w"), dim=2)
    table = layer.tables["table_2"].numpy()
    packed = {"ids_context": tf.constant([[2, 3]]), "numbers_context": tf.constant([[1.0, 3.0]])}
    np.testing.assert_allclose(
        layer(packed).numpy()[0, 0], 0.25 * table[3] + 0.75 * table[4], rtol=1e-6
    )


def test_fields_of_another_width_come_from_another_table_and_are_projected():
    layer = embedding_of(categorical("a", dim=2), categorical("b"), dim=4)
    assert sorted(layer.tables) == ["table_2", "table_4"]
    assert layer.field_names == ("a", "b")
    assert layer({"ids_context": tf.constant([[2, 3]])}).shape == (1, 2, 4)
    assert "table_2/projection:0" in {v.name.split("/", 1)[-1] for v in layer.variables} | {
        v.name for v in layer.variables
    }


def test_numbers_are_one_joint_field_or_one_field_each():
    features = categorical("a"), numerical("x"), numerical("y", encoding="piecewise", bins=3)
    packed = {"ids_context": tf.constant([[2]]), "numbers_context": tf.constant([[2.0, 1, 0.5, 0]])}
    joint = embedding_of(*features, dim=4)
    assert joint(packed).shape == (1, 2, 4)
    assert joint.field_names == ("a", "numbers")
    apart = embedding_of(*features, dim=4, numeric_mode="fieldwise")
    assert apart.field_names == ("a", "x", "y_0", "y_1", "y_2")
    fields = apart(packed).numpy()
    kernel, bias = apart.number_kernel.numpy(), apart.number_bias.numpy()
    np.testing.assert_allclose(fields[0, 1], 2.0 * kernel[0] + bias[0], rtol=1e-6)


def test_a_side_alone_reads_its_own_inputs():
    problem = ProblemSpec(
        features=(categorical("u", side="user"), categorical("a", side="ad")), tasks=TASKS
    )
    tower = Embedding(problem, {"u": 5, "a": 5}, dim=4, sides=("user",))
    assert tower({"ids_user": tf.constant([[2]])}).shape == (1, 1, 4)


def test_padding_and_absent_rows_are_bit_identical_after_training():
    layer = embedding_of(categorical("t", max_values=3), dim=2)
    table = layer.tables["table_2"]
    before = table.numpy()
    optimizer = RowwiseAdam(learning_rate=0.1)
    for _ in range(3):
        with tf.GradientTape() as tape:
            fields = layer({"ids_context": tf.constant([[3, -1, -1]])})
            loss = tf.reduce_sum(tf.square(fields - 1))
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient, table)])
    changed = np.flatnonzero((table.numpy() != before).any(axis=1))
    np.testing.assert_array_equal(changed, [4])


def test_decay_counts_looked_up_rows_as_often_as_they_are_looked_up():
    layer = embedding_of(categorical("a"), dim=2)
    table = layer.tables["table_2"].numpy()
    _, squares = layer.embed({"ids_context": tf.constant([[2], [2], [3]])})
    expected = 2 * (table[3] ** 2).sum() + (table[4] ** 2).sum()
    np.testing.assert_allclose(squares, expected, rtol=1e-6)
