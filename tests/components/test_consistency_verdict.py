"""The sentences of a verdict on replayed recall."""

from types import SimpleNamespace

import pytest

from components.consistency_verdict import _falls
from tfmtl.metrics.bootstrap import Interval

NOW = SimpleNamespace(
    overall=SimpleNamespace(metrics={"soft_recall@5": SimpleNamespace(value=0.7)})
)


def test_a_fall_is_said_as_a_positive_number_with_its_interval_in_order():
    reason = _falls("soft_recall@5", NOW, Interval(-0.1, -0.15, -0.02), 0.05)
    assert reason.sentence == (
        "soft_recall@5 is 0.7000: it fell by 0.1000 [0.0200, 0.1500] against the last blessed "
        "model (0.8000), more than 0.05"
    )
    assert reason.baseline == pytest.approx(0.8)


@pytest.mark.parametrize("difference", [0.2, 0.0, -0.05, float("nan")])
def test_a_rise_and_a_fall_that_is_allowed_are_no_reason(difference):
    assert _falls("soft_recall@5", NOW, Interval(difference, -1.0, 1.0), 0.05) is None
