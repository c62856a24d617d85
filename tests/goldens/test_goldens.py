"""Every part, loss and trainer makes the numbers that its golden has."""

import functools

import numpy as np
import pytest

from . import files, kinds, library
from .record import FORWARD, GIVEN, GRADIENTS

STORED = files.stored_goldens()
COMPARED = sorted(set(STORED) & set(kinds.every_golden()))
every_stored = pytest.mark.parametrize("golden", COMPARED)


def command(*goldens):
    return f"python -m tests.goldens --rewrite {' '.join(goldens)}"


@functools.cache
def unlike(golden):
    """How what is made differs from a golden, by array; made once for the tests below."""
    stored = files.load(golden)
    return files.differences(stored, kinds.made(golden, stored))


def check(golden, *sections):
    told = [f"{key} {text}" for key, text in unlike(golden).items() if key.startswith(sections)]
    if told:
        pytest.fail(
            f"{golden} does not make its golden's numbers:\n  " + "\n  ".join(told) + "\n"
            f"If the change is meant: {command(golden)}, and say why in the commit.",
            pytrace=False,
        )


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_part_has_a_golden_and_every_golden_a_part(kind):
    there = {golden for golden in STORED if golden.startswith(f"{kind}/")}
    wanted = {golden for golden in kinds.every_golden() if golden.startswith(f"{kind}/")}
    missing, stale = sorted(wanted - there), sorted(there - wanted)
    assert not missing, f"{missing} have no golden; make them by: {command(*missing)}"
    assert not stale, f"{[str(files.path_of(golden)) for golden in stale]} are of no part; delete."
    assert wanted


def test_every_golden_is_of_a_kind_in_the_table():
    assert {golden.partition("/")[0] for golden in STORED} == set(kinds.KINDS)


@every_stored
def test_weights_inputs_and_outputs_are_those_of_the_golden(golden):
    check(golden, GIVEN, FORWARD)


@every_stored
def test_gradients_are_those_of_the_golden(golden):
    check(golden, GRADIENTS)


def test_a_part_of_a_test_needs_no_golden():
    before = library.names("pooling")
    known = library.registry.names("pooling")

    @library.registry.register("pooling", "of_a_test")
    class OfATest:
        pass

    try:
        assert library.registry.names("pooling") != known
        assert library.names("pooling") == before
    finally:
        # There is no public way to forget a part, and other tests count them.
        library.registry._PARTS["pooling"].pop("of_a_test")


def test_a_number_beyond_the_tolerance_is_told_with_its_place_and_one_within_is_not():
    stored = {"forward/x": np.array([1.0, 2.0, np.nan])}
    assert files.differences(stored, {"forward/x": np.array([1.0, 2.000001, np.nan])}) == {}
    (told,) = files.differences(stored, {"forward/x": np.array([1.0, 2.5, np.nan])}).values()
    assert told.startswith("differs by 0.5 at most, at [1]: 2.5, in the golden 2; 1 of 3")
    (told,) = files.differences(stored, {"forward/x": np.array([1.0, 2.0, 3.0])}).values()
    assert told == "differs in 1 numbers that are not finite"


def test_an_array_too_many_or_too_few_or_of_another_shape_differs():
    one, other = {"forward/x": np.zeros(2)}, {"forward/y": np.zeros(2)}
    assert list(files.differences(one, other)) == ["forward/x", "forward/y"]
    (told,) = files.differences(one, {"forward/x": np.zeros([2, 1])}).values()
    assert told == "has the shape (2, 1), in the golden (2,)"
