"""Networks of AutoMTL as plain data: derived, drawn at random, written down, and applied."""

import collections
import dataclasses
import json

import numpy as np
import pytest

import tfmtl
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.derive import derive, sample, skip_count
from tfmtl.automtl.parts import Chosen, Expert, Selection
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS

TASKS = ("a", "b", "c")
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
        (lambda p: p["tasks"]["a"].update(beta=[]), "weights of 0; beta has one for every expert"),
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
        model=tfmtl.Model(dim=8, l2=0.5, tower_dropout=0.25, backbone={"name": "ple"}),
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
