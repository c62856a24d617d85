"""What holds of every backbone: a new one is picked up from the registry by itself."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tfmtl.backbones  # noqa: F401  registers them
from tests.doubles.contracts import own_block_errors
from tests.doubles.random_weights import randomise
from tests.doubles.registered import registered
from tests.doubles.small_parts import SMALL as SMALL_PARTS
from tests.doubles.small_parts import table_errors
from tfmtl import registry
from tfmtl.backbones import PLE, SingleTask
from tfmtl.declare.features import SIDES, categorical
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.errors import SpecError
from tfmtl.layers.decay import is_kernel
from tfmtl.layers.embedding import Embedding

SMALL = SMALL_PARTS["backbone"]
TASKS = ("ctr", "cvr", "ctcvr")
FIELDS, DIM, ROWS, SCENES = 3, 4, 16, 4
EXPERTS = {"expert_units": (8, 6), "gate_hidden": (5,)}
BRANCHES = {"num_specific": 2, "num_shared": 1, "gate_bias": False}


def searched(batch_norm=False, dropout=0.0):
    """Experts whose normalisation and dropout are those of one of their layers."""
    mlp = {"name": "mlp", "units": 7, "batch_norm": batch_norm, "dropout": dropout}
    poolings = ("linear", "sum", "attentive", "average")
    blocks = ((mlp, {"name": "gate"}), ({"name": "skip"}, mlp), ({"name": "convolution"},), ())
    return {
        "experts": [
            {"pooling": {"name": pooling}, "blocks": own}
            for pooling, own in zip(poolings, blocks, strict=True)
        ],
        "chosen": {"ctr": (0, 1, 2), "cvr": (0, 3), "ctcvr": (1,)},
        "width": 6,
    }


# What the small configurations leave out: deeper experts, gates with layers, other widths. A
# backbone needs no row here.
RICHER = {
    "aitm": {"bottom_units": (8, 6)},
    "automtl": searched(),
    "cgc": {**EXPERTS, **BRANCHES},
    "dnn": {"units": (8, 6)},
    "esmm": {"units": (8, 6)},
    "man": {**BRANCHES, "expert_units": ((8, 7), (6,))},
    "masknet": {"units": (8, 6)},
    "mmoe": {**EXPERTS, "num_experts": 3},
    "omoe": {**EXPERTS, "num_experts": 3},
    "per_scene": {"bottom_units": (8,), "task_units": (5,)},
    "ple": {**BRANCHES, "expert_units": ((8, 7), (6,))},
    "shared_bottom": {"bottom_units": (8, 6)},
    "single_task": {"bottom_units": (8, 6)},
    "star": {"units": (8, 4), "aux_units": (2,)},
    "two_tower": {"user_units": (8,), "ad_units": (7,), "width": 2},
}
PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        categorical("ad", side="ad"),
        categorical("scene"),
    ),
    tasks=tuple(binary(task, label=task) for task in TASKS),
    user_id="user",
    scene="scene",
)
TABLE_ROWS = {"user": 5, "ad": 5, "scene": SCENES}
every_backbone = pytest.mark.parametrize("name", registry.names("backbone"))
NORM = {"star": "partitioned_norm"}
OF_LAYERS = ("automtl",)  # normalise and drop in layers that are named one by one


def parameters(part):
    return inspect.signature(part.__init__).parameters


def taking(argument):
    """Names of the backbones that take an argument, or have layers of their own that do."""
    names = registry.names("backbone")
    return [n for n in names if n in OF_LAYERS or argument in arguments_of(n)]


def arguments_of(name):
    return inspect.signature(registry.get("backbone", name)).parameters


BY_BATCH = sorted({*taking("batch_norm"), *NORM})
DROPPING = taking("dropout")


def config_of(name, **more):
    """A small configuration, with what a model derives from the declaration."""
    derived = registry.get("backbone", name).derived(PROBLEM, TABLE_ROWS)
    small = RICHER[name] if name in RICHER else SMALL[name]
    return {**derived, **small, **more}


def make(name, **more):
    """A backbone with random weights."""
    backbone = registry.build("backbone", {"name": name, **config_of(name, **more)}, TASKS)
    return settled(backbone)


def settled(backbone):
    """Describes the fields to a backbone, builds it and draws its weights."""
    described(backbone)
    represent(backbone, inputs(backbone))
    randomise(backbone)
    return backbone


def described(backbone):
    def fields_of(name, sides=SIDES, copies=1, lender=None):
        return Embedding(PROBLEM, TABLE_ROWS, dim=DIM, sides=sides).fields

    backbone.describe(PROBLEM, backbone.embeddings(fields_of))
    return backbone


def make_normed(name):
    """A backbone with random weights and every kind of normalisation that it has."""
    if name in OF_LAYERS:
        return make(name, **searched(batch_norm=True))
    return make(name, **({NORM.get(name, "batch_norm"): True} if name in BY_BATCH else {}))


def inputs(backbone, seed=0):
    """Fields, and what else the backbone takes of each row."""
    rng = np.random.default_rng(seed)

    def fields(name, sides=SIDES, copies=1, lender=None):
        return tf.constant(rng.normal(size=(ROWS, FIELDS, DIM)), tf.float32)

    scene = rng.permutation(np.arange(ROWS) % SCENES)
    packed = {"ids_context": tf.constant(scene[:, np.newaxis], tf.int64)}
    return backbone.embeddings(fields), backbone.row_inputs(packed)


def represent(backbone, inputs, **more):
    fields, row_inputs = inputs
    return backbone(fields, **row_inputs, **more)


def rows(fields, index):
    return tf.nest.map_structure(lambda field: tf.gather(field, index), fields)


def test_every_registered_backbone_has_a_small_configuration():
    assert table_errors("backbone") == []


def test_a_backbone_without_a_small_configuration_says_which_row_to_add_where():
    with pytest.raises(LookupError, match=r"add the row 'mmoe2'.*_ROWS\['backbone'\].*small_parts"):
        with registered("backbone", "mmoe2", registry.get("backbone", "mmoe")):
            SMALL["mmoe2"]


@every_backbone
def test_a_backbone_is_made_again_from_its_config(name):
    backbone = make(name)
    plain = json.loads(json.dumps(backbone.get_config()))
    again = described(type(backbone).from_config(plain))
    represent(again, inputs(backbone))
    again.set_weights(backbone.get_weights())
    assert json.loads(json.dumps(again.get_config())) == plain
    for task, h in represent(again, inputs(backbone)).items():
        np.testing.assert_array_equal(h, represent(backbone, inputs(backbone))[task])


@every_backbone
def test_every_constructor_argument_is_an_attribute_and_in_the_config(name):
    backbone = make(name)
    config = backbone.get_config()
    for argument, parameter in parameters(type(backbone)).items():
        if argument != "self" and parameter.kind is not parameter.VAR_KEYWORD:
            assert argument in config and hasattr(backbone, argument)
            assert argument == "tasks" or parameter.kind is parameter.KEYWORD_ONLY


@every_backbone
def test_some_tasks_are_represented_alone_as_with_the_others(name):
    backbone = make(name)
    fields, row_inputs = inputs(backbone)
    every = backbone(fields, **row_inputs)
    for tasks in (TASKS[:1], TASKS[1:]):
        some = backbone.represent(fields, tasks, **row_inputs)
        assert tuple(some) == tasks
        for task in tasks:
            np.testing.assert_allclose(some[task], every[task], atol=1e-6)


@every_backbone
def test_a_misspelt_hyper_parameter_is_refused(name):
    with pytest.raises(SpecError, match="has no argument 'num_expert_units'"):
        registry.build("backbone", {"name": name, "num_expert_units": 3}, TASKS)


@every_backbone
def test_every_task_gets_a_representation_of_each_row_in_the_order_of_tasks(name):
    backbone = make(name)
    representations = represent(backbone, inputs(backbone))
    assert tuple(representations) == TASKS
    (shape,) = {tuple(h.shape) for h in representations.values()}
    too_wide = f"{name} is {shape[1]} wide in tests/doubles/small_parts.py; make its row narrower."
    assert shape[0] == ROWS and shape[1] < 16, too_wide


@every_backbone
def test_a_row_is_the_same_in_any_order_and_company(name):
    backbone = make_normed(name)
    fields = inputs(backbone)
    order = np.random.default_rng(1).permutation(ROWS)
    for task, h in represent(backbone, fields).items():
        shuffled = represent(backbone, rows(fields, order))[task]
        np.testing.assert_allclose(shuffled, tf.gather(h, order), atol=1e-5)
        alone = represent(backbone, rows(fields, [2]))[task]
        np.testing.assert_allclose(alone, h[2:3], atol=1e-5)


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_acts_in_training_alone(name):
    # Without moments of the batch, which training has on other grounds.
    plain = {NORM[name]: False} if name in NORM else {}
    dropout = searched(dropout=0.5) if name in OF_LAYERS else {"dropout": 0.5}
    backbone, without = make(name, **dropout, **plain), make(name, **plain)
    without.set_weights(backbone.get_weights())
    fields = inputs(backbone)
    trained = represent(backbone, fields, training=True)
    again = represent(backbone, fields, training=True)
    for task, h in represent(backbone, fields, training=False).items():
        np.testing.assert_array_equal(h, represent(without, fields, training=True)[task])
        assert np.abs(trained[task] - h).max() > 1e-3
        assert np.abs(trained[task] - again[task]).max() > 1e-3


@pytest.mark.parametrize("name", BY_BATCH)
def test_batch_moments_are_used_and_remembered_in_training_alone(name):
    backbone = make_normed(name)
    fields, before = inputs(backbone), backbone.get_weights()
    inference = represent(backbone, fields, training=False)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    trained = represent(backbone, fields, training=True)
    assert all(np.abs(trained[t] - inference[t]).max() > 1e-3 for t in TASKS)
    moved = {
        v.name
        for v, old in zip(backbone.weights, before, strict=True)
        if not np.array_equal(v, old)
    }
    assert moved == {v.name for v in backbone.non_trainable_weights} != set()


@every_backbone
def test_what_lies_side_by_side_by_task_is_declared_as_the_tasks_own(name):
    backbone = make_normed(name)
    fields = inputs(backbone)
    assert own_block_errors(backbone, lambda: represent(backbone, fields)) == []


@every_backbone
def test_every_weight_and_every_input_learns_from_the_tasks(name):
    backbone = make(name)
    fields = inputs(backbone)
    with tf.GradientTape() as tape:
        read = [field for field in tf.nest.flatten(fields) if field.dtype.is_floating]
        tape.watch(read)
        loss = tf.add_n([tf.reduce_sum(h**2) for h in represent(backbone, fields).values()])
    gradients = tape.gradient(loss, [*backbone.trainable_weights, *read])
    names = [*(v.name for v in backbone.trainable_weights), "fields"]
    for gradient, name_ in zip(gradients, names, strict=False):
        assert gradient is not None, name_
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, name_


@every_backbone
def test_only_kernels_have_a_rank_above_one(name):
    # Weight decay is on kernels, and the model knows them by their rank; of layers that keep
    # several vectors in a matrix, by their name too.
    for v in make_normed(name).trainable_weights:
        assert is_kernel(v) == ("kernel" in v.name), v.name
        assert name in OF_LAYERS or (v.shape.rank > 1) == is_kernel(v), v.name


@every_backbone
def test_saved_weights_are_found_again(name, tmp_path):
    # Keras' own format walks attributes and lists of layers, and passes over lists of lists.
    before, after = (keras.Sequential([make_normed(name)]) for _ in range(2))
    for model, seed in ((before, 1), (after, 2)):
        model.built = True
        randomise(model.layers[0], seed=seed)
    before.save_weights(tmp_path / "model.weights.h5")
    after.load_weights(tmp_path / "model.weights.h5")
    for v, saved in zip(after.weights, before.weights, strict=True):
        np.testing.assert_array_equal(v, saved)


def mlp(width, units):
    return sum(n * (m + 1) for m, n in zip((width, *units), units, strict=False))


def gate(width, hidden, num_experts, bias):
    return mlp(width, hidden) + ((hidden or (width,))[-1] + bias) * num_experts


def single_task(x, tasks, bottom_units):
    return tasks * mlp(x, bottom_units)


def shared_bottom(x, tasks, bottom_units):
    return mlp(x, bottom_units)


def dnn(x, tasks, units):
    return mlp(x, units)


def masknet(x, tasks, units, form="serial", num_blocks=1, block_units=64, reduction_ratio=1.0):
    def block(width, out):
        own = int(reduction_ratio * width)
        return mlp(x, (own, width)) + width * out + 2 * out

    if form == "parallel":
        above = mlp(num_blocks * block_units, units)
        return 2 * x + num_blocks * block(x, block_units) + above
    return 2 * x + sum(block(*pair) for pair in zip((x, *units), units, strict=False))


def esmm(x, tasks, units):
    return tasks * mlp(x, units)


def mmoe(x, tasks, num_experts, expert_units, gate_hidden=(), gate_bias=True):
    gates = tasks * gate(x, gate_hidden, num_experts, gate_bias)
    return num_experts * mlp(x, expert_units) + gates


def omoe(x, tasks, **arguments):
    return mmoe(x, 1, **arguments)


def ple(x, tasks, num_specific, num_shared, expert_units, gate_hidden=(), gate_bias=True):
    total = tasks * num_specific + num_shared
    count = 0
    for level, units in enumerate(expert_units, start=1):
        count += total * mlp(x, units)
        count += tasks * gate(x, gate_hidden, num_specific + num_shared, gate_bias)
        if level < len(expert_units):
            count += gate(x, gate_hidden, total, gate_bias)
        x = units[-1]
    return count


def cgc(x, tasks, expert_units, **arguments):
    return ple(x, tasks, expert_units=[expert_units], **arguments)


def man(x, tasks, expert_units, mode="aitm", direction="both", **arguments):
    d = expert_units[-1][-1]
    query_and_key = {"aitm": 2 * d * (d + 1), "sdpa": d * (d + 1) + d * d}
    scores = query_and_key.get(mode, 2 * (2 * d + 1))
    pairs = (tasks - 1) * (2 if direction == "both" else 1)
    # What is passed on, and the values, are as wide as what they read.
    return ple(x, tasks, expert_units=expert_units, **arguments) + pairs * (
        2 * d * (d + 1) + scores
    )


def aitm(x, tasks, bottom_units):
    d = bottom_units[-1]
    return tasks * mlp(x, bottom_units) + (tasks - 1) * ((d + 1) * d + 3 * d * d)


def automtl(x, tasks, experts, chosen, width, gate_bias=True):
    resize = (DIM + 1) * width
    poolings = {"sum": resize, "average": resize, "linear": (x + 1) * width}
    poolings["attentive"] = DIM * DIM + DIM + resize
    count = sum((x + gate_bias) * len(own) for own in chosen.values() if len(own) > 1)
    for expert in experts:
        count += poolings[expert["pooling"]["name"]]
        for block in expert["blocks"]:
            count += {
                "skip": 0,
                "gate": (width + 1) * width,
                # There and back; either a bias stands in for the norm, or gain and offset.
                "mlp": mlp(width, (7, width)) + 7 * block.get("batch_norm", False),
                # Three numbers to eight channels, and eight to one.
                "convolution": 3 * 8 + 8 + 8 + 1,
            }[block["name"]]
    return count


def two_tower(x, tasks, user_units, ad_units, width, interaction="joint", keep_fields=True):
    read = (x if keep_fields else DIM) + FIELDS * (FIELDS - 1) // 2
    count = sum(mlp(read, (*units, width)) for units in (user_units, ad_units))
    return count + (2 * tasks * width**2 if interaction == "dot" else 0)


def star(x, tasks, num_scenes, units, aux_units, partitioned_norm=True):
    factors = mlp(x, units) + units[-1]
    task = mlp(x, units) + num_scenes * factors + mlp(x, aux_units)
    return tasks * task + (2 * x * (1 + num_scenes) if partitioned_norm else 0)


def per_scene(x, tasks, num_scenes, bottom_units, task_units):
    task = mlp(bottom_units[-1], (*task_units, 1))
    return num_scenes * (mlp(x, bottom_units) + tasks * task)


FORMULAS = (aitm, automtl, cgc, dnn, esmm, man, masknet, mmoe, omoe, per_scene, ple, shared_bottom)
COUNTS = {f.__name__: f for f in (*FORMULAS, single_task, star, two_tower)}
PLAIN = {"num_specific": 3, "num_shared": 2}
OTHER = {
    "automtl": {**searched(batch_norm=True), "gate_bias": False},
    "cgc": {**PLAIN, "expert_units": (5,)},
    "man": {**PLAIN, "expert_units": ((7, 5),), "mode": "sdpa", "direction": "forward"},
    "masknet": {"form": "parallel", "num_blocks": 3, "block_units": 5, "reduction_ratio": 0.5},
    "mmoe": {"num_experts": 2, "expert_units": (5,), "gate_bias": False},
    "omoe": {"num_experts": 2, "expert_units": (5,)},
    "ple": {**PLAIN, "expert_units": ((9,), (7, 5), (3,)), "gate_hidden": (4,)},
    "star": {"num_scenes": 5, "partitioned_norm": False},
    "two_tower": {"interaction": "dot", "keep_fields": False},
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*((name, RICHER[name]) for name in COUNTS), *OTHER.items()],
    ids=[*COUNTS, *(f"{name} otherwise" for name in OTHER)],
)
def test_the_number_of_parameters_is_the_closed_form(name, arguments):
    counted = sum(int(np.prod(v.shape)) for v in make(name, **arguments).trainable_weights)
    gated = name in OTHER and "expert_units" in RICHER[name]
    defaults = {"gate_hidden": (), "gate_bias": True} if gated else {}
    if name in OTHER and arguments is OTHER[name]:
        arguments = {**RICHER[name], **arguments}
    derived = registry.get("backbone", name).derived(PROBLEM, TABLE_ROWS)
    arguments = {**derived, **defaults, **arguments}
    assert counted == COUNTS[name](FIELDS * DIM, len(TASKS), **arguments)


def test_ple_grows_with_each_level():
    sizes = []
    for levels in (1, 2, 3):
        backbone = PLE(TASKS, num_specific=1, num_shared=1, expert_units=[(6,)] * levels)
        backbone(tf.ones([1, FIELDS, 2]))
        sizes.append(backbone.count_params())
    # A further level of width 6 on width 6: 4 experts, 3 task gates on 2, a shared gate on 4.
    assert np.diff(sizes).tolist() == [4 * 7 * 6 + 3 * 7 * 2 + 7 * 4] * 2


def test_single_task_shares_nothing():
    backbone = make("single_task")
    assert not SingleTask.shares
    fields, _ = inputs(backbone)
    for task in TASKS:
        with tf.GradientTape() as tape:
            tape.watch(fields)
            loss = tf.reduce_sum(backbone(fields)[task])
        gradients, own = tape.gradient(loss, [backbone.trainable_weights, fields])
        reached = {
            v.name.split("/")[1]
            for v, g in zip(backbone.trainable_weights, gradients, strict=True)
            if g is not None
        }
        assert reached == {f"bottom_{task}"}
        assert [t for t in TASKS if own[t] is not None] == [task]
