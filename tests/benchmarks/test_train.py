"""What `benchmarks.train` compares, and that our step has not become slower beside a peer's."""

import io
import json
import math
import sys
from contextlib import redirect_stdout

import pytest

from benchmarks import train
from benchmarks.contract import main
from benchmarks.steps.environment import PACKAGES
from benchmarks.steps.worker import Case


def test_a_ratio_is_the_median_over_turns_to_the_peer_that_is_fastest():
    seconds = {"ours": [1.0, 2.0, 1.0], "rechub": [9.0, 9.0, 9.0], "deep": [3.0, 4.0, 5.0]}
    result = train._beside_peers("train/b/mmoe", "b", seconds, {}, (), False)
    assert result.value == 3.0
    assert result.holds is True
    assert result.details["examples_per_second"]["deep"] == 512.0


def test_without_any_peer_there_is_no_ratio_and_the_target_is_not_met():
    result = train._beside_peers("train/b/mmoe", "b", {"ours": [1.0]}, {}, ("deep",), False)
    assert math.isnan(result.value)
    assert "not run: deep" in result.note


def test_all_packages_train_on_the_same_rows_and_ids_stay_in_their_tables():
    for sizes in train.SIZES.values():
        case = Case("mmoe", **sizes)
        first, again = case.batches(), case.batches()
        assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))
        assert all((ids < case.sizes).all() and (ids >= 0).all() for ids, _, _ in first)


def test_every_package_is_pinned():
    assert all("==" in package for packages in PACKAGES.values() for package in packages)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="DeepCTR needs TensorFlow 2.16")
def test_our_step_is_as_fast_beside_deepctr_as_it_was():
    out = io.StringIO()
    with redirect_stdout(out):
        arguments = ["--quick", "--check", "--json", "--peers", "deep"]
        status = main(train.__doc__, train.run, arguments, arguments=train.add_arguments)
    results = [json.loads(line) for line in out.getvalue().splitlines()]
    if any("not run: deep" in result["note"] for result in results):
        pytest.skip("DeepCTR's environment cannot be installed here")
    assert status == 0, results
