"""Operations: the paper's 30 candidates, each held against its formula in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl import registry
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.operations import HIDDEN, INTERACTIONS, POOLINGS, operation

ROWS, FIELDS, DIM, WIDTH, COPIES = 6, 3, 8, 16, 3
EPSILON, MOMENTUM = 1e-3, 0.9
CHANNELS = 8
EVERY = [
    *(("interaction", candidate) for candidate in INTERACTIONS),
    *(("pooling", candidate) for candidate in POOLINGS),
    *(("hidden", candidate) for candidate in HIDDEN),
]
COPIED = [(kind, candidate) for kind, candidate in EVERY if kind != "interaction"]
labels = [f"{kind}-{candidate[0]}" for kind, candidate in EVERY]
every_candidate = pytest.mark.parametrize(("kind", "candidate"), EVERY, ids=labels)
every_copied = pytest.mark.parametrize(
    ("kind", "candidate"), COPIED, ids=[f"{kind}-{c[0]}" for kind, c in COPIED]
)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fields_of(count=FIELDS, dim=DIM, seed=0):
    return drawn(ROWS, count, dim, seed=seed)


def inputs_of(kind, num=None):
    if kind != "hidden":
        return tf.constant(fields_of())
    return tf.constant(drawn(ROWS, WIDTH) if num is None else drawn(num, ROWS, WIDTH))


def make(kind, candidate, num=None):
    """A built operation with random weights."""
    layer = operation(kind, candidate, num=num)
    layer(inputs_of(kind, num))
    randomise(layer)
    return layer


def relu(x):
    return np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def weights_of(layer):
    return {v.name.split("/")[-1].removesuffix(":0"): v.numpy() for v in layer.weights}


def test_the_search_space_is_the_papers_13_interactions_4_poolings_and_13_hidden_layers():
    sizes = (16, 32, 64, 128, 256, 512, 1024)
    assert [label for label, _ in INTERACTIONS] == [
        "skip",
        *("product-inner", "product-outer", "gate-bit", "gate-vector"),
        *("cross-1", "cross-2", "cross-3", "cross-4", "sa-1", "sa-2", "sa-4", "sa-8"),
    ]
    assert [label for label, _ in POOLINGS] == ["sum", "average", "attentive", "linear"]
    assert [label for label, _ in HIDDEN] == [
        "skip",
        "gate-hidden",
        *(f"mlp-{k}" for k in sizes),
        *("conv-1", "conv-3", "conv-5", "conv-7"),
    ]


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("dim", [8, 24])
def test_every_interaction_keeps_and_every_pooling_sums_up_the_fields_shape(count, dim):
    fields = tf.constant(fields_of(count, dim))
    for candidate in INTERACTIONS:
        layer = operation("interaction", candidate)
        assert layer(fields).shape == fields.shape == layer.compute_output_shape(fields.shape)
    for candidate in POOLINGS:
        for width in (None, 5):
            label, config = candidate
            layer = operation("pooling", (label, {**config, "width": width}))
            shape = (ROWS, width or dim)
            assert layer(fields).shape == shape == layer.compute_output_shape(fields.shape)
    for candidate in HIDDEN:
        hidden = fields[:, 0]
        assert operation("hidden", candidate)(hidden).shape == hidden.shape


def parameters(kind, label, count, dim):
    """The paper's candidates' sizes, for `count` fields of `dim`, or hidden vectors of `dim`."""
    flat = count * dim
    rank = max(1, min(64, flat // 4))
    family, _, number = label.partition("-")
    n = int(number) if number.isdecimal() else 0
    found = {
        "interaction": {
            "skip": 0,
            "product-inner": dim**2 + count * dim,
            "product-outer": 4 * dim**2,
            "gate-bit": count * dim**2,
            "gate-vector": count * dim,
            "cross": n * (2 * flat * rank + flat),
            "sa": 4 * dim**2,
        },
        "pooling": {
            "sum": 0,
            "average": 0,
            "attentive": dim**2 + dim,
            "linear": flat * dim + dim,
        },
        "hidden": {
            "skip": 0,
            "gate-hidden": dim**2 + dim,
            "mlp": 2 * dim * n + 2 * n + dim,
            "conv": 8 * n + 8 + 8 + 1,
        },
    }[kind]
    return found[label if label in found else family]


@pytest.mark.parametrize(("count", "dim"), [(1, 8), (3, 16), (7, 64)])
def test_the_number_of_parameters_is_the_closed_form(count, dim):
    for kind, candidate in EVERY:
        layer = operation(kind, candidate)
        layer.build((None, dim) if kind == "hidden" else (None, count, dim))
        trained = sum(int(np.prod(v.shape)) for v in layer.trainable_weights)
        assert trained == parameters(kind, candidate[0], count, dim), candidate[0]


@pytest.mark.parametrize("kind", ["interaction", "hidden"])
def test_skip_gives_back_its_input_and_has_no_variable(kind):
    skip = make(kind, ("skip", {"name": "skip"}))
    np.testing.assert_array_equal(skip(inputs_of(kind)), inputs_of(kind))
    assert skip.weights == []


def product_inner(e, w):
    products = np.einsum("bfd,bgd->bfg", e, e) / np.sqrt(DIM)
    return e @ w["kernel"] + products @ w["product_kernel"]


def product_outer(e, w):
    out = np.zeros_like(e)
    for b, f in np.ndindex(ROWS, FIELDS):
        # The dim x dim outer product with the sum, through the map that U, V and W_o make.
        outer = np.outer(e[b, f], e[b].sum(axis=0))
        mapped = np.einsum(
            "ij,ir,jr,rd->d", outer, w["field_kernel"], w["sum_kernel"], w["product_kernel"]
        )
        out[b, f] = e[b, f] @ w["kernel"] + mapped
    return out


def gate_bit(e, w):
    out = np.zeros_like(e)
    for f in range(FIELDS):
        out[:, f] = e[:, f] * sigmoid(e[:, f] @ w["kernel"][f])
    return out


def gate_vector(e, w):
    out = np.zeros_like(e)
    for b, f in np.ndindex(ROWS, FIELDS):
        out[b, f] = e[b, f] * sigmoid(e[b, f] @ w["kernel"][f])
    return out


def cross_2(e, w):
    first = x = e.reshape(ROWS, -1)
    for i in range(2):
        full = w[f"down_kernel_{i}"] @ w[f"up_kernel_{i}"]
        x = first * (x @ full + w[f"bias_{i}"]) + x
    return x.reshape(e.shape)


def cross_v1(e, w):
    first = x = e.reshape(ROWS, -1)
    for i in range(2):
        inner = (x * w[f"down_kernel_{i}"][:, 0]).sum(axis=1)
        x = first * inner[:, np.newaxis] + w[f"bias_{i}"] + x
    return x.reshape(e.shape)


def sa_2(e, w):
    q, k, v, r = (e @ w[f"{part}_kernel"] for part in ("query", "key", "value", "residual"))
    heads, width = [], DIM // 2
    for h in (slice(0, width), slice(width, DIM)):
        scores = np.stack([q[b, :, h] @ k[b, :, h].T for b in range(ROWS)]) / np.sqrt(width)
        heads.append(softmax(scores) @ v[:, :, h])
    return relu(np.concatenate(heads, axis=-1) + r)


def attentive(e, w):
    scores = np.tanh(e @ w["kernel"][0]) @ w["score_kernel"][0, :, 0]
    return (softmax(scores)[..., np.newaxis] * e).sum(axis=1)


def linear(e, w):
    return e.reshape(ROWS, -1) @ w["kernel"][0] + w["bias"][0]


def gate_hidden(x, w):
    return x * sigmoid(x @ w["kernel"][0] + w["bias"][0])


def mlp(x, w):
    h = x @ w["hidden_kernel"][0] - w["moving_mean"][0]
    h = w["gamma"][0] * h / np.sqrt(w["moving_variance"][0] + EPSILON) + w["beta"][0]
    return relu(relu(h) @ w["kernel"][0] + w["bias"][0])


def conv_3(x, w):
    padded = np.pad(x, [[0, 0], [1, 1]])
    out = np.zeros_like(x)
    for i in range(WIDTH):
        h = relu(padded[:, i : i + 3] @ w["kernel"][0] + w["bias"][0])
        out[:, i] = h @ w["point_kernel"][0, :, 0] + w["bias_point"][0]
    return out


FORMULAS = [
    ("interaction", {"name": "product_inner"}, product_inner),
    ("interaction", {"name": "product_outer"}, product_outer),
    ("interaction", {"name": "gate_bit"}, gate_bit),
    ("interaction", {"name": "gate_vector"}, gate_vector),
    ("interaction", {"name": "cross", "layers": 2}, cross_2),
    ("interaction", {"name": "cross", "layers": 2, "version": "v1"}, cross_v1),
    ("interaction", {"name": "self_attention", "heads": 2}, sa_2),
    ("pooling", {"name": "sum"}, lambda e, w: e.sum(axis=1)),
    ("pooling", {"name": "average"}, lambda e, w: e.mean(axis=1)),
    ("pooling", {"name": "attentive"}, attentive),
    ("pooling", {"name": "linear"}, linear),
    ("hidden", {"name": "gate"}, gate_hidden),
    ("hidden", {"name": "mlp", "units": 32}, mlp),
    ("hidden", {"name": "convolution", "size": 3}, conv_3),
]


@pytest.mark.parametrize(
    ("kind", "config", "formula"), FORMULAS, ids=lambda x: getattr(x, "__name__", str(x))[:40]
)
def test_an_operation_is_its_formula(kind, config, formula):
    layer, x = make(kind, ("it", config)), inputs_of(kind).numpy()
    expected = formula(x.astype(np.float64), weights_of(layer))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_an_mlp_is_normalised_as_keras_would_and_remembers_the_same_moments():
    layer = make("hidden", ("mlp", {"name": "mlp", "units": 32}))
    x = inputs_of("hidden").numpy()
    norm = keras.layers.BatchNormalization(momentum=0.9)
    before = weights_of(layer)
    hidden = tf.constant(x @ before["hidden_kernel"][0])
    norm.build(hidden.shape)
    norm.set_weights(
        [before[name][0] for name in ("gamma", "beta", "moving_mean", "moving_variance")]
    )
    normalised = relu(norm(hidden, training=True).numpy())
    expected = relu(normalised @ before["kernel"][0] + before["bias"][0])
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-3, atol=1e-3)
    after = weights_of(layer)
    for name, moment in zip(("moving_mean", "moving_variance"), norm.weights[2:], strict=True):
        np.testing.assert_allclose(after[name][0], moment, rtol=1e-4, atol=1e-5)
        assert np.abs(after[name] - before[name]).max() > 1e-4


def test_a_frozen_mlp_is_normalised_as_at_inference_and_its_moments_stay():
    x, (frozen, free) = (
        inputs_of("hidden"),
        (make("hidden", ("mlp", {"name": "mlp", "units": units})) for units in (32, 8)),
    )
    frozen.trainable = False
    before, at_inference = weights_of(frozen), [layer(x) for layer in (frozen, free)]
    np.testing.assert_array_equal(frozen(x, training=True), at_inference[0])
    together = type(frozen).together([frozen, free], x, training=True)
    np.testing.assert_allclose(together[0], at_inference[0], rtol=1e-6)
    assert np.abs(together[1] - at_inference[1]).max() > 1e-2
    for name, value in weights_of(frozen).items():
        np.testing.assert_array_equal(value, before[name])


def test_dropout_acts_in_training_alone_and_on_each_copy_apart():
    config = {"name": "mlp", "units": 32, "dropout": 0.5, "batch_norm": False}
    layer = make("hidden", ("mlp", config), num=2)
    for v in layer.weights:
        v.assign(tf.repeat(v[:1], 2, axis=0))
    x = tf.constant(drawn(1, ROWS, WIDTH))
    one, other = layer(x, training=True).numpy()
    assert np.abs(one - other).max() > 1e-3
    one, other = layer(x, training=False).numpy()
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_mlp_without_a_norm_has_a_bias_in_its_place():
    layer = make("hidden", ("mlp", {"name": "mlp", "units": 32, "batch_norm": False}))
    x, w = inputs_of("hidden").numpy(), weights_of(layer)
    h = relu(x @ w["hidden_kernel"][0] + w["bias_hidden"][0])
    expected = relu(h @ w["kernel"][0] + w["bias"][0])
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)


@every_copied
@pytest.mark.parametrize("training", [False, True])
def test_copies_are_as_many_operations_with_the_slices_of_their_variables(
    kind, candidate, training
):
    several = make(kind, candidate, num=COPIES)
    inputs = inputs_of(kind, COPIES)
    before = [v.numpy() for v in several.weights]
    found = several(inputs, training=training)
    assert found.shape == several.compute_output_shape(inputs.shape)
    for e in range(COPIES):
        own = make(kind, candidate)
        for v, of_all in zip(own.weights, before, strict=True):
            v.assign(of_all[e : e + 1])
        expected = own(inputs[e] if kind == "hidden" else inputs, training=training)
        # A pooling without weights gives one vector for all copies.
        copy = found[e if several.weights or kind == "hidden" else 0]
        np.testing.assert_allclose(copy, expected, rtol=1e-4, atol=1e-4)
        for moving, of_all in zip(own.weights, several.weights, strict=True):
            np.testing.assert_allclose(moving[0], of_all[e], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("candidate", HIDDEN[1:], ids=lambda c: c[0])
def test_copies_read_one_input_as_if_each_had_it(candidate):
    layer = make("hidden", candidate, num=COPIES)
    x = tf.constant(drawn(1, ROWS, WIDTH))
    for training in (False, True):
        repeated = layer(tf.repeat(x, COPIES, axis=0), training=training)
        np.testing.assert_allclose(layer(x, training=training), repeated, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("num", [None, COPIES])
def test_several_together_and_their_mixture_are_those_of_one_after_the_other(num, training):
    by_class = {}
    for kind, candidate in EVERY:
        if kind != "interaction" or num is None:
            layer = make(kind, candidate, num=num)
            by_class.setdefault((kind, type(layer)), []).append(layer)
    assert max(map(len, by_class.values())) == 7
    for (kind, part), layers in by_class.items():
        x = inputs_of(kind, num)
        expected = [layer(x, training=training) for layer in layers]
        together = part.together(layers, x, training)
        for one, other in zip(together, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        weights = np.abs(drawn(*([] if num is None else [num]), len(layers)))
        mixed = sum(weights[..., i, None, None] * out for i, out in enumerate(expected))
        found = part.mixture(layers, x, tf.constant(weights), training)
        np.testing.assert_allclose(found, mixed, rtol=1e-3, atol=1e-3)


@every_candidate
def test_a_row_is_the_same_in_any_company(kind, candidate):
    layer = make(kind, candidate)
    x = inputs_of(kind)
    np.testing.assert_allclose(layer(x)[2:4], layer(x[2:4]), rtol=1e-4, atol=1e-4)


@every_candidate
def test_gradients_reach_every_variable_and_the_input(kind, candidate):
    layer = make(kind, candidate)
    x, away = inputs_of(kind), drawn(ROWS, 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = layer(x, training=True)
        loss = tf.reduce_sum(tf.reshape(out, [ROWS, -1]) ** 2 * away)
    for gradient in tape.gradient(loss, [x, *layer.trainable_weights]):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


@every_candidate
def test_an_operation_is_made_again_from_its_config(kind, candidate):
    layer = make(kind, candidate)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    again(inputs_of(kind))
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    np.testing.assert_allclose(again(inputs_of(kind)), layer(inputs_of(kind)), atol=1e-6)


@every_copied
def test_the_first_axis_counts_the_copies_and_only_kernels_decay(kind, candidate):
    layer = make(kind, candidate, num=COPIES)
    assert all(v.shape[0] == COPIES for v in layer.weights)
    for v in layer.trainable_weights:
        assert is_kernel(v) == ("kernel" in v.name.split("/")[-1])


@every_copied
def test_each_copy_starts_as_large_as_an_operation_alone(kind, candidate):
    alone, several = (operation(kind, candidate, num=num) for num in (None, 20))
    width = 64
    for layer, num in ((alone, None), (several, 20)):
        shape = (ROWS, width) if num is None else (num, ROWS, width)
        layer.build(shape if kind == "hidden" else (ROWS, FIELDS, width))
    for one, many in zip(alone.trainable_weights, several.trainable_weights, strict=True):
        if "kernel" in one.name.split("/")[-1] and one.shape.num_elements() > 50:
            assert 0.8 < np.std(many) / np.std(one) < 1.25


def test_a_user_lengthens_the_space_by_registering_a_layer():
    @registry.register("hidden", "test_doubled")
    class Doubled(keras.layers.Layer):
        def __init__(self, *, times=2.0, num=None, **kwargs):
            super().__init__(**kwargs)
            self.times = times

        def call(self, inputs, training=False):
            return self.times * inputs

    longer = (*HIDDEN, ("tripled", {"name": "test_doubled", "times": 3.0}))
    layer = operation("hidden", longer[-1], num=COPIES)
    assert layer.name == "tripled"
    x = inputs_of("hidden", COPIES)
    np.testing.assert_allclose(layer(x), 3.0 * x)


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("interaction", {"name": "crss"}, "Did you mean 'cross'"),
        ("interaction", {"name": "cross", "layer": 2}, "no argument 'layer'"),
        ("interaction", {"name": "cross", "version": "v3"}, "version='v3' is none of"),
        ("interaction", {"name": "cross", "version": "v1", "rank": 3}, "leave rank=3 out"),
        ("interaction", {"name": "cross", "layers": 0}, "layers=0 must be at least 1"),
        ("hidden", {"name": "mlp", "dropout": 1.0}, "a share in"),
        ("hidden", {"name": "convolution", "size": 0}, "size=0 must be at least 1"),
        ("hidden", {"name": "gate", "num": 0}, "at least 1 copy; got num=0"),
        ("pooling", {"name": "sum", "width": 0}, "width=0 must be at least 1"),
        ("towers", {"name": "sum"}, "no operations of kind 'towers'"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(kind, config, says):
    with pytest.raises(SpecError, match=says):
        operation(kind, ("it", config))


def test_heads_that_do_not_divide_the_width_are_refused_with_both():
    layer = operation("interaction", ("sa-4", {"name": "self_attention", "heads": 4}))
    with pytest.raises(SpecError, match="heads=4 .* dim=10"):
        layer(tf.zeros([2, 3, 10]))


def test_inputs_of_another_shape_are_refused():
    for kind, num, shape in (("hidden", None, [3, 2, 8]), ("hidden", 4, [3, 2, 8])):
        with pytest.raises(SpecError, match="reads "):
            operation(kind, ("gate", {"name": "gate"}), num=num)(tf.zeros(shape))
    with pytest.raises(SpecError, match="batch, fields, dim"):
        operation("interaction", ("cross", {"name": "cross"}))(tf.zeros([2, 8]))
