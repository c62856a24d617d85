"""What holds of every interaction, pooling and hidden layer, those of the search space or not."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfmtl.operations  # noqa: F401  registers them
from tests.doubles.random_weights import randomise
from tests.doubles.registered import registered
from tests.doubles.small_parts import SMALL, table_errors
from tfmtl import registry
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.operations import HIDDEN, INTERACTIONS, POOLINGS

ROWS, FIELDS, DIM = 6, 3, 8
KINDS = ("interaction", "pooling", "hidden")
EVERY = [(kind, name) for kind in KINDS for name in registry.names(kind)]
every_operation = pytest.mark.parametrize(("kind", "name"), EVERY)


def inputs_of(kind, seed=0):
    shape = (ROWS, DIM) if kind == "hidden" else (ROWS, FIELDS, DIM)
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def make(kind, name):
    """A built operation with random weights."""
    layer = registry.build(kind, {"name": name, **SMALL[kind][name]})
    layer(inputs_of(kind))
    randomise(layer)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_operation_has_a_small_configuration(kind):
    assert table_errors(kind) == []


def test_a_row_that_is_missing_and_one_too_many_are_both_named():
    with registered("pooling", "median", registry.get("pooling", "sum")):
        (error,) = table_errors("pooling")
        assert "add the row 'median'" in error and "_ROWS['pooling']" in error
    SMALL["pooling"]["gone"] = {}
    try:
        (error,) = table_errors("pooling")
        assert "no pooling is registered as 'gone'" in error
    finally:
        del SMALL["pooling"]["gone"]


@pytest.mark.parametrize(
    ("kind", "candidates"),
    [("interaction", INTERACTIONS), ("pooling", POOLINGS), ("hidden", HIDDEN)],
)
def test_the_search_space_is_made_of_registered_operations(kind, candidates):
    assert {config["name"] for _, config in candidates} <= set(registry.names(kind))


@every_operation
def test_an_operation_is_made_again_from_its_config(kind, name):
    layer = make(kind, name)
    plain = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(plain)
    again(inputs_of(kind))
    again.set_weights(layer.get_weights())
    assert json.loads(json.dumps(again.get_config())) == plain
    assert SMALL[kind][name].items() <= plain.items()
    np.testing.assert_array_equal(again(inputs_of(kind)), layer(inputs_of(kind)))


@every_operation
def test_an_operation_returns_the_shape_of_its_kind(kind, name):
    layer, inputs = make(kind, name), inputs_of(kind)
    shape = layer(inputs).shape
    assert shape == layer.compute_output_shape(inputs.shape)
    assert shape == (ROWS, layer.width or DIM) if kind == "pooling" else shape == inputs.shape


@every_operation
def test_a_misspelt_argument_of_an_operation_is_refused(kind, name):
    with pytest.raises(SpecError, match="has no argument 'unitss'"):
        registry.build(kind, {"name": name, "unitss": 3})


@every_operation
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, name):
    layer, inputs = make(kind, name), inputs_of(kind)
    np.testing.assert_allclose(layer(inputs[2:3]), layer(inputs)[2:3], atol=1e-5)


@every_operation
def test_every_weight_and_every_input_of_an_operation_learns(kind, name):
    layer, inputs = make(kind, name), inputs_of(kind)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs) ** 2)
    targets = [*layer.trainable_weights, inputs]
    for target, gradient in zip(targets, tape.gradient(loss, targets), strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, getattr(target, "name", "input")


@every_operation
def test_weight_decay_is_on_what_is_called_a_kernel(kind, name):
    for v in make(kind, name).trainable_weights:
        own_name = v.name.rsplit("/", 1)[-1]
        assert is_kernel(v) == ("kernel" in own_name and v.shape.rank > 1), v.name
