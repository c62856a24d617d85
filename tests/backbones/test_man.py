"""MAN and its attention: hand computations, who reads whom, and what it is without attention."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl.backbones import AITM, CGC, MAN, PLE
from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.task_gradients import TaskGradients
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.layers import TaskAttention
from tfmtl.layers.task_attention import MODES
from tfmtl.metrics.auc import auc
from tfmtl.model.heads import Heads

TASKS = ("view", "click", "buy")
RNG = np.random.default_rng(5)
FIELDS = tf.constant(RNG.normal(size=(12, 3, 2)), tf.float32)
PASSED, OWN = (tf.constant(RNG.normal(size=(12, 3, 4)), tf.float32) for _ in range(2))
SMALL = {"num_specific": 2, "num_shared": 1, "expert_units": ((5, 4),)}
every_mode = pytest.mark.parametrize("mode", MODES)
every_direction = pytest.mark.parametrize("direction", ["both", "forward"])


def built(tasks=TASKS, seed=0, **arguments):
    man = MAN(tasks, **{**SMALL, **arguments})
    man(FIELDS)
    randomise(man, seed)
    return man


def attention_of(mode, num_pairs=3, **arguments):
    attention = TaskAttention(num_pairs, mode=mode, **arguments)
    attention(PASSED[:, :num_pairs], OWN[:, :num_pairs])
    randomise(attention)
    return attention


def dense(layer, pair, x):
    """One pair's layer of a `ParallelDense`."""
    h = x @ layer.kernel[pair].numpy()
    if layer.use_bias:
        h = h + layer.bias.numpy().reshape(layer.num, layer.units)[pair]
    return h


def by_hand(attention, pair, passed, own):
    """What attention makes of one pair, and the weights; `passed` and `own` are `[rows, d]`."""
    token = np.maximum(dense(attention.passing.dense[0], pair, passed), 0)
    tokens = (token, own)
    if attention.mode == "concat":
        scores = dense(attention.score, pair, np.concatenate(tokens, axis=1)).T
    else:
        key = [dense(attention.key, pair, u) for u in tokens]
        query = [dense(attention.query, pair, u) for u in tokens]
        if attention.mode == "sdpa":
            # Both rows of softmax(QKᵀ/√d); the second is the task's own.
            full = np.einsum("ubd,vbd->buv", query, key) / np.sqrt(own.shape[1])
            scores = full[:, 1].T
        else:
            scores = np.stack([(q * k).sum(axis=1) for q, k in zip(query, key, strict=True)])
            scores = scores / np.sqrt(own.shape[1])
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    values = [dense(attention.value, pair, u) for u in tokens]
    return sum(w[:, None] * v for w, v in zip(weights, values, strict=True)), weights.T


def without_attention(man):
    """Makes attention return a task's own representation, whatever the other's is."""
    for layer in man.attention:
        for v in layer.trainable_variables:
            v.assign(tf.zeros_like(v))
        pairs, width, _ = layer.value.kernel.shape
        layer.value.kernel.assign(np.stack([np.eye(width)] * pairs))
        layer.score.bias.assign([-200.0, 0.0] * pairs)


def reached(man, task):
    """Names of the weights on which a task's representation depends."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(man(FIELDS)[task] ** 2)
    gradients = tape.gradient(loss, man.trainable_weights)
    return {
        v.name
        for v, g in zip(man.trainable_weights, gradients, strict=True)
        if g is not None and np.any(g.numpy() != 0)
    }


def own_experts(names):
    return {int(n.split("specific_")[1][0]) for n in names if "specific_" in n}


# --- the layer -----------------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("use_bias", [True, False])
def test_attention_is_its_equations_pair_by_pair(mode, use_bias):
    attention = attention_of(mode, use_bias=use_bias)
    mixed, weights = attention(PASSED, OWN), attention.weights_of(PASSED, OWN)
    for pair in range(3):
        values, shares = by_hand(attention, pair, PASSED[:, pair].numpy(), OWN[:, pair].numpy())
        np.testing.assert_allclose(mixed[:, pair], values, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(weights[:, pair], shares, rtol=1e-3, atol=1e-5)


@every_mode
def test_the_two_weights_are_positive_and_sum_to_one_and_differ_between_rows(mode):
    weights = attention_of(mode).weights_of(PASSED, OWN).numpy()
    assert weights.shape == (12, 3, 2) and (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), 1.0, atol=1e-6)
    assert (np.ptp(weights, axis=0) > 1e-3).all()


def test_the_modes_score_differently():
    layers = [attention_of(mode, use_bias=False) for mode in ("aitm", "sdpa")]
    layers[1].set_weights(layers[0].get_weights())
    one, other = (layer.weights_of(PASSED, OWN).numpy() for layer in layers)
    assert np.abs(one - other).max() > 0.05


@every_mode
def test_a_pair_reads_its_own_tasks_alone(mode):
    attention = attention_of(mode)
    changed = tf.concat([PASSED[:, :2], PASSED[:, 2:] + 1.0], axis=1)
    before, after = attention(PASSED, OWN), attention(changed, OWN)
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.abs(after[:, 2] - before[:, 2]).max() > 1e-2


def test_the_keys_of_sdpa_have_no_bias_for_it_would_change_nothing():
    attention = attention_of("sdpa")
    assert not attention.key.use_bias and attention.query.use_bias
    free = TaskAttention(3, mode="sdpa", use_bias=False)
    free(PASSED, OWN)
    assert sorted(v.shape.rank for v in free.weights) == [1, 3, 3, 3, 3]  # the passing layer's


@every_mode
def test_attention_comes_back_from_its_config(mode):
    attention = attention_of(mode, use_bias=False)
    again = TaskAttention.from_config(attention.get_config())
    again(PASSED, OWN)
    again.set_weights(attention.get_weights())
    np.testing.assert_array_equal(again(PASSED, OWN), attention(PASSED, OWN))


# --- the backbone --------------------------------------------------------------------------


@every_direction
def test_without_its_attention_man_is_cgc(direction):
    man = built(mode="concat", direction=direction)
    cgc = CGC(TASKS, num_specific=2, num_shared=1, expert_units=(5, 4))
    cgc(FIELDS)
    cgc.set_weights(man.experts.get_weights())
    own, with_attention = cgc(FIELDS), man(FIELDS)
    without_attention(man)
    for task in TASKS:
        np.testing.assert_allclose(man(FIELDS)[task], own[task], atol=1e-6)
        first = direction == "forward" and task == "view"
        assert (np.abs(with_attention[task] - own[task]).max() > 0.1) != first


@every_mode
def test_both_reads_the_neighbours_before_attention_and_a_middle_task_takes_the_mean(mode):
    man = built(mode=mode)
    own = {t: h.numpy() for t, h in man.experts(FIELDS).items()}
    (attention,) = man.attention
    of_pair = {
        pair: by_hand(attention, i, *(own[t] for t in pair))[0] for i, pair in enumerate(man.pairs)
    }
    assert set(of_pair) == {
        ("click", "view"),
        ("view", "click"),
        ("buy", "click"),
        ("click", "buy"),
    }
    want = {
        "view": of_pair["click", "view"],
        "click": (of_pair["view", "click"] + of_pair["buy", "click"]) / 2,
        "buy": of_pair["click", "buy"],
    }
    for task, h in man(FIELDS).items():
        np.testing.assert_allclose(h, want[task], rtol=1e-3, atol=1e-5)


@every_mode
def test_forward_passes_on_what_a_task_was_passed_itself(mode):
    man = built(mode=mode, direction="forward")
    own = {t: h.numpy() for t, h in man.experts(FIELDS).items()}
    second = by_hand(man.attention[0], 0, own["view"], own["click"])[0]
    third = by_hand(man.attention[1], 0, second, own["buy"])[0]
    for task, want in zip(TASKS, (own["view"], second, third), strict=True):
        np.testing.assert_allclose(man(FIELDS)[task], want, rtol=1e-3, atol=1e-4)


def test_with_forward_the_first_task_depends_on_no_attention_and_on_no_later_experts():
    man = built(direction="forward")
    before = man(FIELDS)["view"].numpy()
    names = reached(man, "view")
    assert own_experts(names) == {0} and not any("attention" in n for n in names)
    assert own_experts(reached(man, "click")) == {0, 1}
    assert own_experts(reached(man, "buy")) == {0, 1, 2}
    for layer in man.attention:
        randomise(layer, seed=9)
    np.testing.assert_array_equal(man(FIELDS)["view"], before)


def test_with_both_a_task_depends_on_its_neighbours_experts_exactly():
    man = built()
    for task, neighbours in (("view", {0, 1}), ("click", {0, 1, 2}), ("buy", {1, 2})):
        assert own_experts(reached(man, task)) == neighbours


def test_with_both_no_task_comes_first():
    # The same tasks, named from the other end.
    one, turned = built(), built(TASKS[::-1], seed=1)
    level, other = one.experts.levels[0], turned.experts.levels[0]
    other.shared.set_weights(level.shared.get_weights())
    for k in range(3):
        other.specific[2 - k].set_weights(level.specific[k].get_weights())
        other.gates[2 - k].set_weights(level.gates[k].get_weights())
    order = [one.pairs.index(pair) for pair in turned.pairs]
    for v, moved in zip(one.attention[0].weights, turned.attention[0].weights, strict=True):
        by_pair = v.numpy().reshape(len(order), -1)[order]
        moved.assign(by_pair.reshape(v.shape))
    assert order != sorted(order)
    for task in TASKS:
        np.testing.assert_allclose(turned(FIELDS)[task], one(FIELDS)[task], atol=1e-5)


@every_direction
def test_a_single_task_has_no_attention(direction):
    man = built(("view",), direction=direction)
    assert man.fine_tuned() == [] and man.own_blocks() == []
    np.testing.assert_array_equal(man(FIELDS)["view"], man.experts(FIELDS)["view"])


@every_direction
def test_the_second_stage_trains_the_attention_and_nothing_of_the_experts(direction):
    man = built(direction=direction)
    tuned = {v.name for layer in man.fine_tuned() for v in layer.trainable_variables}
    experts = {v.name for v in man.experts.trainable_variables}
    assert tuned | experts == {v.name for v in man.trainable_variables}
    assert not tuned & experts and all("attention" in name for name in tuned)


def test_the_second_stage_of_aitm_trains_passes_and_transfers_and_of_cgc_nothing():
    aitm = AITM(TASKS, bottom_units=(5,))
    aitm(FIELDS)
    tuned = {v.name.split("/")[1] for layer in aitm.fine_tuned() for v in layer.weights}
    assert tuned == {"pass_view", "pass_click", "transfer_click", "transfer_buy"}
    assert CGC(TASKS).fine_tuned() == []


def test_several_levels_are_those_of_ple():
    units = [(5,), (4,)]
    man = built(mode="concat", expert_units=units)
    ple = PLE(TASKS, num_specific=2, num_shared=1, expert_units=units)
    ple(FIELDS)
    ple.set_weights(man.experts.get_weights())
    without_attention(man)
    for task in TASKS:
        np.testing.assert_allclose(man(FIELDS)[task], ple(FIELDS)[task], atol=1e-6)


def shared_and_private(man):
    """By attention variable, the blocks that two tasks' losses share."""
    logits = {t: keras.layers.Dense(1) for t in TASKS}
    with tf.GradientTape(persistent=True) as tape:
        represented = man(FIELDS)
        losses = [tf.reduce_mean(logits[t](represented[t]) ** 2) for t in TASKS]
        total = tf.add_n(losses)
    step = Step(
        tape=tape,
        losses=TaskLosses(losses, tf.ones([3], tf.bool), [], represented),
        total=total,
        variables=man.trainable_variables,
        last_shared=man.last_shared(),
        own_blocks={v.ref(): tasks for v, tasks in man.own_blocks()},
        logits={t: logit.kernel for t, logit in logits.items()},
    )
    found = TaskGradients(step)
    plain = tape.gradient(total, step.variables)
    places = {i for i, v in enumerate(step.variables) if "attention" in v.name}
    shared = {part.place for part in found.shared} & places
    for i in places - shared:
        np.testing.assert_allclose(found.private[i], plain[i], rtol=1e-4, atol=1e-6)
    return {step.variables[i].name.split("/")[1] for i in shared}, len(places - shared)


def test_attention_belongs_to_the_task_it_feeds():
    assert shared_and_private(built()) == (set(), 8)
    # What the second task is fed reaches the third along the chain.
    assert shared_and_private(built(direction="forward")) == ({"attention_click"}, 8)


def test_every_task_reaches_the_last_shared_kernel():
    for direction in ("both", "forward"):
        man = built(direction=direction)
        (kernel,) = man.last_shared()
        for task in TASKS:
            assert kernel.name in reached(man, task)


def test_the_parameters_of_the_paper_are_those_of_cgc_attention_and_towers():
    man = MAN(("ctr", "cvr"))
    representations = man(FIELDS)
    problem = ProblemSpec(
        features=(categorical("x"),),
        tasks=(binary("ctr", label="click"), binary("cvr", label="conversion")),
    )
    heads = Heads(problem, tower_units=man.tower_units)
    heads(representations)
    experts = (4 + 4 + 4) * ((6 + 1) * 256 + (256 + 1) * 128)
    gates = 2 * (6 + 1) * (4 + 4)
    attention = 2 * 4 * (128 + 1) * 128  # what is passed on, query, key and value of either pair
    towers = 2 * ((128 + 1) * 128 + (128 + 1) * 16 + (16 + 1) * 32 + (32 + 1))
    assert man.count_params() == experts + gates + attention
    assert heads.count_params() == towers


# --- mistakes ------------------------------------------------------------------------------


def test_an_unknown_mode_or_direction_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"man: mode='sdap' is none of .* mean 'sdpa'"):
        MAN(TASKS, mode="sdap")
    with pytest.raises(ValueError, match=r"man: direction='forwards' .* mean 'forward'"):
        MAN(TASKS, direction="forwards")
    with pytest.raises(ValueError, match="mode='dot' is none of"):
        TaskAttention(2, mode="dot")


def test_attention_refuses_no_pair_and_inputs_of_another_number_of_pairs():
    with pytest.raises(ValueError, match="at least 1 pair of tasks; got 0"):
        TaskAttention(0)
    with pytest.raises(ValueError, match=r"reads \[batch, 2, d\]; got .*3, 4"):
        TaskAttention(2)(PASSED, OWN)


def test_experts_are_asked_for_level_by_level():
    with pytest.raises(ValueError, match="level by level"):
        MAN(TASKS, expert_units=(256, 128))


# --- what it is for ------------------------------------------------------------------------


def stepwise(seed, rows=44_000):
    """A first label from a bend of the fields, and a second that is it and a rare coin."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 16))
    z = 4.0 * (np.abs(x @ rng.normal(size=16) / 4.0) - 0.8)
    first = rng.uniform(size=rows) < 1 / (1 + np.exp(-z))
    second = first & (rng.uniform(size=rows) < 0.1)
    return x.reshape(rows, 4, 4).astype(np.float32), np.stack([first, second], 1).astype("f4")


def second_auc(kind, seed, steps=300, batch=256):
    keras.utils.set_random_seed(seed)
    fields, labels = map(tf.constant, stepwise(seed))
    backbone = kind(("a", "b"))
    heads = [keras.layers.Dense(1) for _ in "ab"]

    def logits(x):
        found = backbone(x)
        return tf.concat([head(found[t]) for head, t in zip(heads, "ab", strict=True)], axis=1)

    logits(fields[:1])
    weights = [w for layer in (backbone, *heads) for w in layer.trainable_weights]
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(weights)
    train_rows = 4_000

    @tf.function
    def train():
        for step in tf.range(steps):
            start = step * batch % (train_rows - batch)
            with tf.GradientTape() as tape:
                z = logits(fields[start : start + batch])
                loss = tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(labels[start : start + batch], z)
                )
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    train()
    return auc(labels[train_rows:, 1].numpy(), logits(fields[train_rows:])[:, 1].numpy())


@pytest.mark.slow
def test_attention_helps_a_second_task_that_is_the_first_and_noise():
    def cgc(tasks):
        return CGC(tasks, num_specific=2, num_shared=1, expert_units=(16, 8))

    def man(tasks):
        return MAN(tasks, num_specific=2, num_shared=1, expert_units=((16, 8),))

    gains = [second_auc(man, seed) - second_auc(cgc, seed) for seed in range(5)]
    # Early, while the second task has few positives. Student's t, four degrees, one-sided at 5 %.
    assert np.mean(gains) > 2.13 * np.std(gains, ddof=1) / 5**0.5, gains
