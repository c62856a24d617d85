"""A metric's declaration: its direction, a user's own ones, and what is refused."""

import json

import numpy as np
import pytest

import tfmtl
from tests.doubles import own_metrics
from tests.doubles.own_metrics import top_rate
from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec, binary, numerical, regression
from tfmtl.errors import SpecError
from tfmtl.evaluation.blessing import bless
from tfmtl.evaluation.bounds import bounds
from tfmtl.evaluation.evaluate import Rows, format_table, measure
from tfmtl.metrics.metric import Metric, metric, metric_of, metrics_of
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.metrics.sliced import SlicedMetrics
from tfmtl.metrics.tasks import auc, task_metrics

PROBLEM = ProblemSpec(
    features=(numerical("price"),),
    tasks=(
        binary("ctr", label="click", metrics=("pr_auc", "brier", top_rate)),
        binary("cvr", label="conversion", observed_if="click", metrics=("brier",)),
        regression("stars", label="stars"),
    ),
    scene="scene",
)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    p = rng.random((400, 3)).astype(np.float32)
    labels = (rng.random((400, 3)) < p).astype(np.float32)
    observed = np.ones((400, 3), bool)
    observed[:, 1] = labels[:, 0] > 0
    return Rows(
        labels=labels,
        observed=observed,
        predictions=dict(zip(PROBLEM.task_names, p.T, strict=True)),
        groups=None,
        codes={"scene": (np.arange(400) % 2).astype(np.int32)},
        values={"scene": ("feed", "search")},
    )


@pytest.fixture(scope="module")
def measured(rows):
    return measure(rows, PROBLEM, tfmtl.Evaluation())


def headings(text, block=0):
    return text.split("\n\n")[block].splitlines()[0]


# --- asked for by a task --------------------------------------------------------------------


@pytest.mark.parametrize("scene", [None, "feed", "search"])
def test_a_metric_that_a_task_asks_for_is_measured_overall_and_in_every_slice(
    rows, measured, scene
):
    sklearn = pytest.importorskip("sklearn.metrics")
    index = np.arange(400) % 2 == ["feed", "search"].index(scene) if scene else slice(None)
    values = measured.slices[(("scene", scene),) if scene else ()]
    y, p = rows.labels[index, 0], rows.predictions["ctr"][index]
    assert values["ctr/pr_auc@imp"] == pytest.approx(sklearn.average_precision_score(y, p))
    assert values["ctr/brier@imp"] == pytest.approx(np.mean((y - p) ** 2), rel=1e-6)
    assert values["ctr/top_rate@imp"] == y[np.argmax(p)]
    seen = rows.observed[index, 1]
    y, p = rows.labels[index, 1][seen], rows.predictions["cvr"][index][seen]
    assert values["cvr/brier@click"] == pytest.approx(np.mean((y - p) ** 2), rel=1e-6)
    assert not {"cvr/pr_auc@click", "cvr/top_rate@click", "stars/brier@imp"} & set(values)


def test_nothing_is_measured_that_no_task_asks_for():
    plain = task_metrics("binary", [0, 1], [0.1, 0.2])
    assert {"pr_auc", "brier", "top_rate"}.isdisjoint(plain)
    assert [m.name for m in metrics_of(PROBLEM.task("cvr"))][-1] == "brier"


def test_it_has_a_column_in_the_table_after_the_standard_ones(measured):
    text = format_table(measured, PROBLEM, columns=("scene",))
    assert headings(text).endswith("AUC      NE  calibration  PR AUC   Brier  top rate")
    assert "Brier" not in headings(text, 1)
    (line,) = [line for line in text.splitlines() if line.startswith("ctr@imp")]
    values = [measured.overall[f"ctr/{name}@imp"] for name in ("pr_auc", "brier", "top_rate")]
    assert line.split()[-3:] == [f"{v:.{n}f}" for v, n in zip(values, (4, 4, 2), strict=True)]
    (line,) = [line for line in text.splitlines() if line.startswith("cvr@click")]
    assert line.split()[-3] == line.split()[-1] == "-"


def test_a_metric_that_is_not_registered_has_a_column_where_its_problem_is_known(measured):
    assert "top rate" not in format_table(measured)
    again = SlicedMetrics.from_json(measured.to_json())
    problem = ProblemSpec.from_json(json.loads(json.dumps(PROBLEM.to_json())))
    assert problem == PROBLEM
    assert format_table(again, problem) == format_table(measured, PROBLEM)


def test_a_number_bounds_it_from_its_worse_side(measured):
    declared = {"ctr/pr_auc@imp": 0.3, "ctr/brier@imp": 0.2, "ctr/top_rate@imp": 0.5}
    evaluation = tfmtl.Evaluation(bounds=declared, slice_bounds={"cvr/brier@click": (0.1, 0.3)})
    overall, slices = bounds(PROBLEM, evaluation)
    sides = {bound.metric: (bound.lower, bound.upper) for bound in overall}
    assert sides["ctr/pr_auc@imp"] == (0.3, None)
    assert sides["ctr/brier@imp"] == (None, 0.2)
    assert sides["ctr/top_rate@imp"] == (0.5, None)
    assert [(b.metric, b.lower, b.upper) for b in slices] == [("cvr/brier@click", 0.1, 0.3)]


@pytest.mark.parametrize(("metric_name", "worse"), [("pr_auc", -0.01), ("brier", 0.01)])
def test_its_bound_withholds_the_blessing_on_the_worse_side_alone(measured, metric_name, worse):
    name = f"ctr/{metric_name}@imp"
    value = measured.overall[name]
    for bound, blessed in ((value + worse, True), (value - worse, False)):
        evaluation = tfmtl.Evaluation(bounds={name: bound, "stars/mae@imp": 9})
        verdict = bless(measured, None, PROBLEM, evaluation)
        assert verdict.blessed == blessed
        assert [reason.metric for reason in verdict.reasons] == ([] if blessed else [name])


def test_a_bound_on_a_metric_that_the_task_does_not_ask_for_is_refused():
    with pytest.raises(SpecError, match="no metric 'cvr/pr_auc@click'"):
        bounds(PROBLEM, tfmtl.Evaluation(bounds={"cvr/pr_auc@click": 0.1}))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (("brir",), "unknown metric 'brir'.*Did you mean 'brier'"),
        ("brier", r"is text.*metrics=\('brier',\)"),
        (("rmse",), "metric 'rmse' is not of binary tasks"),
        (("soft_recall",), "metric 'soft_recall' is not of binary tasks"),
        ((own_metrics.undeclared,), "is no metric; declare the function"),
        (("tests.doubles.own_metrics:top_rat",), "cannot be found"),
    ],
)
def test_what_a_task_cannot_be_measured_by_is_refused_when_it_is_declared(metrics, message):
    with pytest.raises(SpecError, match=message):
        binary("ctr", label="click", metrics=metrics)


def test_two_metrics_of_one_name_are_refused():
    @metric(name="auc", best="high", kinds=("binary",))
    def mine(labels, predictions, weights=None):
        return 1.0

    own_metrics.mine = mine
    object.__setattr__(mine, "__module__", own_metrics.__name__)
    object.__setattr__(mine, "__qualname__", "mine")
    with pytest.raises(SpecError, match="two of its metrics are called 'auc'"):
        binary("ctr", label="click", metrics=(mine,))


# --- direction ------------------------------------------------------------------------------


def test_direction_is_known_by_full_name_by_bare_name_and_of_ones_own():
    assert lower_is_better("ctr/brier@imp") and lower_is_better("brier")
    assert not lower_is_better("ctr/pr_auc@imp")
    assert not lower_is_better("ctr/top_rate@imp", PROBLEM)
    assert not lower_is_better("soft_recall@20") and lower_is_better("tvd@20")


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("ctr/log_los@imp", "unknown metric 'log_los'.*Did you mean 'log_loss'"),
        ("profit", r"unknown metric 'profit'.*Metric\(name='profit'"),
        ("ctr/top_rate@imp", "unknown metric 'top_rate'"),
        ("stars/bias@imp", "a bias is best at 0, neither high nor low"),
        ("ctr/calibration@imp", "a calibration is best at 1, neither"),
    ],
)
def test_a_monitor_of_no_known_direction_is_an_error_and_not_maximised(monitor, message):
    with pytest.raises(SpecError, match=message):
        lower_is_better(monitor)


def test_a_gain_is_in_the_metrics_unit_and_positive_where_it_is_better():
    assert metric_of("auc").gain(0.5, 0.75) == 0.25
    assert metric_of("mse").gain(0.5, 0.75) == -0.25
    with pytest.raises(SpecError, match="best at 1"):
        metric_of("calibration").gain(1.0, 1.1)


# --- declarations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": "hihg"}, "Did you mean 'high'"),
        ({"best": True}, "'high' or 'low' would be right"),
        ({"kinds": ("binry",)}, "Did you mean 'binary'"),
        ({"kinds": ()}, "measures some of"),
        ({"name": "a/b"}, "none of '/', '@' and ':'"),
        ({"format": "four"}, "writes no number"),
    ],
)
def test_a_declaration_that_has_no_meaning_is_refused(changes, message):
    declared = {"best": "high", "kinds": ("binary",), **changes}
    with pytest.raises(SpecError, match=message):
        metric(**declared)(own_metrics.undeclared)


@pytest.mark.parametrize(
    "function",
    [lambda labels, predictions: 0.0, lambda labels, predictions, weights, k: 0.0],
    ids=["no weights", "an argument that nobody gives"],
)
def test_a_function_that_cannot_be_called_with_weighted_rows_is_refused(function):
    with pytest.raises(SpecError, match=r"\(labels, predictions, weights=None\) would be right"):
        metric(best="high", kinds=("binary",), name="mine")(function)


def test_a_declared_function_is_still_called_as_before():
    assert auc([0, 1], [0.2, 0.4], name="mine") == 1.0
    assert "positive scores above a negative" in auc.__doc__
    with pytest.raises(SpecError, match="has no function"):
        metric_of("loss")([0.0], [0.0])


def test_a_metric_without_a_function_gives_its_direction_and_cannot_be_registered_twice(
    monkeypatch,
):
    monkeypatch.setattr(registry, "_PARTS", {"metric": registry.parts("metric")})
    tfmtl.register("metric", "profit")(Metric(name="profit", best="low"))
    assert lower_is_better("profit")
    with pytest.raises(SpecError, match="already registered"):
        tfmtl.register("metric", "profit")(Metric(name="profit", best="high"))
