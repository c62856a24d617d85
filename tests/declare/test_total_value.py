"""Total value: what each action is worth, what quality adds, and what both stages share."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.declare import early_stage
from tfmtl.declare.experiment import ExperimentConfig, Replay
from tfmtl.declare.problem import ProblemSpec, categorical
from tfmtl.declare.split import Sampling, by_hash
from tfmtl.declare.total_value import ACTIONS, TotalValue, expected_action
from tfmtl.errors import DataError, SpecError

NAN = np.nan
OBJECTIVES = {
    "cpc": "click",
    "cpa": "click_conversion",
    "view": "view_conversion",
    "cpm": "impression",
}
VALUE = TotalValue(actions=OBJECTIVES)
PROBLEM = ProblemSpec(
    features=(categorical("user_id", side="user"), categorical("ad_id", side="ad")),
    tasks=early_stage.tasks(),
    indicators=early_stage.INDICATORS,
    request_id="request_id",
)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("cpc", 3 * 0.2 - 0.05),
        ("cpa", 3 * 0.2 * 0.1 - 0.05),
        ("view", 3 * 0.1 - 0.05),
        ("cpm", 3 * 1 - 0.05),
    ],
)
def test_total_value_is_bid_times_the_paid_action_plus_quality(objective, expected):
    found = VALUE(pctr=0.2, rate=0.1, cqs=-0.05, bid=3, objective=objective)
    assert found.shape == () and found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "unread"),
    [("cpc", ["rate"]), ("view", ["pctr"]), ("cpm", ["rate", "pctr"]), ("cpa", [])],
)
def test_a_prediction_that_no_action_needs_is_not_read_and_a_needed_one_is(objective, unread):
    given = {"pctr": 0.2, "rate": 0.1}
    for name in given:
        found = VALUE(**{**given, name: NAN}, cqs=0.5, bid=2, objective=[objective])
        assert np.isfinite(found).all() == (name in unread)


def test_ads_are_valued_each_by_its_own_objective_whatever_their_shape():
    rng = np.random.default_rng(0)
    names = rng.choice(list(OBJECTIVES), size=(5, 8))
    pctr, rate = rng.random((2, 5, 8))
    cqs, bid = rng.normal(size=(5, 8)), rng.lognormal(size=(1, 8))
    found = VALUE(pctr=pctr, rate=rate, cqs=cqs, bid=bid, objective=names)
    for r in range(5):
        for i in range(8):
            action = {"cpc": pctr, "cpa": pctr * rate, "view": rate, "cpm": np.ones((5, 8))}
            expected = bid[0, i] * action[names[r, i]][r, i] + cqs[r, i]
            assert found[r, i] == pytest.approx(expected, rel=1e-12)
    order = np.random.default_rng(1).permutation(8)
    moved = VALUE(
        pctr=pctr[:, order],
        rate=rate[:, order],
        cqs=cqs[:, order],
        bid=bid[:, order],
        objective=names[:, order],
    )
    np.testing.assert_array_equal(moved, found[:, order])


def test_more_events_on_the_way_never_make_an_action_likelier():
    rng = np.random.default_rng(0)
    pctr, rate = rng.random((2, 1000))
    always, never = np.ones(1000, bool), np.zeros(1000, bool)
    click = expected_action(pctr, rate, always, never)
    both = expected_action(pctr, rate, always, always)
    np.testing.assert_array_equal(click, pctr)
    assert (both <= click).all() and (click <= expected_action(pctr, rate, never, never)).all()


def quality_maps():
    rng = np.random.default_rng(3)
    points = tuple(zip(np.sort(rng.normal(size=5)), np.sort(rng.normal(size=5)), strict=True))
    return {
        "linear": {"name": "linear", "scale": 2.5},
        "clip": {"name": "clip", "low": -0.3, "high": 0.4, "scale": 3.0},
        "piecewise": {"name": "piecewise", "points": points},
        "steps": {"name": "piecewise", "points": ((-1.0, -2.0), (0.0, -2.0), (0.5, 1.0))},
    }


def expected_quality(quality, cqs):
    if quality["name"] == "linear":
        return quality["scale"] * cqs
    if quality["name"] == "clip":
        return quality["scale"] * np.clip(cqs, quality["low"], quality["high"])
    return np.interp(cqs, *np.transpose(quality["points"]))


each_map = pytest.mark.parametrize("quality", quality_maps().values(), ids=quality_maps().keys())


@each_map
def test_quality_is_mapped_as_declared_and_never_falls(quality):
    value = TotalValue(actions=OBJECTIVES, quality=quality)
    cqs = np.linspace(-4, 4, 801)
    found = value.ad_quality(cqs)
    np.testing.assert_allclose(found, expected_quality(value.quality, cqs), atol=1e-12)
    assert (np.diff(found) >= -1e-12).all() and found[-1] > found[0]
    total = value(pctr=0.1, rate=NAN, cqs=cqs, bid=2, objective="cpc")
    np.testing.assert_allclose(total, 0.2 + found, rtol=1e-12)


@pytest.mark.parametrize("name", ["clip", "piecewise", "steps"])
def test_a_bounded_map_bounds_even_an_infinite_score(name):
    value = TotalValue(actions=OBJECTIVES, quality=quality_maps()[name])
    ends = value.ad_quality(np.array([-1e9, 1e9]))
    np.testing.assert_allclose(value.ad_quality(np.array([-np.inf, np.inf])), ends)


@each_map
@pytest.mark.parametrize("xp", [np, tf], ids=["numpy", "tensorflow"])
def test_a_broken_score_is_not_hidden_by_its_map(quality, xp):
    value = TotalValue(actions=OBJECTIVES, quality=quality)
    found = np.asarray(value.ad_quality(xp.constant([NAN]) if xp is tf else np.array([NAN]), xp=xp))
    assert np.isnan(found).all()


def test_quality_is_linear_with_a_factor_of_one_unless_declared():
    np.testing.assert_array_equal(VALUE.ad_quality(np.array([-0.3, 2.0])), [-0.3, 2.0])
    scaled = TotalValue(actions=OBJECTIVES, quality={"name": "linear"})
    assert scaled.ad_quality(0.7) == 0.7


@pytest.mark.parametrize("cqs", [0.0, -3.0, NAN, np.inf])
def test_without_a_quality_task_no_score_counts_whatever_it_is(cqs):
    value = TotalValue(actions=OBJECTIVES, cqs=None)
    assert value(pctr=[0.2], rate=[0.1], cqs=[cqs], bid=[3], objective=["cpa"]) == 3 * 0.2 * 0.1


@each_map
def test_a_graph_and_numpy_give_the_same_value(quality):
    value = TotalValue(actions=OBJECTIVES, quality=quality)
    rng = np.random.default_rng(0)
    names = rng.choice(list(OBJECTIVES), size=200)
    clicks, converts = value.needs(names)
    pctr, rate = rng.random((2, 200))
    rate = np.where(converts, rate, NAN)
    cqs, bid = rng.normal(size=200), rng.lognormal(size=200)

    @tf.function
    def graph(*tensors):
        return value.combine(*tensors, xp=tf)

    exact = [tf.constant(x, tf.float64) for x in (pctr, rate, cqs, bid)]
    expected = value(pctr=pctr, rate=rate, cqs=cqs, bid=bid, objective=names)
    np.testing.assert_allclose(graph(*exact, clicks, converts), expected, rtol=1e-12, atol=1e-12)
    single = graph(*(tf.cast(x, tf.float32) for x in exact), clicks, converts)
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)
    nothing = dataclasses.replace(value, cqs=None)
    assert not nothing.ad_quality(tf.constant([NAN, 1.0]), xp=tf).numpy().any()


def test_every_action_says_what_it_needs():
    for name, (click, conversion) in ACTIONS.items():
        value = TotalValue(actions={"only": name})
        clicks, converts = value.needs(np.array(["only", "only"]))
        assert clicks.tolist() == [click] * 2 and converts.tolist() == [conversion] * 2


def test_an_unknown_objective_is_named_with_the_likely_one():
    with pytest.raises(DataError, match=r"'cp' is none of .* \(of 2 rows\).*Did you mean 'cp"):
        VALUE(pctr=0.1, rate=0.1, cqs=0, bid=1, objective=np.array(["cpc", "cp", "cp"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"actions": {}}, ["value.actions names what each objective pays for"]),
        (
            {"actions": {"cpc": "clicks"}},
            ["value.actions['cpc']='clicks'", "Did you mean 'click'?"],
        ),
        ({"quality": {"name": "lienar"}}, ["Did you mean 'linear'?"]),
        ({"quality": {}}, ["name= is one of"]),
        ({"quality": {"name": "linear", "scale": -1.0}}, ["scale=-1.0", "f rises"]),
        ({"quality": {"name": "linear", "scale": NAN}}, ["scale=nan"]),
        ({"quality": {"name": "linear", "low": 0.0}}, ["takes ['scale']", "got ['low']"]),
        ({"quality": {"name": "clip", "low": 0.0}}, ["needs ['low', 'high']"]),
        ({"quality": {"name": "clip", "low": 1.0, "high": 1.0}}, ["does not lie below"]),
        ({"quality": {"name": "piecewise", "points": ((0, 0),)}}, ["at least two"]),
        (
            {"quality": {"name": "piecewise", "points": ((0, 0), (1, -1))}},
            ["y that does not fall"],
        ),
        ({"quality": {"name": "piecewise", "points": ((0, 0), (0, 1))}}, ["rising x"]),
        (
            {"quality": {"name": "piecewise", "points": ((0, 0), (1, NAN))}},
            ["must be a list of lists of 2"],
        ),
        ({"quality": {"name": "piecewise", "points": ((0, 0), (1, 1)), "scale": 2}}, ["'scale'"]),
    ],
)
def test_a_value_that_has_no_meaning_is_refused(arguments, words):
    with pytest.raises(SpecError) as error:
        TotalValue(**{"actions": OBJECTIVES, **arguments})
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ctr": "crt"}, ["'crt' is no served binary task", "Did you mean 'ctr'?"]),
        ({"ctr": "cqs"}, ["'cqs' is no served binary task"]),
        ({"cqs": "ctr"}, ["'ctr' is no served regression task"]),
        ({"ctr": "teacher"}, ["'teacher' is no served binary task", "['ctr', 'cqs']"]),
    ],
)
def test_a_value_of_what_is_not_served_is_refused(changes, words):
    with pytest.raises(SpecError) as error:
        experiment(value=TotalValue(actions=OBJECTIVES, **changes))
    for word in words:
        assert word in str(error.value)


def experiment(**changes):
    return ExperimentConfig(
        name="early", problem=PROBLEM, split=by_hash("request_id"), **{"value": VALUE} | changes
    )


@each_map
def test_an_early_stages_experiment_survives_json(quality):
    config = experiment(
        value=TotalValue(actions=OBJECTIVES, bid="max_bid", rate="cvr", quality=quality),
        replay=Replay(k=7, ks=[3, 9], bounds={"soft_recall@7": 0.6, "tvd": (0.0, 0.5)}),
        sampling=early_stage.augmentation("both", final=0.25, early=0.06),
    )
    again = ExperimentConfig.from_json(config.to_json())
    assert again == config
    assert again.sampling == Sampling(column="row_type", rates={"R3": 0.25, "R4": 0.06})
    assert again.value.ad_quality(0.2) == config.value.ad_quality(0.2)
    plain = experiment(value=None)
    again = ExperimentConfig.from_json(plain.to_json())
    assert again == plain and again.value is again.replay is again.sampling is None


def test_a_replay_without_a_value_to_rank_by_is_refused():
    with pytest.raises(SpecError, match=r"replay: recall ranks by total value; give value="):
        experiment(value=None, replay=Replay())
