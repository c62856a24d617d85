"""Multiply-adds of a request, against numbers reckoned by hand from the layers' widths."""

import dataclasses

import pytest
import tensorflow as tf

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.worlds import PROBLEM as ADS
from tests.doubles.worlds import SMALL, packed, towers_of
from tfmtl import registry
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.cost import Cost, cost_of, request_macs

CTR = binary("ctr", label="click")
CQS = regression("cqs", label="quality")
TEACHER = binary("teacher", label="final_pctr", soft=True, served=False)
PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user", encoding="identity", size=9),
        categorical("segment", side="user", encoding="identity", size=3),
        numerical("age", side="user"),
        numerical("visits", side="user"),
        categorical("ad", side="ad", encoding="identity", size=9),
        categorical("topic", side="ad", encoding="identity", size=5, dim=2),
    ),
    tasks=(CTR, CQS, TEACHER),
)
ROWS = {"user": 11, "segment": 5, "ad": 11, "topic": 7}
TWO_TOWER = {"name": "two_tower", "user_units": (7, 5), "ad_units": (6,), "width": 3}


def build(backbone, tasks=(CTR, CQS, TEACHER), **settings):
    problem = dataclasses.replace(PROBLEM, tasks=tasks)
    model = Model(backbone=backbone, **{"dim": 4, "tower_units": (8,), **settings})
    return MultiTaskModel.build_from(problem, ROWS, model)


# User fields: user, segment, numbers; ad fields: ad, topic. D = 4.
NUMBERS = 2 * 4
PROJECTION = 2 * 4
USER = NUMBERS + 3 * 4 + (3 * 4 + 3) * 7 + 7 * 5 + 5 * 3
AD = PROJECTION + 1 * 4 + (2 * 4 + 1) * 6 + 6 * 3
HEAD = 3 * 3 * 8 + 8 * 1
UNIT = 1


def test_two_towers_cost_what_their_widths_multiply_to():
    found = cost_of(build(TWO_TOWER))
    assert found == Cost(user=USER, ad=AD, pair=3 + 2 * HEAD + UNIT)
    assert found == Cost(user=175, ad=84, pair=164)


def test_numbers_as_fields_cost_a_product_each_and_are_fields_more():
    user = 2 * 4 + 6 * 4 + (4 * 4 + 6) * 7 + 7 * 5 + 5 * 3
    assert cost_of(build(TWO_TOWER, numeric_mode="fieldwise")).user == user


def test_a_dot_interaction_s_projection_of_the_user_is_made_once_a_request():
    found = cost_of(build({**TWO_TOWER, "interaction": "dot"}, tower_units=None))
    # Of each served task: W_a h_a, the product, the logit's one layer.
    assert found == Cost(user=USER + 2 * 9, ad=AD, pair=2 * (9 + 3 + 3) + UNIT)


def test_mmoe_costs_its_experts_gates_mixing_and_towers_for_every_pair():
    backbone = {"name": "mmoe", "num_experts": 3, "expert_units": (6, 5)}
    inputs = 5 * 4
    experts = 3 * (inputs * 6 + 6 * 5)
    gates = 2 * inputs * 3
    mixing = 2 * 3 * 5
    towers = 2 * (5 * 8 + 8)
    expected = NUMBERS + PROJECTION + experts + gates + mixing + towers + UNIT
    assert cost_of(build(backbone, (CTR, CQS))) == Cost(pair=expected) == Cost(pair=713)


def test_the_teacher_s_head_costs_nothing():
    assert cost_of(build(TWO_TOWER)) == cost_of(build(TWO_TOWER, (CTR, CQS)))
    own = {"name": "single_task", "bottom_units": (8,)}
    assert cost_of(build(own)) == cost_of(build(own, (CTR, CQS)))


def test_one_model_of_two_tasks_costs_less_than_two_of_one():
    both = cost_of(build(TWO_TOWER))
    apart = [cost_of(build(TWO_TOWER, tasks)) for tasks in ((CTR, TEACHER), (CQS,))]
    for cached in (0.0, 0.9, 1.0):
        one = request_macs([both], ads=150, cached=cached)
        two = request_macs(apart, ads=150, cached=cached)
        assert one < two
        # Saved: a user's vector, the ads' that are not cached, and the vectors' product.
        saved = USER + 150 * ((1 - cached) * AD + 3)
        assert two - one == pytest.approx(saved)


def test_a_request_sums_models_and_caches_only_what_is_of_the_ad():
    costs = [Cost(user=1000, ad=100, pair=10), Cost(pair=7)]
    assert request_macs(costs, ads=0) == 1000
    assert request_macs(costs, ads=20) == 1000 + 20 * (100 + 10 + 7)
    assert request_macs(costs, ads=20, cached=0.75) == 1000 + 20 * (25 + 10 + 7)
    with pytest.raises(ValueError, match="cached=1.5"):
        request_macs(costs, ads=20, cached=1.5)
    with pytest.raises(ValueError, match="ads=-1"):
        request_macs(costs, ads=-1)


@pytest.mark.parametrize("name", registry.names("backbone"))
def test_every_backbone_on_every_kind_of_feature_has_a_cost(name):
    _, data = packed(64, 16)
    backbone = {"name": name, **SMALL[name]}
    config = Model(backbone=backbone, dim=8, tower_units=towers_of(name))
    model = MultiTaskModel.build_from(ADS, data.table_rows, config)
    before = cost_of(model)
    assert min(before.pair, before.user + before.pair) > 0
    assert (before.ad > 0) == (name == "two_tower")
    if not towers_of(name):
        return
    wider = Model(backbone=backbone, dim=8, tower_units=(9,))
    after = cost_of(MultiTaskModel.build_from(ADS, data.table_rows, wider))
    # One more unit in every task's tower: a column of weights below it and one weight above.
    heads = model.heads.tasks
    below = sum(model.heads.towers[task].dense[0].kernel.shape[0] for task in heads)
    assert after.pair - before.pair == below + len(heads)


def test_a_function_inside_the_graph_is_refused_rather_than_passed_over():
    model = build(TWO_TOWER)
    inner = tf.function(lambda x: tf.matmul(x, tf.ones([12, 4])))
    own = model.backbone.ad.call
    model.backbone.ad.call = lambda fields, training=False: (
        own(fields) + 0 * tf.reduce_sum(inner(tf.ones([1, 12]) * tf.reduce_sum(fields)))
    )
    with pytest.raises(NotImplementedError, match="is not counted"):
        cost_of(model)
