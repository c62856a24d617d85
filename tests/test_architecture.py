"""Networks of AutoMTL: derived, drawn at random, written down, and rebuilt."""

import collections
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from random_weights import randomise
from worlds import PROBLEM, experiment, packed

import tfmtl
from tfmtl import registry
from tfmtl.automtl.architecture import Architecture, Chosen, Expert, Selection
from tfmtl.automtl.declare import AutoMTL
from tfmtl.automtl.derive import derive, sample, skip_count
from tfmtl.automtl.supernet import Supernet
from tfmtl.backbones import AutoMTLNetwork
from tfmtl.errors import SpecError
from tfmtl.model import MultiTaskModel
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS, operation

TASKS = ("a", "b", "c")
FIELDS, DIM, ROWS = 3, 8, 12
SMALL = AutoMTL(num_experts=4, num_blocks=2, n_chosen=2)
LABELS = {
    kind: [label for label, _ in candidates]
    for kind, candidates in (
        ("interaction", INTERACTIONS),
        ("pooling", POOLINGS),
        ("hidden", HIDDEN),
    )
}


def logits(search, seed=0):
    rng, own = np.random.default_rng(seed), search.num_experts if search.heterogeneous else 1
    return {
        "interaction": rng.normal(size=13) if search.interaction else None,
        "pooling": rng.normal(size=(own, 4)),
        "hidden": rng.normal(size=(own, search.num_blocks, 13)),
    }


def drawn(seed=0, search=SMALL, tasks=TASKS, **more):
    return sample(np.random.default_rng(seed), search, tasks, **more)


def fields(seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=(ROWS, FIELDS, DIM)), tf.float32)


# --- derived -----------------------------------------------------------------------------------


def test_every_block_keeps_its_heaviest_operation_and_every_task_its_heaviest_experts():
    alphas, beta = logits(SMALL), np.array([[4.0, 1, 3, 2], [2, 4, 3, 1], [4, 3, 2, 1]])
    found = derive(SMALL, alphas, beta, TASKS)
    assert found.interaction.label == LABELS["interaction"][alphas["interaction"].argmax()]
    for expert in found.experts:
        pooling, hidden = alphas["pooling"][expert.id], alphas["hidden"][expert.id]
        assert expert.pooling.label == LABELS["pooling"][pooling.argmax()]
        weights = np.exp(pooling) / np.exp(pooling).sum()
        assert expert.pooling.prob == pytest.approx(weights.max())
        assert [b.label for b in expert.blocks] == [LABELS["hidden"][i] for i in hidden.argmax(-1)]
    assert {t: s.experts for t, s in found.tasks.items()} == {"a": (0, 2), "b": (1, 2), "c": (0, 1)}
    np.testing.assert_allclose(
        found.tasks["b"].beta, np.exp(beta[1]) / np.exp(beta[1]).sum(), rtol=1e-12
    )


def test_of_equal_weights_the_first_is_taken():
    alphas = {kind: np.zeros_like(alpha) for kind, alpha in logits(SMALL).items()}
    found = derive(SMALL, alphas, np.zeros([3, 4]), TASKS)
    assert found.interaction.label == "skip"
    assert found.experts[0].pooling.label == "sum"
    assert all(selection.experts == (0, 1) for selection in found.tasks.values())
    tie = np.array([[0.0, 1.0, 0.0, 0.0]])
    assert derive(SMALL, alphas, tie, ["a"]).tasks["a"].experts == (0, 1)


def test_experts_that_no_task_chose_are_left_out_and_the_others_keep_their_ids():
    beta = np.array([[0.0, 5, 0, 4], [0, 5, 0, 4], [0, 5, 0, 4]])
    found = derive(SMALL, logits(SMALL), beta, TASKS)
    assert [expert.id for expert in found.experts] == [1, 3]
    assert found.num_experts == 4 and len(found.tasks["a"].beta) == 4
    chosen = found.apply(experiment_of(found)).model.backbone["chosen"]
    assert chosen == {task: (0, 1) for task in TASKS}


@pytest.mark.parametrize(("tasks", "count"), [(2, 4), (4, 3)])
def test_by_default_more_tasks_choose_fewer_experts(tasks, count):
    search = AutoMTL()
    names = [f"t{k}" for k in range(tasks)]
    beta = np.random.default_rng(3).normal(size=(tasks, 8))
    for found in (derive(search, logits(search), beta, names), drawn(3, search, names)):
        assert found.n_chosen == count
        assert all(len(set(selection.experts)) == count for selection in found.tasks.values())


def test_experts_of_one_architecture_are_all_the_same():
    search = dataclasses.replace(SMALL, heterogeneous=False, selection=False)
    for found in (derive(search, logits(search), None, TASKS), drawn(0, search)):
        assert len(found.experts) == 4
        assert len({(e.pooling.label, *(b.label for b in e.blocks)) for e in found.experts}) == 1
        assert all(selection.experts == (0, 1, 2, 3) for selection in found.tasks.values())
        assert found.tasks["a"].beta is None


def test_without_a_block_of_interactions_there_is_none():
    search = dataclasses.replace(SMALL, interaction=False)
    assert derive(search, logits(search), np.zeros([3, 4]), TASKS).interaction is None
    assert drawn(0, search).interaction is None
    with pytest.raises(SpecError, match="the interaction's logits are missing"):
        derive(SMALL, logits(search), np.zeros([3, 4]), TASKS)


def test_logits_of_another_shape_or_without_a_value_are_refused():
    with pytest.raises(SpecError, match=r"beta: shape \(2, 4\) is not \(3, 4\)"):
        derive(SMALL, logits(SMALL), np.zeros([2, 4]), TASKS)
    with pytest.raises(SpecError, match=r"alphas\['pooling'\]: logits are not finite"):
        alphas = {**logits(SMALL), "pooling": np.full([4, 4], np.nan)}
        derive(SMALL, alphas, np.zeros([3, 4]), TASKS)


def test_skips_are_counted_over_the_interaction_and_all_layers_of_all_experts():
    alphas = {kind: np.zeros_like(alpha) for kind, alpha in logits(SMALL).items()}
    assert skip_count(SMALL, alphas) == (9, 9)
    alphas["interaction"][4], alphas["hidden"][2, 1, 12] = 1.0, 1.0
    assert skip_count(SMALL, alphas) == (7, 9)
    # The found network has the experts that are chosen alone.
    assert derive(SMALL, alphas, [[0, 0, 1, 1]] * 3, TASKS).skips == 3
    together = dataclasses.replace(SMALL, heterogeneous=False, interaction=False)
    alphas = {"pooling": np.zeros([1, 4]), "hidden": np.eye(13)[np.newaxis, :2]}
    assert skip_count(together, alphas) == (4, 8)


# --- drawn at random -----------------------------------------------------------------------------


def test_every_operation_and_every_choice_of_experts_is_drawn_as_often():
    search = AutoMTL(num_experts=4, num_blocks=1, n_chosen=2)
    rng = np.random.default_rng(1)
    found = [sample(rng, search, ["a"]) for _ in range(1300)]
    counts = {
        "interaction": collections.Counter(f.interaction.label for f in found),
        "pooling": collections.Counter(f.experts[0].pooling.label for f in found),
        "hidden": collections.Counter(f.experts[1].blocks[0].label for f in found),
        "experts": collections.Counter(f.tasks["a"].experts for f in found),
    }
    for kind, expected in (("interaction", 13), ("pooling", 4), ("hidden", 13), ("experts", 6)):
        assert len(counts[kind]) == expected
        mean = 1300 / expected
        squares = sum((n - mean) ** 2 / mean for n in counts[kind].values())
        # The mean of chi-squared is its degrees of freedom; this is far above its 99.9 %.
        assert squares < 3 * (expected - 1) + 10


def test_a_draw_is_its_seeds():
    assert drawn(1) == drawn(1) != drawn(2)


# --- written down --------------------------------------------------------------------------------


def test_an_architecture_is_made_again_from_its_json():
    beta = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    found = derive(
        SMALL,
        logits(SMALL),
        beta,
        TASKS,
        frozen_ops=["hidden_0/mlp-64/3"],
        seed=np.int64(4),
        search={"settings": dataclasses.asdict(SMALL), "budget": {"seconds": 1.5}},
    )
    assert Architecture.from_json(found.to_json()) == found
    plain = json.loads(found.to_json())
    assert plain["schema"] == 1 and plain["seed"] == 4
    assert plain["tasks"]["a"]["experts"] == list(found.tasks["a"].experts)


def broken(change):
    plain = json.loads(drawn().to_json())
    change(plain)
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(schema=2), "schema=2 is not 1"),
        (lambda p: p.pop("schema"), "schema=None is not 1"),
        (lambda p: p.update(expert=[]), "no 'expert'; it has .*Did you mean 'experts'"),
        (lambda p: p.pop("tasks"), "architecture: 'tasks' is missing"),
        (lambda p: p.update(experts={}), "architecture.experts: is a list; got {}"),
        (lambda p: p["experts"][1].update(id="1"), r"experts\[1\].id: is a int; got '1'"),
        (lambda p: p["experts"][0]["pooling"].pop("label"), r"experts\[0\].pooling: 'label'"),
        (lambda p: p["experts"][0]["blocks"][1]["config"].pop("name"), "names no registered"),
        (lambda p: p["tasks"]["a"].update(experts=[0, 9]), r"task 'a' has experts \[0, 9\]"),
        (lambda p: p["tasks"]["a"].update(experts=[]), r"task 'a' has experts \[\]"),
        (lambda p: p.update(tasks={}), "no task chooses an expert"),
        (lambda p: p["interaction"].update(prob=1.2), "prob=1.2"),
        (lambda p: p["experts"].append(p["experts"][0]), "experts have one id each"),
    ],
)
def test_text_that_is_no_architecture_is_refused_and_says_where(change, message):
    with pytest.raises(SpecError, match=message):
        Architecture.from_json(broken(change))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(SpecError, match="the text is no JSON"):
        Architecture.from_json("{")
    with pytest.raises(SpecError, match="schema=3 is not 1"):
        Architecture.from_json("3")


def test_an_expert_of_no_task_is_refused():
    pooling = Chosen(label="sum", config={"name": "sum"})
    experts = [Expert(id=i, pooling=pooling, blocks=()) for i in (0, 4)]
    with pytest.raises(SpecError, match=r"no task chooses experts \[4\]"):
        Architecture(experts=experts, tasks={"a": Selection(experts=[0])})


# --- applied -------------------------------------------------------------------------------------


def experiment_of(found, **changes):
    """An experiment with the architecture's tasks, and much that must stay."""
    problem = tfmtl.ProblemSpec(
        features=tuple(tfmtl.categorical(f"f{i}", encoding="identity", size=5) for i in range(3)),
        tasks=tuple(tfmtl.binary(task, label=f"label_{task}") for task in found.tasks),
    )
    return tfmtl.ExperimentConfig(
        name="found",
        problem=problem,
        split=tfmtl.whole(),
        model=tfmtl.Model(dim=DIM, l2=0.5, tower_dropout=0.25, backbone={"name": "ple"}),
        training=tfmtl.Training(epochs=3, learning_rate=0.5),
        search=SMALL,
        **changes,
    )


def test_what_was_found_replaces_the_network_and_nothing_else():
    found = drawn(4, dataclasses.replace(SMALL, tower_units=(9, 7)))
    before = experiment_of(found)
    after = found.apply(before)
    assert after.search is None
    assert after.model.backbone["name"] == "automtl"
    assert after.model.interaction == found.interaction.config
    assert after.model.tower_units == (9, 7)
    for changed in ("backbone", "interaction", "tower_units"):
        after = after.replace_path(f"model.{changed}", getattr(before.model, changed))
    assert after == dataclasses.replace(before, search=None)
    again = found.apply(before)
    assert tfmtl.ExperimentConfig.from_json(again.to_json()) == again


def test_an_interaction_that_is_a_skip_is_none_in_the_model():
    found = dataclasses.replace(drawn(), interaction=Chosen(label="skip", config={"name": "skip"}))
    assert found.apply(experiment_of(found)).model.interaction is None


def test_an_unknown_operation_or_task_is_refused_before_training():
    found = drawn()
    unknown = Chosen(label="new", config={"name": "gait"})
    expert = dataclasses.replace(found.experts[0], blocks=[unknown])
    other = dataclasses.replace(found, experts=[expert, *found.experts[1:]])
    with pytest.raises(SpecError, match="unknown hidden 'gait'.*Did you mean 'gate'"):
        other.apply(experiment_of(found))
    renamed = dataclasses.replace(found, tasks={**found.tasks, "d": found.tasks["a"]})
    with pytest.raises(SpecError, match="task 'd' is none of the problem's"):
        renamed.apply(experiment_of(found))


# --- rebuilt -------------------------------------------------------------------------------------


def network(found):
    """The found interaction and backbone, as the model makes them."""
    model = found.apply(experiment_of(found)).model
    chosen = ("interaction", {"name": "skip"} if model.interaction is None else model.interaction)
    return operation("interaction", chosen), registry.build("backbone", model.backbone, TASKS)


@pytest.fixture(scope="module")
def supernet():
    made = Supernet(TASKS, search=SMALL, width=DIM)
    made(fields())
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_found_network_is_the_supernet_with_that_operation_in_every_block(supernet, seed):
    randomise(supernet, seed)
    found = Architecture.from_json(drawn(seed).to_json())
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
from worlds import PROBLEM, experiment, packed
from tfmtl.model import MultiTaskModel

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
    beside = Path(__file__).parent
    subprocess.run([sys.executable, "-c", REBUILD, *paths], check=True, cwd=beside)
    predicted = np.load(tmp_path / "p.npz")
    for task, expected in model(batch).items():
        np.testing.assert_allclose(predicted[task], expected, atol=1e-6)
