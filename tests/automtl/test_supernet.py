"""The supernet: every candidate in one network, held against the candidates one by one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.random_weights import randomise
from tfmtl import registry
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.parts import Chosen, Expert, Selection
from tfmtl.automtl.supernet import Supernet
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.operations import HIDDEN, INTERACTIONS, POOLINGS, Operation
from tfmtl.operations.choice import Choice

ROWS, FIELDS, DIM, COPIES = 6, 3, 8, 2
SPACE = {"interaction": INTERACTIONS, "pooling": POOLINGS, "hidden": HIDDEN}
# Few candidates where a test is not about which there are: all of them take long to build.
SMALL = {
    "interactions": [INTERACTIONS[0], INTERACTIONS[4], INTERACTIONS[5]],
    "poolings": [POOLINGS[0], POOLINGS[3]],
    "hidden": [HIDDEN[0], HIDDEN[1], HIDDEN[2], HIDDEN[3], HIDDEN[10], HIDDEN[11]],
    "num_experts": 3,
    "num_blocks": 2,
}


def drawn(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def inputs_of(kind):
    return drawn(COPIES, ROWS, DIM) if kind == "hidden" else drawn(ROWS, FIELDS, DIM)


def block_of(kind):
    """A block of all candidates with random weights, its inputs, and the shape of its weights."""
    copies = None if kind == "interaction" else COPIES
    block = Choice(kind, SPACE[kind], num=copies)
    inputs = inputs_of(kind)
    block.build(inputs.shape)
    randomise(block)
    return block, inputs, (() if copies is None else (COPIES,)) + (len(SPACE[kind]),)


@pytest.fixture(scope="module", params=list(SPACE))
def block(request):
    return block_of(request.param)


def one_by_one(block, inputs, training=False):
    """Each candidate's output, in the order of the labels, all of one shape."""
    outputs = [layer(inputs, training=training) for layer in block.layers]
    if block.num is not None:
        outputs = [tf.broadcast_to(out, [COPIES, *out.shape[1:]]) for out in outputs]
    return tf.stack(outputs)


def by_weight(outputs, weights):
    """`Σ_o weights_o · output_o`, copy by copy where there are copies."""
    by_candidate = tf.transpose(weights)
    ones = [1] * (outputs.shape.rank - weights.shape.rank)
    return tf.reduce_sum(tf.reshape(by_candidate, [*by_candidate.shape, *ones]) * outputs, axis=0)


def supernet_of(tasks=("ctr", "cvr"), fields=FIELDS, width=DIM, **settings):
    supernet = Supernet(tasks, search=AutoMTL(**{**SMALL, **settings}), width=width)
    supernet.build((None, fields, DIM))
    return supernet


def test_a_block_with_all_weight_on_one_candidate_is_that_candidate(block):
    layer, inputs, shape = block
    outputs = one_by_one(layer, inputs)
    for i, label in enumerate(layer.labels):
        weights = tf.broadcast_to(tf.one_hot(i, shape[-1]), shape)
        mixed = layer(inputs, weights)
        scale = float(tf.reduce_max(tf.abs(outputs[i])))
        np.testing.assert_allclose(mixed, outputs[i], atol=1e-6 * scale, err_msg=label)


def test_each_copy_is_mixed_by_its_own_weights():
    layer, inputs, shape = block_of("hidden")
    outputs = one_by_one(layer, inputs)
    mixed = layer(inputs, tf.one_hot([1, 3], shape[-1]))
    np.testing.assert_allclose(mixed[0], outputs[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed[1], outputs[3][1], rtol=1e-5, atol=1e-6)


def test_a_block_lies_between_the_least_and_the_greatest_of_its_candidates(block):
    layer, inputs, shape = block
    outputs = one_by_one(layer, inputs).numpy()
    mixed = layer(inputs, tf.nn.softmax(drawn(*shape))).numpy()
    slack = 1e-5 * np.abs(outputs).max()
    assert (mixed >= outputs.min(axis=0) - slack).all()
    assert (mixed <= outputs.max(axis=0) + slack).all()


@pytest.mark.parametrize("kind", SPACE)
def test_the_fused_mixture_and_its_gradients_are_those_of_the_candidates_one_by_one(kind):
    layer, inputs, shape = block_of(kind)
    weights = tf.nn.softmax(drawn(*shape))
    upstream = drawn(*layer(inputs, weights).shape, seed=3)
    moving = [v for v in layer.weights if not v.trainable]

    def found(mixed_of):
        start = [v.numpy() for v in moving]
        with tf.GradientTape() as tape:
            tape.watch([inputs, weights])
            mixed = mixed_of()
            total = tf.reduce_sum(mixed * upstream)
        gradients = tape.gradient(total, [inputs, weights, *layer.trainable_variables])
        after = [v.numpy() for v in moving]
        for variable, value in zip(moving, start, strict=True):
            variable.assign(value)
        return [mixed, *gradients, *after]

    fused = found(lambda: layer(inputs, weights, training=True))
    alone = found(lambda: by_weight(one_by_one(layer, inputs, training=True), weights))
    assert len(fused) == len(alone) > 3
    for one, other in zip(fused, alone, strict=True):
        scale = max(float(np.max(np.abs(other))), 1.0)
        np.testing.assert_allclose(one, other, atol=1e-5 * scale)


def test_a_traced_block_is_the_same_as_an_eager_one():
    layer = Choice("hidden", SMALL["hidden"], num=COPIES)
    inputs = inputs_of("hidden")
    weights = tf.nn.softmax(drawn(COPIES, len(layer.labels)))
    eager = layer(inputs, weights)
    traced = tf.function(layer, autograph=False)
    np.testing.assert_allclose(traced(inputs, weights), eager, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def papers():
    """The paper's whole space: 8 experts of 3 blocks."""
    supernet = Supernet(["ctr", "cvr"], search=AutoMTL(), width=DIM)
    supernet.build((None, FIELDS, DIM))
    return supernet


def test_the_papers_space_has_357_logits_of_operations_and_one_a_task_and_expert(papers):
    alphas = (papers.alpha_interaction, papers.alpha_pooling, papers.alpha_hidden)
    assert [tuple(alpha.shape) for alpha in alphas] == [(13,), (8, 4), (8, 3, 13)]
    assert sum(int(np.prod(alpha.shape)) for alpha in alphas) == 13 + 8 * (4 + 3 * 13) == 357
    assert tuple(papers.beta.shape) == (2, 8)
    assert papers.labels() == {kind: [label for label, _ in SPACE[kind]] for kind in SPACE}


def test_the_architecture_is_among_no_trainable_variables(papers):
    trained = {id(v) for v in papers.trainable_variables}
    for v in (papers.alpha_interaction, papers.alpha_pooling, papers.alpha_hidden, papers.beta):
        assert not v.trainable
        assert id(v) not in trained


def test_the_architecture_starts_nearly_even_with_no_two_experts_alike(papers):
    for v in (papers.alpha_pooling, papers.alpha_hidden, papers.beta):
        values = v.numpy().reshape(-1)
        assert 0.0 < np.abs(values).max() < 6e-3
        assert len(np.unique(values)) == len(values)


def test_the_trainable_variables_are_the_operations_and_nothing_else(papers):
    operations = papers.operations()
    mine = [v for weights in operations for v in weights.variables]
    assert len({id(v) for v in mine}) == len(mine)
    assert {id(v) for v in mine} == {id(v) for v in papers.trainable_variables}
    # 12 parametric interactions; attentive and linear; 12 of the 13 layers in each of 3 blocks.
    assert len(operations) == 12 + 2 + 3 * 12
    assert {weights.block for weights in operations} == {
        *("interaction", "pooling", "hidden_0", "hidden_1", "hidden_2")
    }
    for weights in operations:
        assert weights.copies == (None if weights.block == "interaction" else 8)
        assert weights.copies is None or all(v.shape[0] == 8 for v in weights.variables)


def test_the_number_of_parameters_is_that_of_the_operations(papers):
    flat, rank = FIELDS * DIM, FIELDS * DIM // 4
    interactions = (
        (DIM**2 + FIELDS * DIM)
        + 4 * DIM**2
        + FIELDS * DIM**2
        + FIELDS * DIM
        + (1 + 2 + 3 + 4) * (2 * flat * rank + flat)
        + 4 * 4 * DIM**2
    )
    pooling = (DIM**2 + DIM) + (flat * DIM + DIM)
    sizes = (16, 32, 64, 128, 256, 512, 1024)
    hidden = (DIM**2 + DIM) + sum(2 * DIM * k + 2 * k + DIM for k in sizes)
    hidden += sum(8 * s + 8 + 8 + 1 for s in (1, 3, 5, 7))
    counted = sum(int(np.prod(v.shape)) for v in papers.trainable_variables)
    assert counted == interactions + 8 * (pooling + 3 * hidden)


def test_every_task_gets_a_vector_of_the_declared_width():
    out = supernet_of(tasks=("a", "b", "c"), width=5)(drawn(ROWS, FIELDS, DIM), training=True)
    assert {task: tuple(h.shape) for task, h in out.items()} == dict.fromkeys("abc", (ROWS, 5))


def test_a_row_does_not_depend_on_the_others_at_inference():
    supernet = supernet_of()
    randomise(supernet)
    fields = drawn(ROWS, FIELDS, DIM)
    together = supernet(fields)
    for i in range(ROWS):
        alone = supernet(fields[i : i + 1])
        for task in together:
            np.testing.assert_allclose(alone[task][0], together[task][i], rtol=1e-4, atol=1e-4)


def test_a_task_is_its_experts_by_the_softmax_of_beta():
    supernet = supernet_of()
    fields = drawn(ROWS, FIELDS, DIM)
    _, experts = supernet.experts(fields)
    supernet.beta.assign(drawn(2, 3))
    weights = np.exp(supernet.beta) / np.exp(supernet.beta).sum(axis=1, keepdims=True)
    for k, task in enumerate(supernet.tasks):
        expected = np.einsum("n,nbh->bh", weights[k], experts)
        np.testing.assert_allclose(supernet(fields)[task], expected, rtol=1e-4, atol=1e-6)


def test_homogeneous_experts_share_their_architecture_and_not_their_weights():
    supernet = supernet_of(heterogeneous=False)
    assert tuple(supernet.alpha_pooling.shape) == (1, 2)
    assert tuple(supernet.alpha_hidden.shape) == (1, 2, 6)
    _, experts = supernet.experts(drawn(ROWS, FIELDS, DIM))
    assert not np.allclose(experts[0], experts[1])
    for v in supernet.trainable_variables:
        if v.shape[0] == 3 and "interaction" not in v.name:
            v.assign(tf.repeat(v[:1], 3, axis=0))
    _, experts = supernet.experts(drawn(ROWS, FIELDS, DIM))
    np.testing.assert_allclose(experts[0], experts[1], rtol=1e-5)
    np.testing.assert_allclose(experts[0], experts[2], rtol=1e-5)


def test_without_interaction_the_experts_read_the_fields_as_they_are():
    supernet = supernet_of(interaction=False)
    fields = drawn(ROWS, FIELDS, DIM)
    seen, _ = supernet.experts(fields)
    np.testing.assert_array_equal(seen, fields)
    assert supernet.alpha_interaction is None
    assert "interaction" not in {weights.block for weights in supernet.operations()}
    assert "interaction" not in supernet.labels()


def test_without_selection_gates_mix_all_experts_by_the_rows_fields():
    supernet = supernet_of(selection=False)
    assert supernet.beta is None
    fields = drawn(ROWS, FIELDS, DIM)
    seen, experts = supernet.experts(fields)
    kernel, bias = (np.asarray(v) for v in supernet.gates.trainable_variables)
    out = supernet(fields)
    flat = np.reshape(seen, [ROWS, -1])
    for k, task in enumerate(supernet.tasks):
        weights = tf.nn.softmax(flat @ kernel[k] + bias[k])
        expected = np.einsum("bn,nbh->bh", weights, experts)
        np.testing.assert_allclose(out[task], expected, rtol=1e-4, atol=1e-5)
    mine = {id(v) for weights in supernet.operations() for v in weights.variables}
    others = [v for v in supernet.trainable_variables if id(v) not in mine]
    assert {id(v) for v in others} == {id(v) for v in supernet.gates.trainable_variables}


def test_the_auxiliary_skip_adds_the_input_and_nothing_once_its_weight_is_zero():
    supernet, fields = supernet_of(auxiliary_skip=True), drawn(ROWS, FIELDS, DIM)
    assert float(supernet.skip_weight) == 1.0
    assert not supernet.skip_weight.trainable
    mixed = supernet.interaction(fields, tf.nn.softmax(supernet.alpha_interaction))
    for weight in (1.0, 0.25, 0.0):
        supernet.skip_weight.assign(weight)
        seen, _ = supernet.experts(fields)
        np.testing.assert_allclose(seen, mixed + weight * fields, rtol=1e-5, atol=1e-6)


def found_architecture(interaction="cross-1"):
    configs = {label: dict(config) for space in SPACE.values() for label, config in space}

    def chosen(label):
        return Chosen(label=label, config=configs[label])

    return Architecture(
        interaction=None if interaction is None else chosen(interaction),
        experts=[
            Expert(id=0, pooling=chosen("sum"), blocks=[chosen("mlp-16"), chosen("skip")]),
            Expert(id=2, pooling=chosen("linear"), blocks=[chosen("conv-3"), chosen("mlp-32")]),
        ],
        tasks={"ctr": Selection(experts=[0, 2]), "cvr": Selection(experts=[2])},
    )


def test_a_forced_supernet_is_the_architecture_made_of_its_own_layers():
    supernet, fields = supernet_of(), drawn(ROWS, FIELDS, DIM)
    randomise(supernet)
    supernet.force(found_architecture())
    at = {
        (block.name, label): layer
        for block in (supernet.interaction, supernet.pooling, *supernet.blocks)
        for label, layer in zip(block.labels, block.layers, strict=True)
    }
    seen = at["interaction", "cross-1"](fields)
    # Every copy is given the same rows, so that expert 0's is the first and expert 2's the last.
    first = tf.repeat(at["pooling", "sum"](seen), 3, axis=0)
    first = at["hidden_0", "mlp-16"](first)[0]
    last = tf.repeat(at["pooling", "linear"](seen)[2:], 3, axis=0)
    last = tf.repeat(at["hidden_0", "conv-3"](last)[2:], 3, axis=0)
    last = at["hidden_1", "mlp-32"](last)[2]
    out = supernet(fields)
    np.testing.assert_allclose(out["cvr"], last, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["ctr"], (first + last) / 2, rtol=1e-5, atol=1e-5)
    assert tf.nn.softmax(supernet.beta).numpy().tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]


def test_an_architecture_of_another_space_is_refused():
    with pytest.raises(SpecError, match="has no 'cross-2'"):
        supernet_of().force(found_architecture("cross-2"))
    with pytest.raises(SpecError, match="interaction=None"):
        supernet_of().force(found_architecture(None))
    with pytest.raises(SpecError, match="got expert 2"):
        supernet_of(num_experts=2).force(found_architecture())
    with pytest.raises(SpecError, match="one architecture"):
        supernet_of(heterogeneous=False).force(found_architecture())


class Scaled(keras.layers.Layer):
    """A layer of a user, who knows of neither copies nor operations."""

    def __init__(self, *, start=2.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        start = keras.initializers.Constant(self.start)
        self.scale = self.add_weight(name="scale", shape=(), initializer=start)
        super().build(input_shape)

    def call(self, inputs, training=False):
        return self.scale * inputs


class Added(Operation):
    """A user's operation, which knows nothing of copies."""

    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="ones")
        super().build(input_shape)

    def call(self, inputs, training=False):
        return inputs + self.bias


@pytest.fixture
def registered():
    registry.register("hidden", "scaled")(Scaled)
    registry.register("interaction", "scaled")(Scaled)
    registry.register("hidden", "added")(Added)
    yield
    for kind, name in (("hidden", "scaled"), ("interaction", "scaled"), ("hidden", "added")):
        registry._PARTS[kind].pop(name)


def test_registered_layers_of_a_user_extend_the_space(registered):
    scaled = ("scaled", {"name": "scaled", "start": 3.0})
    supernet = supernet_of(
        interactions=[*SMALL["interactions"], scaled],
        hidden=[*SMALL["hidden"], scaled, ("added", {"name": "added"})],
    )
    assert supernet.labels()["hidden"][-2:] == ["scaled", "added"]
    mine = [w for w in supernet.operations() if w.label in ("scaled", "added")]
    assert [(w.block, w.label, w.copies, w.expert) for w in mine] == [
        ("interaction", "scaled", None, None),
        *(
            (block, label, None, expert)
            for block, label, expert in itertools.product(
                ("hidden_0", "hidden_1"), ("scaled", "added"), range(3)
            )
        ),
    ]
    for weights in mine:
        if weights.label == "scaled" and weights.expert is not None:
            weights.variables[0].assign(10.0 + weights.expert)
    fields = drawn(ROWS, FIELDS, DIM)
    index = supernet.labels()["interaction"].index("scaled")
    supernet.alpha_interaction.assign(1e4 * tf.one_hot(index, 4))
    seen, _ = supernet.experts(fields)
    np.testing.assert_allclose(seen, 3.0 * fields, rtol=1e-6)
    labels = supernet.labels()["hidden"]
    one_hot = 1e4 * tf.one_hot([[labels.index("scaled"), labels.index("added")]] * 3, len(labels))
    supernet.alpha_hidden.assign(one_hot)
    pooled = supernet.pooling(seen, tf.nn.softmax(supernet.alpha_pooling))
    _, experts = supernet.experts(fields)
    for i in range(3):
        np.testing.assert_allclose(experts[i], (10.0 + i) * pooled[i] + 1.0, rtol=1e-5, atol=1e-5)


def test_two_candidates_of_one_label_are_refused():
    with pytest.raises(SpecError, match=r"\['skip'\] more than once"):
        Choice("hidden", [HIDDEN[0], HIDDEN[0]])
    with pytest.raises(SpecError, match="no candidates"):
        Choice("hidden", [])


def test_a_label_does_not_look_like_several_names():
    with pytest.raises(SpecError, match=r"a '/' in \['mlp/8'\]"):
        Choice("hidden", [HIDDEN[0], ("mlp/8", {"name": "mlp", "units": 8})])
