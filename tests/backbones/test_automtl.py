"""The backbone of AutoMTL: the supernet's equal, by its equations, and in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.random_weights import randomise
from tests.doubles.worlds import PROBLEM, experiment, packed
from tfmtl import registry
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.derive import sample
from tfmtl.automtl.supernet import Supernet
from tfmtl.backbones import AutoMTLNetwork
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.operations.candidates import operation

TASKS = ("a", "b", "c")
FIELDS, DIM, ROWS = 3, 8, 12
SMALL = AutoMTL(num_experts=4, num_blocks=2, n_chosen=2)


def drawn(seed=0, tasks=TASKS, **more):
    return sample(np.random.default_rng(seed), SMALL, tasks, **more)


def fields(seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=(ROWS, FIELDS, DIM)), tf.float32)


def network(found):
    """The found interaction and backbone, as the model makes them."""
    model = found.apply(experiment()).model
    chosen = ("interaction", {"name": "skip"} if model.interaction is None else model.interaction)
    backbone = registry.build("backbone", model.backbone, PROBLEM.task_names)
    return operation("interaction", chosen), backbone


@pytest.fixture(scope="module")
def supernet():
    made = Supernet(PROBLEM.task_names, search=SMALL, width=DIM)
    made(fields())
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_found_network_is_the_supernet_with_that_operation_in_every_block(supernet, seed):
    randomise(supernet, seed)
    found = Architecture.from_json(drawn(seed, PROBLEM.task_names).to_json())
    supernet.force(found)
    interaction, backbone = network(found)
    backbone(interaction(fields()))
    copy(supernet.interaction, found.interaction, interaction)
    for expert, own in zip(found.experts, backbone.expert_layers, strict=True):
        blocks = (supernet.pooling, *supernet.blocks)
        for block, chosen, layer in zip(
            blocks, (expert.pooling, *expert.blocks), own.layers, strict=True
        ):
            copy(block, chosen, layer, expert.id)
    below, experts = supernet.experts(fields(9))
    np.testing.assert_allclose(interaction(fields(9)), below, rtol=1e-5, atol=1e-5)
    for expert, own in zip(found.experts, backbone.expert_layers, strict=True):
        np.testing.assert_allclose(own(below), experts[expert.id], rtol=1e-4, atol=1e-5)


def copy(block, chosen, layer, expert=None):
    """Gives a layer the weights that its operation has in the supernet."""
    several = block.layers[block.labels.index(chosen.label)]
    assert len(several.weights) == len(layer.weights)
    for own, all_of_them in zip(layer.weights, several.weights, strict=True):
        own.assign(all_of_them if expert is None else all_of_them[expert : expert + 1])


def by_hand(**changes):
    arguments = {
        "experts": [
            {"pooling": {"name": "sum"}, "blocks": [{"name": "mlp", "units": 5}]},
            {"pooling": {"name": "linear"}, "blocks": []},
            {"pooling": {"name": "attentive"}, "blocks": [{"name": "gate"}, {"name": "skip"}]},
        ],
        "chosen": {"a": [0, 2], "b": [1], "c": [0, 1, 2]},
    }
    backbone = AutoMTLNetwork(TASKS, **{**arguments, **changes})
    backbone(fields())
    randomise(backbone)
    return backbone


def test_a_gate_mixes_its_tasks_experts_by_the_fields():
    backbone, x = by_hand(), fields(3)
    flat = x.numpy().reshape(ROWS, -1)
    experts = [layer(x).numpy() for layer in backbone.expert_layers]
    for task, h in backbone(x).items():
        own = backbone.chosen[task]
        if len(own) == 1:
            np.testing.assert_array_equal(h, experts[own[0]])
            continue
        dense = backbone.gates[task].logits
        weights = np.exp(flat @ dense.kernel[0].numpy() + dense.bias.numpy())
        weights /= weights.sum(axis=1, keepdims=True)
        mixed = np.einsum("be,ebu->bu", weights, np.stack([experts[i] for i in own]))
        np.testing.assert_allclose(h, mixed, rtol=1e-5, atol=1e-5)
    assert set(backbone.gates) == {"a", "c"}


def test_a_task_served_alone_needs_its_own_experts_and_gate_alone():
    backbone, x = by_hand(), fields(3)
    expected = {task: h.numpy() for task, h in backbone(x).items()}
    for task in TASKS:
        needed = {v.ref() for part in backbone.served_parts([task]) for v in part.weights}
        own = by_hand()
        for v, mine in zip(own.weights, backbone.weights, strict=True):
            v.assign(mine if mine.ref() in needed else tf.fill(v.shape, np.nan))
        (found,) = own.represent(x, [task]).items()
        assert found[0] == task
        np.testing.assert_array_equal(found[1], expected[task])
    assert len(backbone.served_parts(["b"])) == 1


def test_the_last_layer_of_experts_that_all_tasks_chose_is_shared():
    assert by_hand().last_shared() == []
    backbone = by_hand(chosen={"a": [0, 1], "b": [0, 2], "c": [0]})
    (kernel,) = backbone.last_shared()
    assert kernel is backbone.expert_layers[0].layers[-1].kernel


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": []}, "at least one expert"),
        ({"experts": [{"blocks": []}]}, "expert 0 is a pooling and its blocks"),
        ({"experts": [{"pooling": {"name": "sum"}, "block": []}]}, "expert 0 is a pooling"),
        ({"chosen": {"a": [0, 1], "b": [2]}}, r"each of \['a', 'b', 'c'\] has"),
        ({"chosen": {"a": [0, 3], "b": [1], "c": [2]}}, r"task 'a' has experts \[0, 3\]"),
        ({"chosen": {"a": [0, 0], "b": [1], "c": [2]}}, r"task 'a' has experts \[0, 0\]"),
        ({"chosen": {"a": [0], "b": [1], "c": [1]}}, r"no task has experts \[2\]"),
    ],
)
def test_a_backbone_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        by_hand(**changes)


def test_settings_that_were_given_stay_what_they_were():
    # Keras wraps what a layer keeps, and the wrapped are no JSON.
    experts = [{"pooling": {"name": "sum"}, "blocks": [{"name": "mlp", "units": 5}]}]
    chosen = {task: [0] for task in TASKS}
    AutoMTLNetwork(TASKS, experts=experts, chosen=chosen)
    given = (experts[0], experts[0]["pooling"], experts[0]["blocks"][0], chosen)
    assert {type(part) for part in given} == {dict}
    assert {type(part) for part in (experts[0]["blocks"], *chosen.values())} == {list}


def test_a_choice_of_no_task_is_not_that_of_all():
    with pytest.raises(SpecError, match=r"got those of \[\]"):
        AutoMTLNetwork(TASKS, experts=[{"pooling": {"name": "sum"}}], chosen={})


def test_experts_of_different_widths_are_refused():
    experts = [{"pooling": {"name": "linear", "width": width}} for width in (5, 6)]
    with pytest.raises(SpecError, match="have widths {0: 5, 1: 6}"):
        AutoMTLNetwork(TASKS, experts=experts)(fields())


def found_model():
    """The problem of the tests' world, with a network drawn for its tasks."""
    found = drawn(7, tasks=PROBLEM.task_names, width=8)
    config = found.apply(experiment()).model
    _, data = packed()
    model = MultiTaskModel.build_from(PROBLEM, data.table_rows, config)
    batch = next(iter(data.train.batches(32)))
    model(batch)
    return found, model, batch


def test_of_a_search_the_model_has_only_what_was_found():
    found, model, _ = found_model()
    layers = [layer for expert in model.backbone.expert_layers for layer in expert.layers]
    chosen = [c for expert in found.experts for c in (expert.pooling, *expert.blocks)]
    for c, layer in zip(chosen, layers, strict=True):
        kind = "pooling" if layer.name == "pooling" else "hidden"
        assert type(layer) is registry.get(kind, c.config["name"])
    # Gates and layers are all that the backbone has, and neither α nor β is among it.
    own = {v.ref() for layer in (*layers, *model.backbone.gates.values()) for v in layer.weights}
    assert own == {v.ref() for v in model.backbone.weights}
    assert not any("alpha" in v.name or "skip_weight" in v.name for v in model.weights)


REBUILD = """
import sys
import numpy as np
import tfmtl
from tests.doubles.worlds import PROBLEM, experiment, packed
from tfmtl.model.multitask import MultiTaskModel

text, weights, out = sys.argv[1:]
found = tfmtl.Architecture.from_json(open(text).read())
_, data = packed()
model = MultiTaskModel.build_from(PROBLEM, data.table_rows, found.apply(experiment()).model)
batch = next(iter(data.train.batches(32)))
model(batch)
model.load_weights(weights)
np.savez(out, **{task: p.numpy() for task, p in model(batch).items()})
assert not [name for name in sys.modules if "supernet" in name]
"""


@pytest.mark.slow
def test_a_fresh_process_rebuilds_the_network_from_its_json_alone(tmp_path):
    found, model, batch = found_model()
    randomise(model)
    (tmp_path / "architecture.json").write_text(found.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    paths = [str(tmp_path / name) for name in ("architecture.json", "model.weights.h5", "p.npz")]
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", REBUILD, *paths], check=True, cwd=root)
    predicted = np.load(tmp_path / "p.npz")
    for task, expected in model(batch).items():
        np.testing.assert_allclose(predicted[task], expected, atol=1e-6)
