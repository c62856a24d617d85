"""MLP, Experts and Gates against the plain Keras layers they stand for."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl.layers import MLP, Experts, Extraction, Gates, ParallelDense

RNG = np.random.default_rng(3)
X = tf.constant(RNG.normal(size=(32, 5)), tf.float32)


def alone(experts, i, inputs):
    """Expert `i` as an MLP with its share of the weights."""
    mlp = MLP(experts.units, dropout=experts.dropout, batch_norm=experts.batch_norm)
    mlp.build(inputs.shape)
    for dense, own in zip(experts.dense, mlp.dense, strict=True):
        bias = tf.reshape(dense.bias, [experts.num, -1])
        own.set_weights([dense.kernel[i].numpy(), bias[i].numpy()])
    for norm, own in zip(experts.norms, mlp.norms, strict=True):
        own.set_weights([w.reshape(experts.num, -1)[i] for w in norm.get_weights()])
    return mlp


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_each_expert_is_an_mlp_of_its_own(batch_norm, training):
    experts = Experts(3, (7, 4, 6), batch_norm=batch_norm)
    experts.build(X.shape)
    randomise(experts)
    mlps = [alone(experts, i, X) for i in range(3)]
    together = experts(X, training=training)
    for i, mlp in enumerate(mlps):
        np.testing.assert_allclose(together[:, i], mlp(X, training=training), atol=1e-5)


def test_experts_with_inputs_of_their_own_read_only_those():
    inputs = tf.constant(RNG.normal(size=(8, 3, 5)), tf.float32)
    experts = Experts(3, (7, 4))
    experts.build(inputs.shape)
    randomise(experts)
    together = experts(inputs)
    for i in range(3):
        mlp = alone(experts, i, inputs[:, i])
        np.testing.assert_allclose(together[:, i], mlp(inputs[:, i]), atol=1e-5)


def test_experts_start_as_dense_layers_would_and_each_differently():
    # Glorot's fans are those of one expert. Those of the stack would shrink the limit by √8.
    kernel = Experts(8, (64,))
    kernel.build((None, 32))
    kernel = kernel.dense[0].kernel.numpy()
    limit = np.sqrt(6 / (32 + 64))
    largest = np.abs(kernel).max(axis=(1, 2))
    assert (largest <= limit).all() and (largest > 0.98 * limit).all()
    np.testing.assert_allclose(kernel.std(axis=(1, 2)), limit / np.sqrt(3), rtol=0.05)
    assert len({expert.tobytes() for expert in kernel}) == 8


def test_each_expert_drops_outputs_of_its_own():
    experts = Experts(2, (64,), dropout=0.5)
    experts.build(X.shape)
    dense = experts.dense[0]
    dense.set_weights([np.zeros(dense.kernel.shape), np.ones(dense.bias.shape)])
    kept = experts(X, training=True).numpy()
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert (kept[:, 0] != kept[:, 1]).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "layer",
    [MLP((400, 400), dropout=(0.0, 0.5)), Experts(2, (200, 200), dropout=(0.0, 0.5))],
    ids=["mlp", "experts"],
)
def test_dropout_may_differ_from_layer_to_layer(layer):
    layer.build((None, 1))
    for dense in layer.dense:
        dense.set_weights([np.zeros(w.shape) + ("bias" in w.name) for w in dense.weights])
    assert (layer.drops[0](tf.ones([1, 400]), training=True).numpy() == 1).all()
    dropped = layer(tf.ones([8, 1]), training=True).numpy() == 0
    assert dropped.mean() == pytest.approx(0.5, abs=0.1)


def test_mlp_is_dense_then_normalisation_then_activation_then_dropout():
    mlp = MLP((6,), batch_norm=True, activation="tanh")
    mlp.build(X.shape)
    randomise(mlp)
    kernel, bias, gamma, beta, mean, variance = (w.numpy() for w in mlp.weights)
    normal = (X.numpy() @ kernel + bias - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(mlp(X), np.tanh(normal), atol=1e-5)


def test_mlp_without_layers_is_the_identity():
    np.testing.assert_array_equal(MLP(())(X), X)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MLP((8, 0)), "widths of at least 1"),
        (lambda: MLP((8,), dropout=1.0), r"share in \[0, 1\)"),
        (lambda: MLP((8, 8), dropout=(0.1,)), "1 shares for 2 layers"),
        (lambda: Experts(0, (8,)), "at least 1 expert"),
        (lambda: Experts(2, ()), "at least one layer"),
        (lambda: Experts(2, (8,), dropout=-0.1), r"share in \[0, 1\)"),
        (lambda: ParallelDense(2, 8)(tf.ones([4, 3, 5])), r"\[batch, 2, in\]"),
    ],
)
def test_impossible_shapes_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "layer",
    [
        MLP((4, 3), dropout=(0.1, 0.2), batch_norm=True, activation="tanh"),
        Experts(2, (4, 3), dropout=0.1, batch_norm=True),
        ParallelDense(2, 3, use_bias=False),
        Gates(2, 3, gate_hidden=(4,), gate_bias=False),
        Extraction(2, num_specific=1, num_shared=2, units=(4,), mix_shared=True, gate_hidden=(3,)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_made_again_from_its_config(layer):
    plain = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(plain)
    assert json.loads(json.dumps(again.get_config())) == plain


@pytest.mark.parametrize("num_experts", [1, 2, 9])
@pytest.mark.parametrize("gate_hidden", [(), (6,)])
def test_a_gates_weights_are_a_distribution_over_its_experts(num_experts, gate_hidden):
    gates = Gates(3, num_experts, gate_hidden=gate_hidden)
    gates.build(X.shape)
    randomise(gates)
    weights = gates.weights_of(100.0 * X).numpy()
    assert weights.shape == (32, 3, num_experts)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)


def test_adding_a_constant_to_a_gates_logits_changes_nothing():
    gates, experts = Gates(2, 3), tf.constant(RNG.normal(size=(32, 3, 4)), tf.float32)
    before = gates(X, experts)
    gates.logits.bias.assign([5.0, 5.0, 5.0, -3.0, -3.0, -3.0])
    np.testing.assert_allclose(gates(X, experts), before, atol=1e-5)
    gates.logits.bias.assign([5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    moved = np.abs(gates(X, experts) - before).max(axis=(0, 2))
    assert moved[0] > 0.5
    assert moved[1] < 1e-5


@pytest.mark.parametrize("gate_hidden", [(), (6,)])
def test_each_gate_is_a_softmax_layer_of_its_own(gate_hidden):
    gates = Gates(2, 3, gate_hidden=gate_hidden)
    gates.build(X.shape)
    randomise(gates)
    weights = gates.weights_of(X)
    for k in range(2):
        h = X if gates.hidden is None else alone(gates.hidden, k, X)(X)
        softmax = keras.layers.Dense(3, activation="softmax")
        softmax.build(h.shape)
        bias = tf.reshape(gates.logits.bias, [2, 3])
        softmax.set_weights([gates.logits.kernel[k].numpy(), bias[k].numpy()])
        np.testing.assert_allclose(weights[:, k], softmax(h), atol=1e-6)


def test_gates_without_bias_have_none():
    gates = Gates(2, 3, gate_bias=False)
    gates.build(X.shape)
    assert [v.shape for v in gates.weights] == [(2, 5, 3)]


def test_only_kernels_have_a_rank_above_one():
    # Weight decay is on kernels, and the model knows them by their rank.
    layer = Extraction(
        2,
        num_specific=2,
        num_shared=1,
        units=(4, 3),
        mix_shared=True,
        batch_norm=True,
        gate_hidden=(3,),
    )
    layer([X] * 3)
    assert all((v.shape.rank > 1) == ("kernel" in v.name) for v in layer.weights)
