"""AITM and MAN presume an order of tasks: what declares it, and what is said where nothing does."""

import pytest
import tensorflow as tf

from tfmtl.backbones import AITM, MAN
from tfmtl.declare.conversions import follows, loose_links
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel

AD = categorical("ad", encoding="identity", size=9)
FOUR = ProblemSpec(
    features=(AD,),
    tasks=tuple(binary(name, label=name) for name in ("click", "buy", "like", "share")),
    drop_if=("click", "buy"),
)
FUNNEL = ProblemSpec(
    features=(AD,),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="buy", observed_if="click"),
        binary("ctcvr", label="buy"),
    ),
)


def warned(caplog, backbone, problem):
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        backbone.check(problem, ())
    return caplog.text


def test_an_order_is_declared_by_a_space_by_a_third_task_or_by_drop_if():
    assert follows(FUNNEL, "ctr", "cvr") and follows(FUNNEL, "ctr", "ctcvr")
    assert not follows(FUNNEL, "ctcvr", "ctr")
    assert loose_links(FUNNEL, FUNNEL.task_names) == ()
    assert loose_links(FOUR, FOUR.task_names) == (("buy", "like"), ("like", "share"))


@pytest.mark.parametrize("make", [AITM, lambda t: MAN(t, expert_units=((4,),))])
def test_tasks_that_do_not_follow_each_other_are_warned_of(make, caplog):
    text = warned(caplog, make(FOUR.task_names), FOUR)
    assert "nothing" in text and "'like' needs 'buy'" in text
    assert warned(caplog, make(FUNNEL.task_names), FUNNEL) == ""


def test_a_declared_chain_is_not_warned_of(caplog):
    assert warned(caplog, AITM(FOUR.task_names, chain=("click", "buy")), FOUR) == ""


def test_a_task_outside_the_chain_is_its_bottom_and_no_order_is_asked_of_it():
    config = Model(
        backbone={"name": "aitm", "chain": ("click", "buy"), "bottom_units": (4,)}, dim=4
    )
    model = MultiTaskModel.build_from(FOUR, {"ad": 11}, config)
    fields = tf.random.stateless_normal([3, 1, 4], seed=(0, 1))
    aitm = model.backbone
    representations = aitm(fields)
    for task in ("click", "like", "share"):
        expected = aitm.bottoms[task](tf.reshape(fields, [3, 4]))
        tf.debugging.assert_equal(representations[task], expected)
    assert set(aitm.passes) == {"click"} and set(aitm.transfers) == {"buy"}
    (term,) = model.terms
    assert term.pairs == (("click", "buy"),)


@pytest.mark.parametrize(
    ("chain", "words"),
    [(("click", "by"), "Did you mean 'buy'"), (("click",), "two tasks"), (("buy", "buy"), "once")],
)
def test_a_chain_of_no_tasks_is_refused(chain, words):
    with pytest.raises(SpecError, match=words):
        AITM(FOUR.task_names, chain=chain)
