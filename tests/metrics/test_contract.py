"""What every registered metric keeps to. A new one needs one row in `CASES`."""

import dataclasses
import json
import math

import numpy as np
import pytest
from absl import logging

from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec, numerical
from tfmtl.declare.tasks import Task
from tfmtl.metrics.metric import KINDS, metric_of

GROUPS = ["a", "a", "a", "b", "b", "b", "b"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One metric on seven rows.

    Args:
        labels: Of the rows.
        known: Predictions, and the value that they have, by hand.
        best: Predictions that no others beat; `None` where predictions do not matter.
        nan: Labels on which the metric is not defined; `None` where it is defined on all, and
            on no rows.
        steps: Predictions from worse to better; every step moves the value the stated way.
    """

    labels: tuple
    known: tuple
    best: tuple | None = None
    nan: tuple | None = ()
    steps: tuple = ()


CLICKS = (0, 1, 0, 1, 0, 0, 1)
NONE, ALL = (0,) * 7, (1,) * 7
WORST, POOR, GOOD, BEST = (
    (0.9, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1),
    (0.6, 0.3, 0.2, 0.3, 0.2, 0.6, 0.7),
    (0.2, 0.7, 0.3, 0.6, 0.1, 0.65, 0.8),
    CLICKS,
)
CLICKED = {"labels": CLICKS, "best": BEST, "steps": (WORST, POOR, GOOD, BEST)}
HALF = (0.5,) * 7
SCORES = (1.0, 2.0, 4.0, 2.0, 3.0, 5.0, 4.0)
NUMBERS = {
    "labels": SCORES,
    "best": SCORES,
    "steps": tuple(tuple(s + off for s in SCORES) for off in (3.0, 1.0, 0.0)),
}
OFF = (2.0, 2.0, 4.0, 2.0, 3.0, 5.0, 2.0)  # One too high and one two too low, of seven.

CASES = {
    # Of 12 pairs POOR wins (0.3, 0.2) four times and 0.7 beats all four.
    "auc": Case(**CLICKED, known=(POOR, 8 / 12), nan=ALL),
    # Group a: 0.3 beats one of two; b: 0.3 beats one of two, and 0.7 both. Weights 3 and 4.
    "gauc": Case(**CLICKED, known=(POOR, (3 * 1 / 2 + 4 * 3 / 4) / 7), nan=NONE),
    "log_loss": Case(**CLICKED, known=(HALF, math.log(2))),
    "ne": Case(
        **CLICKED,
        known=(HALF, math.log(2) / -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))),
        nan=NONE,
    ),
    "calibration": Case(
        labels=CLICKS, known=(HALF, 3.5 / 3), best=BEST, steps=(ALL, HALF, BEST), nan=NONE
    ),
    "ece": Case(labels=CLICKS, known=(HALF, 1 / 14), best=BEST, steps=(WORST, HALF, BEST)),
    "mae": Case(**NUMBERS, known=(OFF, 3 / 7)),
    "mse": Case(**NUMBERS, known=(OFF, 5 / 7)),
    "rmse": Case(**NUMBERS, known=(OFF, math.sqrt(5 / 7))),
    "r2": Case(**NUMBERS, known=(OFF, 1 - 5 / 12), nan=(2.0,) * 7),
    "bias": Case(**NUMBERS, known=(OFF, -1 / 7)),
    # GOOD from above: 0.8 and 0.7 are clicks, 0.65 is none, 0.6 is one: precision 1, 1 and 3/4.
    "pr_auc": Case(**CLICKED, known=(GOOD, (1 + 1 + 3 / 4) / 3), nan=ALL),
    "brier": Case(**CLICKED, known=(HALF, 0.25)),
    "rows": Case(labels=CLICKS, known=(HALF, 7.0), nan=None),
    "positives": Case(labels=CLICKS, known=(HALF, 3.0), nan=None),
}
REGISTERED = registry.parts("metric")
MEASURED = {name: m for name, m in REGISTERED.items() if m.function is not None}
ELSEWHERE = {name: m for name, m in REGISTERED.items() if m.function is None}
named = pytest.mark.parametrize("name", sorted(set(MEASURED) & set(CASES)))


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setattr(logging, "warning", lambda *args: None)


def without_a_case(registered):
    """What to do for metrics that lack a row, or for rows that lack a metric."""
    missing, extra = sorted(registered - set(CASES)), sorted(set(CASES) - registered)
    return [
        *(
            f"metric {name!r} has no case: add a row {name!r}: Case(labels=…, known=(predictions, "
            "value), best=…, steps=…) to CASES in tests/metrics/test_contract.py"
            for name in missing
        ),
        *(f"CASES has a row {name!r}, and no metric of that name is registered" for name in extra),
    ]


def value_of(name, predictions, labels=None, weights=None, groups=GROUPS):
    labels = np.array(CASES[name].labels if labels is None else labels, float)
    groups = np.array(groups[: len(labels)])
    return MEASURED[name].measure(labels, np.array(predictions, float), weights, groups)


def distance(name, value):
    """How far a value is from the best one; less is better."""
    best = MEASURED[name].best
    return {"high": -value, "low": value}[best] if isinstance(best, str) else abs(value - best)


def test_every_registered_metric_has_a_case_and_every_case_a_metric():
    assert without_a_case(set(MEASURED)) == []


def test_who_forgets_the_row_reads_which_one_to_add_where():
    (message,) = without_a_case({*MEASURED, "lift"})
    assert "add a row 'lift'" in message and "tests/metrics/test_contract.py" in message


@named
def test_the_value_of_known_predictions_is_that_by_hand(name):
    predictions, value = CASES[name].known
    assert value_of(name, predictions) == pytest.approx(value, rel=1e-12)


@named
def test_nothing_beats_the_best_predictions(name):
    case = CASES[name]
    if case.best is None:
        assert MEASURED[name].counts
        assert value_of(name, WORST) == value_of(name, BEST)
        return
    best = value_of(name, case.best)
    if not MEASURED[name].directed:
        assert best == pytest.approx(MEASURED[name].best, abs=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = value_of(name, rng.random(7) * max(case.labels))
        assert distance(name, best) <= distance(name, other) + 1e-12


@named
def test_better_predictions_move_the_value_the_stated_way(name):
    steps = CASES[name].steps
    assert bool(steps) != MEASURED[name].counts
    values = [value_of(name, predictions) for predictions in steps]
    far = [distance(name, value) for value in values]
    assert all(before > after for before, after in zip(far, far[1:], strict=False)), values
    if steps and MEASURED[name].directed:
        assert MEASURED[name].gain(values[0], values[-1]) > 0


@named
def test_the_order_of_rows_changes_nothing(name):
    case, order = CASES[name], np.random.default_rng(1).permutation(7)
    for predictions in (case.known[0], *case.steps):
        moved = value_of(
            name,
            np.array(predictions)[order],
            labels=np.array(case.labels)[order],
            groups=np.array(GROUPS)[order],
        )
        assert moved == pytest.approx(value_of(name, predictions), rel=1e-12)


@named
def test_a_weight_of_two_is_the_row_twice_and_of_zero_is_no_row(name):
    weights = np.array([2, 1, 0, 1, 2, 1, 3])
    again = np.repeat(np.arange(7), weights)
    for predictions in (CASES[name].known[0], *CASES[name].steps):
        weighted = value_of(name, predictions, weights=weights)
        repeated = value_of(
            name,
            np.array(predictions)[again],
            labels=np.array(CASES[name].labels)[again],
            groups=np.array(GROUPS)[again],
        )
        assert weighted == pytest.approx(repeated, rel=1e-12, abs=1e-12)


@named
def test_where_it_is_not_defined_it_is_nan_and_no_error(name):
    labels = CASES[name].nan
    if labels is None:
        assert value_of(name, [], labels=[]) == 0
        return
    for rows in {labels, ()}:
        assert math.isnan(value_of(name, HALF[: len(rows)], labels=rows))
        weights = np.zeros(7)
        assert math.isnan(value_of(name, HALF, weights=weights))


@pytest.mark.parametrize("name", sorted(REGISTERED))
def test_a_registered_metric_is_known_by_its_own_name(name):
    metric = registry.get("metric", name)
    assert metric.name == name == registry.reference("metric", metric)
    assert metric_of(f"task/{name}@space") is metric_of(f"{name}@20") is metric
    assert metric.heading and format(0.123, metric.format)


@named
def test_a_task_that_asks_for_it_is_equal_after_json(name):
    (kind, *_) = MEASURED[name].kinds
    task = Task(name="y", kind=kind, label="label", metrics=[MEASURED[name]])
    problem = ProblemSpec(features=(numerical("x"),), tasks=(task,))
    again = ProblemSpec.from_json(json.loads(json.dumps(problem.to_json())))
    assert again == problem
    # The standard ones are there without asking.
    assert task.metrics == (() if MEASURED[name].standard else (name,))


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_a_metric_of_another_room_has_a_direction_and_measures_no_task(name):
    metric = ELSEWHERE[name]
    assert metric.directed and not set(metric.kinds) & set(KINDS)
