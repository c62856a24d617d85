"""Tables that start anew in each epoch, while the network goes on."""

import numpy as np
import pytest
import tf_keras as keras

from tests.doubles.kills import Kill
from tests.doubles.worlds import SMALL, experiment, packed
from tfmtl.declare.training import Training
from tfmtl.errors import SpecError
from tfmtl.run import train
from tfmtl.training.epochs import reset_tables

_, DATA = packed()


def config(**training):
    return experiment(backbone={"name": "mmoe", **SMALL["mmoe"]}, **training)


class Started(keras.callbacks.Callback):
    """Keeps tables and dense variables as each epoch begins and ends."""

    def __init__(self):
        super().__init__()
        self.at = []

    def _note(self):
        state = self.model.embedding_optimizer
        self.at.append(
            {
                "tables": [v.numpy() for v in self.model.trained_tables],
                "dense": [v.numpy() for v in self.model.dense_variables],
                "moments": [v.numpy() for v in state.variables if v.shape.rank == 2],
            }
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._note()

    def on_epoch_end(self, epoch, logs=None):
        self._note()


def test_each_epoch_but_the_first_starts_with_new_tables_and_the_network_as_it_was():
    noted = Started()
    train(config(reset_tables=True, epochs=2), DATA, verbose=0, callbacks=(noted,))
    start, end, again, _ = noted.at
    for one, other in zip(end["dense"], again["dense"], strict=True):
        np.testing.assert_array_equal(one, other)
    for first, last, new in zip(start["tables"], end["tables"], again["tables"], strict=True):
        assert not np.array_equal(last, new) and not np.array_equal(first, new)
        # Rows that start at zero (padding, unknown values) do so again, and the others are as wide.
        np.testing.assert_array_equal((first == 0).all(axis=1), (new == 0).all(axis=1))
        assert np.std(new) == pytest.approx(np.std(first), rel=0.3)
    assert all((moments == 0).all() for moments in again["moments"])
    assert any((moments != 0).any() for moments in end["moments"])


def test_the_start_of_adagrad_s_sums_comes_back_too():
    noted = Started()
    made = config(reset_tables=True, epochs=2, embedding_optimizer="rowwise_adagrad")
    train(made, DATA, verbose=0, callbacks=(noted,))
    assert all((moments == np.float32(0.1)).all() for moments in noted.at[2]["moments"])


def test_the_same_seed_gives_the_same_tables():
    model = train(config(epochs=1), DATA, verbose=0).model
    tables = []
    for seed in (4, 4, 5):
        reset_tables(model, seed)
        tables.append([v.numpy() for v in model.trained_tables])
    assert all(np.array_equal(a, b) for a, b in zip(tables[0], tables[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(tables[0], tables[2], strict=True))


@pytest.mark.parametrize("after", [7, 13])
def test_a_killed_run_starts_no_table_twice(tmp_path, after):
    made = config(checkpoint_every=3, epochs=2, reset_tables=True)
    whole = train(made, DATA, verbose=0).model
    with pytest.raises(KeyboardInterrupt):
        train(made, DATA, checkpoint_dir=str(tmp_path), verbose=0, callbacks=(Kill(after),))
    resumed = train(made, DATA, checkpoint_dir=str(tmp_path), verbose=0).model
    for one, other in zip(whole.trainable_variables, resumed.trainable_variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_averages_of_tables_that_start_anew_are_refused():
    with pytest.raises(SpecError, match=r"training.reset_tables=True"):
        Training(ema=0.9, reset_tables=True)
