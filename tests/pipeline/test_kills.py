"""Runs that are killed again and again: the same table in the end, and whole versions always."""

import itertools
import time

import numpy as np
import pytest

from tests.doubles.shop import run, run_until, write_shop

KILLS = 20


def table_of(done):
    """What a run measured, down to its verdict."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split("task  ")[1].split("Blessed")[0]


def versions_in(output):
    """The versions that somebody would serve, each known to be whole."""
    models = [*output.glob("artifacts/Trainer/model/*/Format-Serving")]
    wholes = [contents(model) for model in models]
    versions = [path for path in output.glob("serving/shop/*") if path.name.isdecimal()]
    for version in versions:
        assert contents(version) in wholes, version
    return versions


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def at_a_checkpoint(output):
    """While a checkpoint is written: its name is not there yet."""
    return lambda: [*output.glob("artifacts/checkpoints/*/.at-*.building")]


def at_the_push(output):
    """While a version is copied."""
    return (output / "serving/shop/.pushing").exists


def after(seconds):
    start = time.monotonic()
    return lambda: time.monotonic() - start > seconds


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_twenty_moments_runs_end_at_the_same_table_with_whole_versions_alone(tmp_path):
    shop = write_shop(tmp_path)
    started = time.monotonic()
    table = table_of(run(shop, output="whole"))
    most = time.monotonic() - started
    rng, numbers, outputs = np.random.default_rng(14), itertools.count(), []

    def begin():
        outputs.append(shop / f"killed-{next(numbers)}")
        return outputs[-1]

    for moment in (at_a_checkpoint, at_the_push):
        assert run_until(moment(output := begin()), shop, output=output.name)
        versions_in(output)
    output, kills = outputs[0], 2
    while kills < KILLS:
        condition = after(rng.uniform(0, most))
        if run_until(condition, shop, output=output.name, may_end=True):
            kills += 1
        else:
            # It came to its end in spite of all kills before; the next begins anew.
            output = begin()
        versions_in(output)
    for output in outputs:
        assert table_of(run(shop, output=output.name)) == table
        assert len(versions_in(output)) >= 1
        left = [p for p in output.rglob(".*") if p.name.endswith((".building", ".pushing"))]
        assert left == [] and not [*output.glob("artifacts/checkpoints/*")]
