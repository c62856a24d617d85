"""The learning rate over a run's updates."""

import math

import numpy as np
import pytest

from tests.doubles.worlds import SMALL, experiment, packed
from tfmtl.declare.training import Training
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model
from tfmtl.training.schedules import WarmupDecay, rate_over

LEFT = {
    "none": lambda u: 1.0,
    "linear": lambda u: 1 - 0.8 * u,
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)) * 0.8 + 0.2,
}


@pytest.mark.parametrize("decay", LEFT)
def test_a_rate_rises_to_its_highest_value_and_then_falls_to_the_floor(decay):
    floor = 0.0 if decay == "none" else 0.2
    schedule = WarmupDecay(0.4, steps=110, decay=decay, warmup=10, floor=floor)
    assert float(schedule(0)) == pytest.approx(0.4 * 0.1, abs=1e-7)
    assert float(schedule(9)) == pytest.approx(0.4, abs=1e-7)
    for step in (10, 37, 60, 110):
        expected = 0.4 * LEFT[decay]((step - 10) / 100)
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7)
    assert float(schedule(5_000)) == float(schedule(110))


def test_inverse_sqrt_halves_when_the_updates_are_four_times_the_warm_up():
    schedule = WarmupDecay(1.0, steps=100, decay="inverse_sqrt", warmup=16)
    assert [float(schedule(t)) for t in (15, 16, 64, 256)] == [1.0, 1.0, 0.5, 0.25]


def test_a_share_is_of_all_updates_and_a_whole_number_is_of_updates():
    assert rate_over(0.1, Training(warmup=0.05), steps=1000).warmup == 50
    assert rate_over(0.1, Training(warmup=7), steps=1000).warmup == 7


def test_without_warm_up_and_decay_the_rate_is_the_number_itself():
    assert rate_over(0.125, Training(), steps=10) == 0.125


def test_a_schedule_survives_its_configuration():
    schedule = WarmupDecay(0.4, steps=110, decay="linear", warmup=10, floor=0.2)
    again = WarmupDecay.from_config(schedule.get_config())
    assert [float(again(t)) for t in range(120)] == [float(schedule(t)) for t in range(120)]


def test_both_optimizers_follow_it_each_from_its_own_rate():
    _, data = packed()
    settings = experiment(backbone={"name": "shared_bottom", **SMALL["shared_bottom"]})
    model = MultiTaskModel.build_from(settings.problem, data.table_rows, settings.model)
    training = Training(
        epochs=2, learning_rate=0.1, embedding_learning_rate=0.4, decay="linear", warmup=4
    )
    compile_model(model, training, steps=10)
    rates = [o.learning_rate for o in (model.optimizer, model.embedding_optimizer)]
    np.testing.assert_allclose([float(r) for r in rates], [0.1 / 4, 0.4 / 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup": 1.5}, "training.warmup=1.5"),
        ({"warmup": -1}, "training.warmup=-1"),
        ({"decay_floor": 0.1}, "training.decay_floor=0.1"),
        ({"decay": "inverse_sqrt"}, "give training.warmup"),
        ({"decay_floor": 2.0, "decay": "linear"}, "from 0 to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, words):
    with pytest.raises(SpecError, match=words):
        Training(**changes)
