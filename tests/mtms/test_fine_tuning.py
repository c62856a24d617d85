"""The fine-tuning: on whose rows, from where, and what further components change at first."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.mtms_rows import DIM, PROBLEM, as_rows, component, experiment, packed
from tfmtl.declare.features import FIRST
from tfmtl.declare.layout import LABELS, WEIGHTS, layout_of
from tfmtl.mtms import fine_tuning
from tfmtl.mtms.fine_tuning import fine_tune
from tfmtl.mtms.frozen import ComponentTables
from tfmtl.mtms.units import by_scene, sides

EXPERIMENT = experiment()
FIELDS = ("user", "tags", "ad", "slot")


@pytest.fixture(scope="module")
def rows():
    return by_scene(PROBLEM, ["feed"], as_rows(packed()))["feed"]


@pytest.fixture
def untrained(monkeypatch):
    """Passes that change nothing, and what they were given."""
    given = []

    def start(model, rows, **kwargs):
        given.append((model, rows))
        return []

    monkeypatch.setattr(fine_tuning, "train_passes", start)
    return given


def tables_of(rows, names):
    """Tables of several components, each with two thirds of the rows' ids."""
    found, fields = {}, layout_of(PROBLEM).ids
    for name in names:
        # A component is the same whichever others it is read with.
        rng = np.random.default_rng(ALL.index(name))
        keys = {}
        for s in fields:
            if s.feature.name in FIELDS:
                ids = rows.ids[:, s.start : s.start + s.width]
                ids = np.unique(ids[ids >= FIRST])
                keys[s.feature.name] = ids[rng.random(len(ids)) < 2 / 3]
        found[name] = component(rng, keys)
    return ComponentTables(found, [s.feature.name for s in fields])


ONE = [("feed", "cvr"), ("feed", "ctr")]
ALL = [("feed", "cvr"), ("search", "ctr"), ("search", "cvr"), ("feed", "ctr")]


def start_of(rows, names, folder, untrained, previous=None, slot=2):
    os.makedirs(folder)
    fine_tune(
        EXPERIMENT,
        "feed",
        "cvr",
        rows,
        tables_of(rows, names),
        names,
        slot=slot,
        folder=str(folder),
        previous=previous,
    )
    model, _ = untrained[-1]
    everything = {
        k: tf.constant(v) for k, v in sides(layout_of(PROBLEM), rows.ids, rows.numbers).items()
    }
    return model, model(everything)["cvr"].numpy()


@pytest.fixture(scope="module")
def tuned(rows, tmp_path_factory):
    """A fine-tuned network of two components, and what it predicts."""
    folder, models = tmp_path_factory.mktemp("tuned") / "cvr", []

    def keep(model, rows, **kwargs):
        models.append((model, rows))
        return original(model, rows, **kwargs)

    original, fine_tuning.train_passes = fine_tuning.train_passes, keep
    try:
        model, predictions = start_of(rows, ONE, folder, models, slot=1)
    finally:
        fine_tuning.train_passes = original
    return str(folder), model, predictions


def test_a_fine_tuned_network_starts_as_it_ended(tuned, rows, tmp_path, untrained):
    folder, former, predictions = tuned
    model, now = start_of(rows, ONE, tmp_path / "x", untrained, previous=folder)
    np.testing.assert_array_equal(now, predictions)
    assert int(model.optimizer.iterations) == int(former.optimizer.iterations) > 0
    for ours, theirs in zip(model.optimizer.variables, former.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    _, cold = start_of(rows, ONE, tmp_path / "y", untrained)
    assert np.abs(cold - predictions).max() > 1e-4


def test_further_components_change_no_prediction_at_first(tuned, rows, tmp_path, untrained):
    folder, former, predictions = tuned
    model, now = start_of(rows, ALL, tmp_path / "x", untrained, previous=folder)
    np.testing.assert_allclose(now, predictions, rtol=1e-5)
    kernel = model.dense_variables[0]
    names = model.embedding.input_names
    old = former.embedding.input_names
    moments = [m[0] for m in (model.optimizer._momentums, model.optimizer._velocities)]
    befores = [former.dense_variables[0]]
    befores += [m[0] for m in (former.optimizer._momentums, former.optimizer._velocities)]
    assert set(old) < set(names) and len(names) - len(old) == 2 * len(FIELDS) * DIM
    for variable, before in zip([kernel, *moments], befores, strict=True):
        for i, name in enumerate(names):
            expected = before[old.index(name)] if name in old else 0 * variable[i]
            np.testing.assert_array_equal(variable[i], expected, name)
    # The new inputs are alive: their rows of the kernel have a gradient.
    batch = next(iter(untrained[-1][1].batches(64)))
    with tf.GradientTape() as tape:
        loss, _ = model.compute_loss(batch, training=True)
    gradient = tape.gradient(loss, kernel).numpy()
    assert np.abs(gradient[[i for i, n in enumerate(names) if n not in old]]).max() > 0


def test_conversions_are_fine_tuned_on_clicked_rows_in_their_literal_form_too(
    rows, tmp_path, untrained
):
    for losses in ("mtms", "mtms_literal"):
        config = experiment(losses=losses)
        os.makedirs(tmp_path / losses)
        fine_tune(
            config,
            "feed",
            "cvr",
            rows,
            tables_of(rows, ONE),
            ONE,
            slot=1,
            folder=str(tmp_path / losses),
        )
        model, given = untrained[-1]
        batch = next(iter(given.batches(given.count())))
        clicked = rows.weights[:, 1] > 0
        np.testing.assert_array_equal(batch[LABELS], rows.labels[clicked][:, [1]])
        assert (batch[WEIGHTS].numpy() == 1).all()
        # It starts at their rate.
        rate = rows.labels[clicked, 1].mean()
        bias = model.heads.logits["cvr"].bias.numpy()
        np.testing.assert_allclose(1 / (1 + np.exp(-bias)), rate, rtol=1e-5)
