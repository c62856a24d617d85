"""MaskNet and DNN: masks of the embeddings as they are, over fields normalised one by one."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tfmtl import registry
from tfmtl.backbones import DNN, MaskNet, SharedBottom
from tfmtl.backbones.masknet import MaskBlocks
from tfmtl.declare.experiment import Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel

TASKS = ("ctr", "cvr")
ROWS, FIELDS, DIM = 16, 3, 4
WIDTH = FIELDS * DIM
EPSILON = 1e-5
SERIAL = {"units": (7, 6, 5)}
PARALLEL = {"form": "parallel", "num_blocks": 3, "block_units": 5, "units": (6,)}
both_forms = pytest.mark.parametrize("arguments", [SERIAL, PARALLEL], ids=["serial", "parallel"])
PRESETS = [
    (DNN, "fuxictr", 10_000),
    (MaskNet, "fuxictr", 4096),
    (MaskNet, "fuxictr_parallel", 4096),
]
every_preset = pytest.mark.parametrize(("part", "preset", "batch"), PRESETS)


def some_fields(seed=0, scale=(1.0, 10.0, 1.0)):
    """Fields of which one is ten times as large, so that a norm more or less shows."""
    drawn = np.random.default_rng(seed).normal(size=(ROWS, FIELDS, DIM))
    return (drawn * np.reshape(scale, [1, FIELDS, 1])).astype(np.float32)


def make(**arguments):
    masknet = MaskNet(TASKS, **arguments)
    masknet(tf.constant(some_fields()))
    randomise(masknet)
    return masknet


def relu(x):
    return np.maximum(x, 0.0)


def normalised(x, norm, groups):
    """The layer norm of each of `groups` equal parts of the rows, by the layer's gain, offset."""
    parts = x.reshape(len(x), groups, -1).astype(np.float64)
    parts = parts - parts.mean(axis=2, keepdims=True)
    parts = parts / np.sqrt((parts**2).mean(axis=2, keepdims=True) + EPSILON)
    return parts.reshape(len(x), -1) * norm.gamma.numpy() + norm.beta.numpy()


def of_block(blocks, i, embedded, hidden):
    """Block `i`'s output before the norm, by the paper's formula."""

    def layer(dense):
        bias = tf.reshape(dense.bias, [blocks.num, -1])[i].numpy() if dense.use_bias else 0.0
        return dense.kernel[i].numpy(), bias

    (w1, b1), (w2, b2), (w, none) = map(layer, (blocks.mask_hidden, blocks.mask, blocks.dense))
    assert none == 0.0
    mask = relu(embedded @ w1 + b1) @ w2 + b2
    return (mask * hidden) @ w


def of_blocks(blocks, embedded, hidden):
    each = [of_block(blocks, i, embedded, hidden) for i in range(blocks.num)]
    together = np.concatenate(each, axis=1)
    return relu(normalised(together, blocks.layer_norm, blocks.num) if blocks.norm else together)


def formula(masknet, fields, *, mask_reads=None):
    """The network in NumPy; `mask_reads` stands in for what the masks are made of."""
    embedded = fields.reshape(len(fields), -1)
    h = embedded
    if masknet.embedding_norm:
        h = normalised(embedded, masknet.field_norm, FIELDS)
    for blocks in masknet.blocks:
        h = of_blocks(blocks, embedded if mask_reads is None else mask_reads, h)
    for dense in masknet.mlp.dense:
        h = relu(h @ dense.kernel.numpy() + dense.bias.numpy())
    return h


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("num", [1, 3])
def test_mask_blocks_are_the_papers_formula_each_on_its_own_weights(num, norm):
    blocks = MaskBlocks(num, 5, norm=norm, reduction_ratio=0.5)
    rng = np.random.default_rng(1)
    embedded, hidden = (rng.normal(size=(ROWS, n)).astype(np.float32) for n in (9, 7))
    blocks((tf.constant(embedded), tf.constant(hidden)))
    randomise(blocks)
    actual = blocks((tf.constant(embedded), tf.constant(hidden)))
    assert actual.shape == (ROWS, num * 5)
    close(actual, of_blocks(blocks, embedded, hidden))


@pytest.mark.parametrize(("norm", "expected"), [(False, [9.0, 20.0]), (True, [0.0, 1.0])])
def test_a_mask_block_by_hand(norm, expected):
    # The mask is ReLU(2, −1 + 4) + (1, −1) = (3, 2); masked (9, 10); times W (9, 20). Of two
    # numbers, a layer norm leaves −1 and 1.
    blocks = MaskBlocks(1, 2, norm=norm)
    inputs = tf.constant([[2.0, -1.0]]), tf.constant([[3.0, 5.0]])
    blocks(inputs)
    identity = np.eye(2)[np.newaxis]
    blocks.mask_hidden.set_weights([identity, np.array([0.0, 4.0])])
    blocks.mask.set_weights([identity, np.array([1.0, -1.0])])
    blocks.dense.set_weights([identity * [1.0, 2.0]])
    np.testing.assert_allclose(blocks(inputs), [expected], atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"embedding_norm": False}, {"block_norm": False}])
@both_forms
def test_the_network_is_the_papers_formula(arguments, more):
    masknet, fields = make(**arguments, **more), some_fields()
    for representation in masknet(tf.constant(fields)).values():
        close(representation, formula(masknet, fields))


@both_forms
def test_masks_read_the_embeddings_before_their_norm(arguments):
    masknet, fields = make(**arguments), some_fields()
    actual = masknet(tf.constant(fields))["ctr"]
    close(actual, formula(masknet, fields))
    after = normalised(fields.reshape(ROWS, -1), masknet.field_norm, FIELDS)
    wrong = formula(masknet, fields, mask_reads=after)
    assert np.abs(actual - wrong).max() > 0.1 * np.abs(actual).max()


def test_every_serial_mask_reads_all_fields_at_every_depth():
    masknet = make(**SERIAL)
    read = [blocks.mask_hidden.kernel.shape.as_list() for blocks in masknet.blocks]
    assert read == [[1, WIDTH, WIDTH], [1, WIDTH, 7], [1, WIDTH, 6]]
    # And reads the embeddings, not the block before: where those before say nothing of the row,
    # the last one's mask still does.
    for blocks in masknet.blocks[:-1]:
        blocks.dense.kernel.assign(tf.zeros_like(blocks.dense.kernel))
    h = masknet(tf.constant(some_fields()))["ctr"]
    assert np.ptp(h, axis=0).max() > 0.1


def test_each_field_is_normalised_by_its_own_moments():
    masknet = MaskNet(TASKS, **SERIAL)
    fields = some_fields(scale=(1.0, 10.0, 1000.0)) + np.float32(5.0)
    masknet(tf.constant(fields))
    h = masknet.field_norm(fields.reshape(ROWS, -1)).numpy().reshape(ROWS, FIELDS, DIM)
    np.testing.assert_allclose(h.mean(axis=2), 0.0, atol=1e-4)
    np.testing.assert_allclose(h.std(axis=2), 1.0, atol=1e-2)


@both_forms
def test_with_a_constant_mask_the_scale_of_a_field_says_nothing(arguments):
    masknet = make(**arguments)
    for blocks in masknet.blocks:
        blocks.mask_hidden.kernel.assign(tf.zeros_like(blocks.mask_hidden.kernel))
    one, other = (some_fields(scale=scale) for scale in ((10.0, 10.0, 10.0), (10.0, 100.0, 10.0)))
    expected = masknet(tf.constant(one))["ctr"]
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(masknet(tf.constant(other))["ctr"], expected, atol=1e-3)


def test_rows_as_they_start_are_normalised_too():
    # N(0, 0.01²); Keras' own epsilon would leave a third of the deviation.
    masknet = MaskNet(TASKS, **SERIAL)
    fields = np.random.default_rng(2).normal(0.0, 0.01, (1000, FIELDS, 40)).astype(np.float32)
    masknet(tf.constant(fields))
    assert 0.9 < np.std(masknet.field_norm(fields.reshape(1000, -1))) <= 1.0


def test_parallel_blocks_are_no_copies_of_each_other():
    masknet = MaskNet(TASKS, **PARALLEL)
    fields = tf.constant(some_fields())
    masknet(fields)
    x = tf.reshape(fields, [ROWS, WIDTH])
    outputs = tf.reshape(masknet.blocks[0]((x, masknet.field_norm(x))), [ROWS, 3, 5]).numpy()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outputs[:, i] - outputs[:, j]).max() > 0.1


def test_eight_parallel_blocks_are_as_many_products_as_one():
    def products(num):
        masknet = MaskNet(TASKS, **{**PARALLEL, "num_blocks": num})
        masknet(tf.constant(some_fields()))
        graph = tf.function(masknet.call, autograph=False).get_concrete_function(
            tf.TensorSpec([None, FIELDS, DIM], tf.float32)
        )
        return sum("MatMul" in op.type for op in graph.graph.get_operations())

    assert products(8) == products(1) > 0


def test_rows_in_another_order_have_the_same_representations():
    for arguments in (SERIAL, PARALLEL):
        masknet, fields = make(**arguments), some_fields()
        order = np.random.default_rng(3).permutation(ROWS)
        expected = masknet(tf.constant(fields))["cvr"].numpy()[order]
        close(masknet(tf.constant(fields[order]))["cvr"], expected)


def dense(into, out, bias=True):
    return (into + bias) * out


def serial_count(x, units, ratio, fields_norm=True, norm=True):
    count = 2 * x * fields_norm
    for into, out in zip((x, *units), units, strict=False):
        own = int(into * ratio)
        count += dense(x, own) + dense(own, into) + dense(into, out, bias=False) + 2 * out * norm
    return count


def parallel_count(x, num, width, units, ratio, fields_norm=True, norm=True):
    own = int(x * ratio)
    block = dense(x, own) + dense(own, x) + dense(x, width, bias=False) + 2 * width * norm
    layers = sum(dense(*pair) for pair in zip((num * width, *units), units, strict=False))
    return 2 * x * fields_norm + num * block + layers


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("norms", [(True, True), (False, True), (True, False)])
def test_the_number_of_parameters_is_the_closed_form(ratio, norms):
    norm_arguments = dict(zip(("embedding_norm", "block_norm"), norms, strict=True))
    serial = make(**SERIAL, **norm_arguments, reduction_ratio=ratio)
    assert serial.count_params() == serial_count(WIDTH, SERIAL["units"], ratio, *norms)
    parallel = make(**PARALLEL, **norm_arguments, reduction_ratio=ratio)
    assert parallel.count_params() == parallel_count(WIDTH, 3, 5, (6,), ratio, *norms)


def test_two_serial_blocks_have_the_count_on_paper():
    # 24 of the fields' norm; 12·13 + 13·12 + 12·3 + 6 and 13·3 + 4·3 + 3·2 + 4.
    assert make(units=(3, 2)).count_params() == 24 + (156 + 156 + 36 + 6) + (39 + 12 + 6 + 4)


def model_of(part, preset, tasks):
    features = [categorical(name, encoding="identity", size=9) for name in ("user", "ad")]
    problem = ProblemSpec(features=tuple(features), tasks=tuple(binary(t, label=t) for t in tasks))
    config = Model(**part.presets[preset]["model"])
    model = MultiTaskModel.build_from(problem, {"user": 11, "ad": 11}, config)
    model({"ids_context": tf.constant([[2, 3], [3, 4]])})
    return model


@every_preset
def test_fuxictrs_defaults_make_its_single_task_network(part, preset, batch):
    model = model_of(part, preset, ("click",))
    x = 2 * 40
    expected = {
        (DNN, "fuxictr"): dense(x, 500) + 2 * dense(500, 500),
        (MaskNet, "fuxictr"): serial_count(x, (400, 400, 400), 1),
        (MaskNet, "fuxictr_parallel"): parallel_count(x, 1, 64, (400, 400, 400), 1),
    }
    assert model.backbone.count_params() == expected[part, preset]
    # The logit lies on the last hidden layer, with nothing between.
    assert model.heads.count_params() == (500 if part is DNN else 400) + 1
    assert Training(**part.presets[preset]["training"]).batch_size == batch


@every_preset
def test_further_tasks_cost_a_logit_each_and_share_all_else(part, preset, batch):
    one, three = (model_of(part, preset, tasks) for tasks in (("a",), ("a", "b", "c")))
    assert three.backbone.count_params() == one.backbone.count_params()
    assert three.heads.count_params() == 3 * one.heads.count_params()
    h = three.backbone(tf.ones([2, 2, 40]))
    assert h["a"] is h["b"] is h["c"]


@pytest.mark.parametrize(("part", "preset"), [(DNN, "fuxictr"), (MaskNet, "fuxictr")])
def test_fuxictrs_defaults_are_ours(part, preset):
    named = registry.build("backbone", part.presets[preset]["model"]["backbone"], TASKS)
    assert {**named.get_config(), "name": ""} == {**part(TASKS).get_config(), "name": ""}
    assert part.tower_units == part.presets[preset]["model"]["tower_units"] == ()


def test_dnn_is_shared_bottom_without_towers():
    fields = tf.constant(some_fields())
    dnn, shared = DNN(TASKS, units=(7, 5)), SharedBottom(TASKS, bottom_units=(7, 5))
    dnn(fields)
    shared(fields)
    randomise(dnn)
    shared.set_weights(dnn.get_weights())
    np.testing.assert_array_equal(dnn(fields)["ctr"], shared(fields)["ctr"])
    assert dnn.tower_units == () != shared.tower_units


def test_mask_blocks_are_made_again_from_their_config():
    blocks = MaskBlocks(2, 3, reduction_ratio=0.5, norm=False, dropout=0.1, name="blocks")
    plain = json.loads(json.dumps(blocks.get_config()))
    assert MaskBlocks.from_config(plain).get_config() == plain
    assert {k: plain[k] for k in ("num", "units", "reduction_ratio", "norm", "dropout")} == {
        "num": 2, "units": 3, "reduction_ratio": 0.5, "norm": False, "dropout": 0.1,
    }  # fmt: skip


def test_what_makes_no_network_is_refused():
    with pytest.raises(SpecError, match="'paralel' is none of .* Did you mean 'parallel'"):
        MaskNet(TASKS, form="paralel")
    with pytest.raises(SpecError, match="units=()"):
        MaskNet(TASKS, units=())
    with pytest.raises(ValueError, match="at least 1 block; got 0"):
        MaskNet(TASKS, **{**PARALLEL, "num_blocks": 0})
    with pytest.raises(ValueError, match="widths of at least 1"):
        MaskNet(TASKS, units=(8, 0))
    with pytest.raises(ValueError, match="reduction_ratio=0.01 of a hidden width of 12"):
        make(reduction_ratio=0.01)
