"""The bilevel search: what each step moves, and by which rows."""

import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles import searches
from tests.doubles.searches import batch, bilevel, declared
from tfmtl.automtl.bilevel import Bilevel, Schedule
from tfmtl.automtl.search import cycled, search
from tfmtl.automtl.selection import selection_loss
from tfmtl.declare.layout import WEIGHTS
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.checkpoints import Run


@pytest.fixture
def untraced(monkeypatch):
    """Predicts without a graph, which takes longer to make than these few rows."""
    monkeypatch.setattr(MultiTaskModel, "_predict_batch", MultiTaskModel.__call__)


def hashes(variables):
    return [hashlib.sha256(np.asarray(v).tobytes()).hexdigest() for v in variables]


def kinds(found):
    """Variables by what trains them: the architecture, the choice of experts, the weights."""
    model = found.model
    apart = {v.ref() for v in (*found.architecture, *found.selection)}
    metrics = {v.ref() for metric in model.metrics for v in metric.variables}
    rest = [v for v in model.variables if v.ref() not in apart | metrics]
    return {"alpha": found.architecture, "beta": found.selection, "weights": rest}


def optimizer_hashes(found, *names):
    optimizers = {
        "alpha": found.architecture_optimizer,
        "beta": found.selection_optimizer,
        "dense": found.model.optimizer,
        "tables": found.model.embedding_optimizer,
    }
    return [hashes(optimizers[name].variables) for name in names]


def test_no_variable_is_in_two_optimizers():
    found = bilevel()
    groups = [
        {v.ref() for v in group}
        for group in (
            found.architecture,
            found.selection,
            found.model.dense_variables,
            found.model.trained_tables,
        )
    ]
    assert all(groups)
    for one, other in itertools.combinations(groups, 2):
        assert not one & other
    assert {v.ref() for v in found.stopping.weights} <= groups[2]


def test_an_architecture_step_moves_the_architecture_and_nothing_else_at_all():
    found = bilevel()
    before = {kind: hashes(group) for kind, group in kinds(found).items()}
    others = optimizer_hashes(found, "beta", "dense", "tables")
    found.train_architecture(batch())
    after = {kind: hashes(group) for kind, group in kinds(found).items()}
    assert before["weights"] == after["weights"]
    assert before["beta"] == after["beta"]
    assert others == optimizer_hashes(found, "beta", "dense", "tables")
    assert all(a != b for a, b in zip(before["alpha"], after["alpha"], strict=True))


@pytest.mark.parametrize("choosing", [False, True])
def test_a_weight_step_leaves_the_architecture_and_in_the_warm_up_the_choice(choosing):
    found = bilevel()
    before = {kind: hashes(group) for kind, group in kinds(found).items()}
    others = optimizer_hashes(found, "alpha"), optimizer_hashes(found, "beta")
    found.train_weights(batch(), tf.constant(0.1), tf.constant(choosing))
    after = {kind: hashes(group) for kind, group in kinds(found).items()}
    assert before["alpha"] == after["alpha"]
    assert others[0] == optimizer_hashes(found, "alpha")
    assert (before["beta"] == after["beta"]) == (not choosing)
    assert (others[1] == optimizer_hashes(found, "beta")) == (not choosing)
    changed = [a != b for a, b in zip(before["weights"], after["weights"], strict=True)]
    assert np.mean(changed) > 0.6


def test_validation_rows_move_the_architecture_and_training_rows_the_weights():
    def after(train, validation):
        keras.utils.set_random_seed(1)
        found = bilevel()
        found.iterate(batch(seed=train), batch(seed=validation), 0.1, 1.0, tf.constant(True))
        return {kind: hashes(group) for kind, group in kinds(found).items()}

    here, other_training, other_validation = after(1, 2), after(3, 2), after(1, 3)
    # The architecture is stepped first, from the same weights whatever the training rows.
    assert other_training["alpha"] == here["alpha"]
    assert other_training["beta"] != here["beta"]
    assert other_training["weights"] != here["weights"]
    differ = [a != b for a, b in zip(other_validation["alpha"], here["alpha"], strict=True)]
    assert all(differ)


def test_a_search_gives_each_step_the_rows_that_are_meant_for_it(monkeypatch, untraced):
    data, seen = searches.data(), {"train": set(), "validation": set()}

    def marked(rows, weight):
        return ArrayRows({**rows.tensors, WEIGHTS: rows.tensors[WEIGHTS] * weight})

    data = PackedData(marked(data.train, 2.0), marked(data.validation, 3.0), data.table_rows)

    def note(split):
        def spied(self, rows, *arguments):
            seen[split].add(float(rows[WEIGHTS][0, 0]))
            return {}

        return spied

    monkeypatch.setattr(Bilevel, "train_architecture", note("validation"))
    monkeypatch.setattr(Bilevel, "train_weights", note("train"))
    monkeypatch.setattr(Bilevel, "step", lambda self, t, v, n: self.iterate(t, v, 0.1, 1.0, n > 9))
    search(searches.experiment(), data, verbose=0)
    assert seen == {"train": {2.0}, "validation": {3.0}}


def test_the_selection_loss_is_at_most_zero_and_knows_no_order_of_tasks():
    beta = tf.random.normal([4, 8], seed=1)
    value = float(selection_loss(beta))
    assert -6 * math.log(1 + math.sqrt(2)) <= value < 0
    for order in ([3, 1, 0, 2], [1, 0, 2, 3]):
        assert float(selection_loss(tf.gather(beta, order))) == pytest.approx(value, rel=1e-6)
    assert float(selection_loss(beta[:1])) == 0
    p, q = (np.exp(row) / np.exp(row).sum() for row in beta[:2].numpy())
    expected = -math.log(1 + math.sqrt(((p - q) ** 2).sum()))
    assert float(selection_loss(beta[:2])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("sign", "grows"), [(1, True), (-1, False)])
def test_the_selection_loss_drives_choices_apart_and_with_the_other_sign_together(sign, grows):
    beta = tf.Variable(tf.random.normal([2, 8], stddev=1e-3, seed=5))
    optimizer = keras.optimizers.Adam(1e-3)

    def distance():
        p = tf.nn.softmax(beta)
        return float(tf.norm(p[0] - p[1]))

    start = distance()
    for _ in range(50):
        with tf.GradientTape() as tape:
            loss = sign * selection_loss(beta)
        optimizer.apply_gradients([(tape.gradient(loss, beta), beta)])
    assert distance() > 10 * start if grows else distance() < start
    assert np.isfinite(beta.numpy()).all()


def test_a_weight_step_pushes_choices_apart_by_the_selection_loss():
    def distance(aux_weight):
        keras.utils.set_random_seed(1)
        found, rows = bilevel(declared(architecture_rate=0.01)), batch()
        for _ in range(5):
            found.train_weights(rows, tf.constant(aux_weight), tf.constant(True))
        p = tf.nn.softmax(found.selection[0])
        return float(tf.norm(p[0] - p[1]))

    assert distance(1.0) > distance(0.0)


def test_gradients_of_equal_choices_are_numbers():
    beta = tf.Variable(tf.zeros([3, 4]))
    with tf.GradientTape() as tape:
        loss = selection_loss(beta)
    assert not tape.gradient(loss, beta).numpy().any()


def test_the_auxiliary_weight_stays_in_the_warm_up_and_then_falls_to_zero():
    schedule = Schedule(declared(epochs=5, warm_up_epochs=2, aux_weight=0.2), steps=10)
    values = [schedule.aux_weight(step) for step in range(schedule.total)]
    assert values[:21] == [0.2] * 21
    assert values[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(values[20:]))
    np.testing.assert_allclose(np.diff(values[20:], n=2), 0, atol=1e-12)
    assert [schedule.choosing(step) for step in (19, 20)] == [False, True]
    skips = [schedule.skip_weight(step) for step in range(schedule.total)]
    assert (skips[0], skips[-1]) == (1, 0)
    assert all(a > b for a, b in itertools.pairwise(skips))


def test_the_auxiliary_skip_follows_its_schedule():
    found = bilevel(declared(auxiliary_skip=True))
    found.iterate(batch(), batch(), 0.0, 0.25, tf.constant(False))
    assert float(found.model.backbone.skip_weight) == 0.25


def alike(ids, rng):
    # As many of both, so that the opposite ones have the same rate.
    even = np.arange(len(ids)) % 2
    return np.stack([rng.permutation(even), rng.permutation(even)], axis=1)


def opposite(ids, rng):
    return 1 - alike(ids, rng)


@pytest.mark.parametrize(("validation", "all_stop"), [(opposite, True), (alike, False)])
def test_operations_stop_where_labels_oppose_and_none_where_rows_are_the_same(validation, all_stop):
    patience = 3
    found = bilevel(declared(patience=patience))
    train, judged = batch(64, label=alike), batch(64, label=validation)
    for _ in range(patience + 1):
        assert not found.stopping.frozen.numpy().any()
        found.iterate(train, judged, 0.1, 1.0, tf.constant(False))
    frozen = found.stopping.frozen.numpy()
    assert frozen.all() if all_stop else not frozen.any()
    weights = found.stopping.weights
    former, alpha = hashes(weights), hashes(found.architecture)
    slots = optimizer_hashes(found, "dense")
    found.iterate(train, judged, 0.1, 1.0, tf.constant(False))
    assert (hashes(weights) == former) == all_stop
    # What is stopped stays in the mixture, and its share goes on to be trained.
    assert hashes(found.architecture) != alpha
    assert optimizer_hashes(found, "dense") != slots


def test_weight_decay_has_no_part_in_the_directions_and_stops_with_the_operation():
    def kept(l2):
        keras.utils.set_random_seed(1)
        found = bilevel(l2=l2)
        found.train_weights(batch(), 0.1, tf.constant(False))
        return found, [g.numpy() for g in found.stopping.gradients]

    (_, without), (found, with_decay) = kept(0.0), kept(0.5)
    for a, b in zip(without, with_decay, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    found.stopping.frozen.assign(tf.ones_like(found.stopping.frozen))
    before = hashes(found.stopping.weights)
    found.train_weights(batch(), 0.1, tf.constant(False))
    assert hashes(found.stopping.weights) == before


def test_weight_decay_has_no_part_in_the_gradients_on_validation_rows_either():
    def differences(l2):
        keras.utils.set_random_seed(1)
        found = bilevel(l2=l2)
        found.stopping.remember([tf.ones_like(v) for v in found.stopping.weights])
        found.train_architecture(batch())
        return found.stopping.report()["difference"]

    assert differences(0.5) == pytest.approx(differences(0.0), abs=1e-5)


def test_without_early_stopping_nothing_is_compared_or_stopped():
    found = bilevel(declared(stopping="none"))
    assert found.stopping is None
    found.iterate(batch(), batch(), 0.1, 1.0, tf.constant(False))


def test_gates_stand_in_for_a_choice_of_experts():
    found = bilevel(declared(selection=False, aux_weight=0.5))
    assert found.selection == []
    gates = found.model.backbone.gates.trainable_variables
    before = hashes(gates)
    found.iterate(batch(), batch(seed=1), 0.5, 1.0, tf.constant(True))
    assert all(a != b for a, b in zip(before, hashes(gates), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_rows_that_were_not_looked_up_stay(optimizer):
    found = bilevel(declared(embedding_optimizer=optimizer))
    table = found.model.trained_tables[0]
    before, rows = table.numpy(), batch(4)
    for _ in range(2):
        found.iterate(rows, batch(seed=3), 0.1, 1.0, tf.constant(False))
    moved = np.abs(table.numpy() - before).sum(-1) > 0
    per_column = [len(np.unique(column)) for column in rows["ids_context"].numpy().T]
    assert moved.sum() == sum(per_column)


def test_validation_batches_cycle_in_another_order_each_time():
    rows = searches.rows(96, 2)

    def labels(start, count):
        batches = cycled(rows, 32, seed=1, start=start)
        return [b["ids_context"].numpy().tobytes() for b in itertools.islice(batches, count)]

    whole = labels(0, 9)
    assert labels(4, 5) == whole[4:]
    assert len(set(whole)) == 9
    ids = [np.frombuffer(b"".join(whole[i : i + 3]), np.int32) for i in (0, 3)]
    assert sorted(ids[0]) == sorted(ids[1])


@pytest.mark.slow
def test_a_step_as_a_graph_is_the_step():
    def after(step):
        keras.utils.set_random_seed(1)
        found = bilevel(steps=1)
        step(found)(batch(seed=1), batch(seed=2), 1)
        return [v.numpy() for group in kinds(found).values() for v in group]

    def eagerly(found):
        found._iterate = found.iterate
        return found.step

    for graph, eager in zip(after(lambda f: f.step), after(eagerly), strict=True):
        # Adam's first steps have the gradients' sign, and those near zero may lose theirs.
        np.testing.assert_allclose(graph, eager, atol=5e-5)


def test_a_killed_search_finds_what_an_unkilled_one_does(tmp_path, monkeypatch, untraced):
    config = searches.experiment(declared(epochs=2), checkpoint_every=2)
    data = searches.data(train=96)
    step, left = Bilevel.step, [6]

    def killed(self, *arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        self._iterate = self.iterate
        return step(self, *arguments)

    monkeypatch.setattr(Bilevel, "step", killed)
    whole = search(config, data, verbose=0)
    left[0] = 5
    with pytest.raises(KeyboardInterrupt):
        search(config, data, directory=str(tmp_path), verbose=0)
    # Six steps in all, three an epoch; the last checkpoint is of the fifth.
    left[0] = 1
    resumed = search(config, data, directory=str(tmp_path), verbose=0)
    assert left == [0]
    for name in ("experts", "tasks", "interaction", "frozen_ops"):
        assert getattr(resumed.architecture, name) == getattr(whole.architecture, name)
    # Training losses are means over what a process saw of the epoch.
    exact = [n for n in whole.history[0] if n.startswith("val_") or "loss" not in n]
    assert "difference" in exact and "selection" in exact
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert json.dumps([one[n] for n in exact]) == json.dumps([other[n] for n in exact])
    assert resumed.budget["steps"] == 6
    assert resumed.budget["rows"] == 6 * 64
    with pytest.raises(SpecError, match=r"search\.momentum"):
        search(searches.replaced(config, momentum=0.5), data, directory=str(tmp_path), verbose=0)
    again = search(config, data, directory=str(tmp_path), verbose=0)
    assert again.history == resumed.history


def test_a_search_stops_when_the_validation_loss_does_not_fall(monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.2, 1.0])
    monkeypatch.setattr(Bilevel, "step", lambda *a: {"loss": tf.constant(1.0)})
    config = searches.experiment(declared(epochs=5, search_patience=2))
    monkeypatch.setattr(MultiTaskModel, "evaluate", lambda *a, **k: {"loss": next(losses)})
    found = search(config, searches.data(), verbose=0)
    assert [row["val_loss"] for row in found.history] == [3.0, 2.0, 2.5, 2.2]


@pytest.mark.parametrize(("selection", "epochs"), [(True, 5), (False, 2)])
def test_a_search_does_not_stop_before_experts_were_chosen_between(monkeypatch, selection, epochs):
    losses = itertools.count(1.0)
    monkeypatch.setattr(Bilevel, "step", lambda *a: {"loss": tf.constant(1.0)})
    settings = {"epochs": 9, "warm_up_epochs": 4, "search_patience": 1, "selection": selection}
    config = searches.experiment(declared(**settings))
    monkeypatch.setattr(MultiTaskModel, "evaluate", lambda *a, **k: {"loss": next(losses)})
    assert len(search(config, searches.data(), verbose=0).history) == epochs


def test_a_space_without_weights_has_nothing_to_stop_and_is_searched():
    poolings = (("sum", {"name": "sum"}), ("average", {"name": "average"}))
    found = bilevel(declared(interaction=False, num_blocks=0, poolings=poolings))
    assert found.stopping is None
    before = hashes(found.architecture)
    found.iterate(batch(), batch(), 0.1, 1.0, tf.constant(True))
    assert all(a != b for a, b in zip(before, hashes(found.architecture), strict=True))


def test_a_search_that_leaves_nothing_to_find_is_refused():
    config, data = searches.experiment(), searches.data()
    with pytest.raises(SpecError, match="declares no search"):
        search(searches.dataclasses.replace(config, search=None), data, verbose=0)
    with pytest.raises(SpecError, match="warm_up_epochs=3 of epochs=3"):
        search(searches.replaced(config, warm_up_epochs=3), data, verbose=0)
    empty = PackedData(data.train, searches.rows(0, 0), data.table_rows)
    with pytest.raises(DataError, match="no validation rows"):
        search(config, empty, verbose=0)


def test_a_loss_that_is_no_number_ends_the_search(monkeypatch):
    monkeypatch.setattr(Bilevel, "step", lambda *a: {"loss": tf.constant(np.nan)})
    with pytest.raises(FloatingPointError, match=r"Lower search\.learning_rate"):
        search(searches.experiment(), searches.data(), verbose=0)


def test_a_run_that_keeps_no_best_weights_still_knows_its_best_epoch(tmp_path):
    found = bilevel()
    run = Run(
        found.model,
        searches.experiment(),
        str(tmp_path),
        monitor="loss",
        keep_best=False,
        more=found.state,
    )
    for value in (2.0, 1.0, 1.5):
        run.finish_epoch({}, value)
    assert (run.state["best_epoch"], run.state["wait"], run.best) == (1, 1, [])
