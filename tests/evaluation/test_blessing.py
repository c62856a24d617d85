"""Bounds, margins and the sentences that say what failed."""

import math

import pytest

from tfmtl.declare.experiment import Evaluation
from tfmtl.declare.problem import ProblemSpec, binary, numerical, regression
from tfmtl.errors import SpecError
from tfmtl.evaluation.blessing import bless
from tfmtl.evaluation.bounds import Bound, bounds
from tfmtl.metrics.sliced import SlicedMetrics

PROBLEM = ProblemSpec(
    features=(numerical("price"),),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        regression("quality", label="score"),
    ),
    scene="scene",
)
SEARCH, FEED = (("scene", "search"),), (("scene", "feed"),)


def measured(*, ctr=0.7, cvr=0.65, r2=0.5, rows=5000, clicked=2000, conversions=100):
    return {
        "ctr/rows@imp": rows,
        "ctr/positives@imp": clicked,
        "ctr/auc@imp": ctr,
        "ctr/calibration@imp": 1.1,
        "cvr/rows@click": clicked,
        "cvr/positives@click": conversions,
        "cvr/auc@click": cvr,
        "quality/rows@imp": rows,
        "quality/r2@imp": r2,
    }


def sliced(overall=None, **scenes):
    slices = {(): overall or measured()}
    slices.update({(("scene", name),): metrics for name, metrics in scenes.items()})
    return SlicedMetrics(slices=slices)


def sentences(verdict):
    return [reason.sentence for reason in verdict.reasons]


def test_a_model_within_all_bounds_is_blessed_and_says_what_was_checked():
    verdict = bless(sliced(), None, PROBLEM, Evaluation(bounds={"ctr/auc@imp": 0.69}))
    assert verdict.blessed and verdict.reasons == () and verdict.checks == 3
    assert "no earlier blessed model" in verdict.describe()


@pytest.mark.parametrize(
    ("metrics", "metric"),
    [
        (measured(ctr=0.499), "ctr/auc@imp"),
        (measured(cvr=0.499), "cvr/auc@click"),
        (measured(r2=-0.001), "quality/r2@imp"),
    ],
)
def test_a_task_without_a_declared_bound_must_be_no_worse_than_knowing_nothing(metrics, metric):
    verdict = bless(sliced(metrics), None, PROBLEM, Evaluation())
    assert not verdict.blessed
    assert [reason.metric for reason in verdict.reasons] == [metric]


def test_a_declared_bound_replaces_the_default():
    evaluation = Evaluation(bounds={"ctr/calibration@imp": (0.9, 1.2)})
    assert bless(sliced(measured(ctr=0.4)), None, PROBLEM, evaluation).blessed


def test_a_slice_below_its_bound_withholds_the_blessing_and_is_named():
    evaluation = Evaluation(slice_bounds={"cvr/auc@click": 0.64})
    candidate = sliced(feed=measured(), search=measured(cvr=0.612))
    verdict = bless(candidate, None, PROBLEM, evaluation)
    assert sentences(verdict) == ["cvr/auc@click is 0.6120 in scene=search, below its bound 0.6400"]
    assert verdict.reasons[0].bound == Bound(metric="cvr/auc@click", lower=0.64)


def test_calibration_is_bounded_on_both_sides():
    for value, side in ((1.3, "above its bound 1.2500"), (0.7, "below its bound 0.8000")):
        metrics = measured() | {"ctr/calibration@imp": value}
        evaluation = Evaluation(bounds={"ctr/calibration@imp": (0.8, 1.25)})
        (sentence,) = sentences(bless(sliced(metrics), None, PROBLEM, evaluation))
        assert sentence.endswith(side)


def test_a_slice_decides_by_the_rows_of_the_tasks_own_space():
    evaluation = Evaluation(
        slice_bounds={"ctr/auc@imp": 0.6, "cvr/auc@click": 0.64}, min_slice_rows=1000
    )
    # Many impressions but few clicks: ctr decides, cvr does not.
    few = measured(cvr=0.1, rows=5000, clicked=999)
    verdict = bless(sliced(search=few), None, PROBLEM, evaluation)
    assert verdict.blessed and verdict.skipped == 1
    assert "fewer than 1,000 rows" in verdict.describe()
    enough = measured(cvr=0.1, rows=5000, clicked=1000)
    assert not bless(sliced(search=enough), None, PROBLEM, evaluation).blessed


def test_a_fall_further_than_the_margin_withholds_the_blessing():
    verdict = bless(sliced(measured(cvr=0.612)), sliced(measured(cvr=0.625)), PROBLEM, Evaluation())
    assert sentences(verdict) == [
        "cvr/auc@click is 0.6120: it fell by 0.0130 against the last blessed model (0.6250), "
        "more than 0.005"
    ]


def test_a_fall_by_exactly_the_margin_is_allowed():
    before, after = sliced(measured(cvr=0.625)), sliced(measured(cvr=0.620))
    assert 0.625 - 0.620 > 0.005
    assert bless(after, before, PROBLEM, Evaluation(max_fall=0.005)).blessed


def test_slices_have_their_own_margin():
    before = sliced(search=measured(ctr=0.70))
    after = sliced(search=measured(ctr=0.685))
    assert bless(after, before, PROBLEM, Evaluation(max_slice_fall=0.02)).blessed
    verdict = bless(after, before, PROBLEM, Evaluation(max_slice_fall=0.01))
    assert [reason.slice for reason in verdict.reasons] == [SEARCH]


def test_an_improvement_is_never_a_fall():
    verdict = bless(sliced(measured(ctr=0.9, cvr=0.9)), sliced(), PROBLEM, Evaluation(max_fall=0.0))
    assert verdict.blessed


def test_an_undefined_metric_never_holds_a_bound():
    evaluation = Evaluation(slice_bounds={"cvr/auc@click": 0.6})
    candidate = sliced(search=measured(cvr=math.nan, conversions=0))
    verdict = bless(candidate, None, PROBLEM, evaluation)
    assert sentences(verdict) == [
        "cvr/auc@click is undefined in scene=search, so its bound 0.6000 cannot hold"
    ]


def test_a_slice_without_positives_cannot_fall():
    one_class = sliced(search=measured(cvr=math.nan, conversions=0))
    verdict = bless(one_class, one_class, PROBLEM, Evaluation())
    assert verdict.blessed and verdict.skipped == 1
    assert "one class only" in verdict.describe()


def test_predictions_that_are_not_numbers_are_a_fall():
    candidate = sliced(search=measured(cvr=math.nan, conversions=100))
    verdict = bless(candidate, sliced(search=measured()), PROBLEM, Evaluation())
    assert sentences(verdict) == [
        "cvr/auc@click is undefined in scene=search; the last blessed model has 0.6500"
    ]


def test_a_task_the_earlier_model_lacks_is_not_compared_and_said_so():
    earlier = {n: v for n, v in measured(ctr=0.7).items() if not n.startswith("cvr/")}
    verdict = bless(sliced(measured(cvr=0.51)), sliced(earlier), PROBLEM, Evaluation())
    assert verdict.blessed
    assert verdict.notes == ("Task cvr is not compared: the last blessed model lacks it.",)
    # The task both have is still compared.
    assert not bless(sliced(measured(ctr=0.6)), sliced(earlier), PROBLEM, Evaluation()).blessed


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"cvr/auc@imp": 0.6}, r"no metric 'cvr/auc@imp'. Did you mean 'c.r/auc@"),
        ({"ctr/gauc@imp": 0.6}, "no metric 'ctr/gauc@imp'"),
        ({"quality/auc@imp": 0.6}, "no metric"),
        ({"ctr/calibration@imp": 1.2}, "needs a pair"),
        ({"ctr/auc@imp": "0.6"}, "must be a finite number, or a pair"),
        ({"ctr/auc@imp": (0.9, 0.6)}, "lies above"),
    ],
)
def test_a_bound_that_cannot_be_meant_is_refused(declared, message):
    for field in ("bounds", "slice_bounds"):
        with pytest.raises(SpecError, match=message) as error:
            bounds(PROBLEM, Evaluation(**{field: declared}))
        assert f"evaluation.{field}" in str(error.value)


def test_a_number_bounds_auc_from_below_and_losses_from_above():
    declared = {"ctr/auc@imp": 0.6, "ctr/ne@imp": 0.9, "quality/mae@imp": 3}
    overall, slices = bounds(PROBLEM, Evaluation(bounds=declared))
    assert {b.metric: (b.lower, b.upper) for b in overall} == {
        "ctr/auc@imp": (0.6, None),
        "ctr/ne@imp": (None, 0.9),
        "quality/mae@imp": (None, 3),
        "cvr/auc@click": (0.5, None),
    }
    assert slices == ()
