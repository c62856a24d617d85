"""Which tasks a corrected sampling shifts, and which it weighs."""

import dataclasses

import numpy as np
import pytest

from tests.doubles.worlds import PROBLEM, experiment
from tfmtl.declare.down_sampling import down_sampling_of
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import Sampling
from tfmtl.errors import SpecError

KEPT = {"0": 0.1}


def test_the_clicks_logit_is_shifted_and_other_tasks_on_all_rows_are_weighed():
    found = down_sampling_of(Sampling(column="click", rates=KEPT, correct="offset"), PROBLEM)
    assert found.offsets == {"ctr": pytest.approx(np.log(10))}
    # All clicked rows were kept at one rate, so cvr@click needs nothing.
    assert found.weighted == {"ctcvr", "cqs"}


def test_weights_alone_leave_out_the_tasks_on_clicks():
    found = down_sampling_of(Sampling(column="click", rates=KEPT, correct="weight"), PROBLEM)
    assert found.offsets == {} and found.weighted == {"ctr", "ctcvr", "cqs"}


def test_without_correction_nothing_changes():
    assert down_sampling_of(Sampling(column="scene", rates={"feed": 0.5}), PROBLEM) is None


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (
            Sampling(column="scene", rates={"feed": 0.5}, correct="offset"),
            "is not the label",
        ),
        (Sampling(column="click", rates={"no": 0.5}, correct="offset"), "values '0' and '1'"),
        (Sampling(column="click", rates={"0": 0.0}, correct="weight"), "nothing can be corrected"),
    ],
)
def test_what_cannot_be_corrected_is_refused_when_it_is_declared(sampling, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(experiment(), sampling=sampling)


def test_an_offset_beside_pairs_of_rows_of_a_request_is_refused():
    config = experiment()
    pairs = dataclasses.replace(config.model, terms=({"name": "pwiser"},))
    sampling = Sampling(column="click", rates=KEPT, correct="offset")
    with pytest.raises(SpecError, match="pwiser.*correct='weight'"):
        dataclasses.replace(config, model=pairs, sampling=sampling)


def test_an_unknown_correction_is_refused():
    with pytest.raises(SpecError, match="sampling.correct='ofset'"):
        Sampling(column="click", rates=KEPT, correct="ofset")


def test_a_text_label_is_refused():
    problem = ProblemSpec(
        features=(categorical("ad"),), tasks=(binary("ctr", label="click", positive="yes"),)
    )
    with pytest.raises(SpecError, match="not the label, of 0 and 1"):
        down_sampling_of(Sampling(column="click", rates=KEPT, correct="offset"), problem)
