"""What holds of every pooling of a sequence, and what each computes."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfmtl.sequences  # noqa: F401  registers them
from tests.doubles.random_weights import randomise
from tests.doubles.small_parts import SMALL, table_errors
from tfmtl import registry
from tfmtl.declare.columns import FIRST
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.sequences import masked_softmax

ROWS, LENGTH, MATCHED, OTHERS = 6, 5, 4, 3
EVERY = registry.names("sequence_pooling")
every_pooling = pytest.mark.parametrize("name", EVERY)


def events_of(seed=0, rows=ROWS, length=LENGTH):
    """Random events; row 0 has none, row 1 all."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, length + 1, rows)
    lengths[:2] = (0, length)[:rows]
    mask = np.arange(length) < lengths[:, None]
    ages = np.where(mask, np.sort(rng.integers(FIRST, 20, [rows, length])), -1)
    normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)  # noqa: E731
    return {
        "matched": normal(rows, length, MATCHED),
        "others": normal(rows, length, OTHERS),
        "target": normal(rows, MATCHED),
        "mask": tf.constant(mask),
        "ages": tf.constant(ages, tf.int32),
    }


def make(name, **more):
    pooling = registry.build("sequence_pooling", {"name": name, **SMALL[KIND][name], **more})
    pooling(events_of())
    randomise(pooling)
    return pooling


KIND = "sequence_pooling"


def test_every_registered_pooling_has_a_small_configuration():
    assert table_errors(KIND) == []


@every_pooling
def test_a_pooling_is_made_again_from_its_config(name):
    pooling = make(name)
    plain = json.loads(json.dumps(pooling.get_config()))
    again = type(pooling).from_config(plain)
    again(events_of())
    again.set_weights(pooling.get_weights())
    np.testing.assert_array_equal(again(events_of()), pooling(events_of()))


@every_pooling
def test_a_pooling_that_keeps_columns_returns_their_width(name):
    pooling = make(name)
    width = pooling(events_of()).shape[1]
    assert width == MATCHED + OTHERS or not pooling.keeps_columns


@every_pooling
def test_a_misspelt_argument_of_a_pooling_is_refused(name):
    with pytest.raises(SpecError, match="has no argument 'headss'"):
        registry.build(KIND, {"name": name, "headss": 3})


@every_pooling
def test_what_lies_under_padding_changes_neither_output_nor_gradient(name):
    pooling, events = make(name), events_of()
    other = dict(events)
    hidden = ~events["mask"].numpy()[:, :, None]
    for part in ("matched", "others"):
        other[part] = tf.where(hidden, 1e6, events[part])
    results = []
    for given in (events, other):
        sources = [given["matched"], given["others"], given["target"]]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            out = pooling(given)
            loss = tf.reduce_sum(out * tf.constant([[1.0, 2.0, -1.0, 0.5, 3.0, 1.5, -2.0]]))
        gradients = tape.gradient(
            loss, [*sources, *pooling.trainable_weights], unconnected_gradients="zero"
        )
        for gradient in gradients[:2]:
            assert not np.where(hidden, gradient, 0).any()
        results.append([out, *gradients])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@every_pooling
def test_rows_without_events_and_single_events_are_finite_with_their_gradients(name):
    for rows, length in ((3, LENGTH), (1, 1)):
        pooling = registry.build(KIND, {"name": name, **SMALL[KIND][name]})
        events = events_of(rows=rows, length=length)
        events["mask"] = tf.zeros_like(events["mask"])
        with tf.GradientTape() as tape:
            tape.watch(events["matched"])
            out = pooling(events)
        assert np.isfinite(out).all()
        gradient = tape.gradient(out, events["matched"])
        assert gradient is None or not np.any(gradient)


@every_pooling
def test_a_row_does_not_depend_on_the_rows_beside_it(name):
    pooling, events = make(name), events_of()
    one = {part: value[2:3] for part, value in events.items()}
    np.testing.assert_allclose(pooling(one), pooling(events)[2:3], atol=1e-5)


@every_pooling
def test_the_target_matters_exactly_where_the_pooling_says_so(name):
    pooling, events = make(name), events_of()
    other = {**events, "target": -events["target"]}
    same = np.allclose(pooling(events), pooling(other))
    assert same != pooling.reads_target


@every_pooling
def test_every_weight_of_a_pooling_learns_and_is_counted(name):
    pooling, events = make(name), events_of()
    assert bool(pooling.trainable_weights) == pooling.has_weights
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pooling(events) ** 2)
    for weight, gradient in zip(
        pooling.trainable_weights, tape.gradient(loss, pooling.trainable_weights), strict=True
    ):
        assert gradient is not None and np.abs(gradient).max() > 0, weight.name


@every_pooling
def test_weight_decay_is_on_kernels_alone(name):
    for v in make(name).trainable_weights:
        own_name = v.name.rsplit("/", 1)[-1]
        assert is_kernel(v) == ("kernel" in own_name), v.name


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mean", {}),
        ("sum", {}),
        ("max", {}),
        ("din", {}),
        ("attentive", {"position": "none"}),
        ("target_attention", {"position": "none"}),
        ("self_attention", {"position": "none"}),
        ("bst", {"position": "none"}),
    ],
)
def test_without_positions_only_columns_that_are_permuted_apart_change_anything(name, more):
    pooling, events = make(name, **more), events_of()
    events["mask"] = tf.ones_like(events["mask"])
    order = [3, 0, 4, 1, 2]
    both = {k: tf.gather(v, order, axis=1) if k != "target" else v for k, v in events.items()}
    np.testing.assert_allclose(pooling(both), pooling(events), atol=1e-5)
    if name not in ("mean", "sum", "max"):
        apart = {**events, "others": both["others"]}
        assert not np.allclose(pooling(apart), pooling(events), atol=1e-3)


def one_event(**more):
    events = events_of(rows=2)
    events["mask"] = tf.constant([[False, True, False, False, False]] * 2)
    return {**events, **more}


@pytest.mark.parametrize("name", ["mean", "sum", "max", "decay", "attentive", "din"])
def test_of_a_single_event_a_mean_is_that_event(name):
    events = one_event()
    both = tf.concat([events["matched"], events["others"]], axis=2)[:, 1]
    np.testing.assert_allclose(make(name)(events), both, rtol=1e-5)


def test_softmax_weights_sum_to_one_over_the_events_that_there_are():
    mask = events_of()["mask"]
    scores = tf.constant(np.random.default_rng(0).normal(size=mask.shape) * 100, tf.float32)
    weights = masked_softmax(scores, mask)
    np.testing.assert_allclose(tf.reduce_sum(weights, 1), tf.reduce_any(mask, 1), rtol=1e-6)
    assert not np.where(mask, 0, weights).any()


HAND = {
    "matched": tf.constant([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]),
    "others": tf.zeros([1, 3, 0]),
    "target": tf.constant([[1.0, 0.0]]),
    "mask": tf.constant([[True, True, False]]),
}


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("none", [0.6, 1.8]),
        ("sigmoid", [0.645656, 1.421900]),
        # By hand: the scores are .6 and .9; softmax divides them by the root of 2.
        ("softmax", [1 / (1 + np.exp(0.3 / 2**0.5)), 2 / (1 + np.exp(-0.3 / 2**0.5))]),
    ],
)
def test_din_equals_a_case_computed_by_hand(score, expected):
    din = registry.build(KIND, {"name": "din", "units": (), "score": score})
    din(HAND)
    # On [e, t, e − t, e ⊙ t].
    din.kernels[0].assign(np.arange(1, 9, dtype=np.float32)[:, None] / 10)
    din.biases[0].assign([-0.5])
    np.testing.assert_allclose(din(HAND), [expected], rtol=1e-5)


def test_the_split_first_layer_of_din_is_the_layer_over_the_concatenation():
    din, events = make("din"), events_of()
    e, t = events["matched"], tf.broadcast_to(events["target"][:, None], events["matched"].shape)
    x = tf.concat([e, t, e - t, e * t, events["others"]], axis=2)
    hidden = tf.tensordot(x, din.kernels[0], 1) + din.biases[0]
    hidden = tf.nn.relu(hidden) - din.slopes[0] * tf.nn.relu(-hidden)
    scores = (tf.tensordot(hidden, din.kernels[1], 1) + din.biases[1])[:, :, 0]
    mask = events["mask"]
    np.testing.assert_allclose(
        tf.where(mask, din.scores(events), 0), tf.where(mask, scores, 0), atol=1e-5
    )


def test_din_with_a_constant_unit_is_a_sum_or_a_mean():
    events = events_of()
    for score, plain in (("none", "sum"), ("softmax", "mean")):
        din = make("din", score=score)
        din.set_weights([np.zeros_like(w) for w in din.get_weights()])
        din.biases[-1].assign([3.0])
        expected = (3.0 if score == "none" else 1.0) * make(plain)(events)
        np.testing.assert_allclose(din(events), expected, atol=1e-5)


def test_target_attention_without_a_query_is_a_mean_of_values():
    attention, events = make("target_attention", position="none"), events_of()
    attention.query_kernel.assign(tf.zeros_like(attention.query_kernel))
    mean = make("mean")(events)
    expected = mean @ attention.value_kernel.numpy() @ attention.output_kernel.numpy()
    np.testing.assert_allclose(attention(events), expected, atol=1e-4)


def test_target_attention_equals_heads_with_keys_and_values():
    attention, events = make("target_attention", heads=2), events_of()
    values = tf.concat([events["matched"], events["others"]], 2) + attention.positions(events)
    heads = []
    for h in range(2):
        part = slice(h * attention.head_dim, (h + 1) * attention.head_dim)
        q = events["target"] @ attention.query_kernel[:, part]
        k = tf.tensordot(values, attention.key_kernel[:, part], 1)
        v = tf.tensordot(values, attention.value_kernel[:, part], 1)
        scores = tf.einsum("bd,bld->bl", q, k) / attention.head_dim**0.5
        weights = masked_softmax(scores, events["mask"])
        heads.append(tf.einsum("bl,bld->bd", weights, v))
    expected = tf.concat(heads, 1) @ attention.output_kernel
    np.testing.assert_allclose(attention(events), expected, atol=1e-4)


def test_tim_equals_its_formula_with_the_product_inside_the_sum():
    tim, events = make("tim"), events_of()
    e = events["matched"] + sum(p(events) for p in tim.positions)
    t = events["target"] + tim.target_position
    scores = tf.einsum("bld,bd->bl", e, t) / MATCHED**0.5
    weights = masked_softmax(scores, events["mask"])
    expected = tf.einsum("bl,bld->bd", weights, e * t[:, None])
    np.testing.assert_allclose(tim(events)[:, :MATCHED], expected, atol=1e-5)


def test_decay_weighs_an_event_by_a_power_of_its_age():
    decay, events = registry.build(KIND, {"name": "decay", "rate": 0.5}), one_event()
    events["mask"] = tf.constant([[True, True, False, False, False]] * 2)
    events["ages"] = tf.constant([[FIRST, FIRST + 4, -1, -1, -1]] * 2)
    young, old = tf.concat([events["matched"], events["others"]], 2).numpy()[0, :2]
    expected = (young + 2**-2.0 * old) / (1 + 2**-2.0)
    np.testing.assert_allclose(decay(events)[0], expected, rtol=1e-5)


def test_a_position_by_age_without_times_is_refused():
    events = {k: v for k, v in events_of().items() if k != "ages"}
    with pytest.raises(SpecError, match=r"needs the events' ages; give sequence\(time="):
        registry.build(KIND, {"name": "bst", "position": "age"})(events)
