"""Parts of one shape share one traced network, and none of its values."""

import dataclasses

import numpy as np
import pytest

from tests.doubles import worlds
from tests.doubles.mtms_rows import as_rows, contents, experiment, packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms import part_training, traced
from tfmtl.mtms.slot import train_slot

EXPERIMENT = experiment(targets=("cvr",), fields={})


@pytest.fixture(scope="module")
def arrays():
    return packed()


@pytest.fixture
def traces(monkeypatch):
    """The models whose training step was traced."""
    models, original = [], MultiTaskModel.train_step

    def train_step(self, inputs):
        models.append(self)
        return original(self, inputs)

    monkeypatch.setattr(MultiTaskModel, "train_step", train_step)
    return models


class Never(traced.TracedNetworks):
    """Makes a network anew for every part."""

    def get(self, shape, make, rows):
        self._by_shape.clear()
        return super().get(shape, make, rows)


def trained(arrays, folder, config=EXPERIMENT):
    train_slot(config, as_rows(arrays), slot=1, folder=str(folder), verbose=0)
    return {name: value for name, value in contents(folder).items() if name.endswith(".npz")}


def test_parts_that_share_a_network_end_bit_for_bit_as_with_their_own(
    arrays, tmp_path, monkeypatch, traces
):
    shared = trained(arrays, tmp_path / "shared")
    few = len(traces)
    monkeypatch.setattr(part_training, "TracedNetworks", Never)
    traces.clear()
    assert trained(arrays, tmp_path / "own") == shared
    assert len(traces) == 4 and few < 4


def test_a_network_with_dropout_is_not_shared(arrays, tmp_path, traces):
    model = dataclasses.replace(EXPERIMENT.model, tower_dropout=0.5)
    trained(arrays, tmp_path / "1", dataclasses.replace(EXPERIMENT, model=model))
    assert len(traces) > 2 and len({id(model) for model in traces}) == len(traces)


def test_tables_have_room_for_a_larger_part_than_the_last():
    made, networks = [], traced.TracedNetworks()

    def make(room):
        made.append(room)
        network = object.__new__(traced.Traced)
        network.room = room
        return network

    for rows in ({"ad": 100, "user": 8}, {"ad": 120, "user": 10}, {"ad": 90, "user": 40}):
        network = networks.get("shape", make, rows)
        assert all(network.room[name] >= count for name, count in rows.items())
    assert made == [{"ad": 125, "user": 10}, {"ad": 125, "user": 50}]


def test_a_restart_forgets_the_steps_and_moments_of_the_part_before():
    _, data = worlds.packed()
    config = worlds.experiment()
    model, start = (
        MultiTaskModel.build_from(config.problem, data.table_rows, config.model) for _ in range(2)
    )
    batch = next(iter(data.train.batches(8)))
    model(batch), start(batch)
    network = traced.Traced(model, config.training)
    fresh = [v.numpy() for o in (model.optimizer, model.embedding_optimizer) for v in o.variables]
    network.step(batch)
    network.restart(start)
    after = [v.numpy() for o in (model.optimizer, model.embedding_optimizer) for v in o.variables]
    for one, other in zip(fresh, after, strict=True):
        np.testing.assert_array_equal(one, other)
    tables = {id(table) for table in model.tables}
    for ours, theirs in zip(model.variables, start.variables, strict=True):
        if id(ours) not in tables:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
