"""Rows whose labels were made up train, and judge nothing."""

import numpy as np

from tests.few_shot.test_cold_start import FAST, model_of, world
from tfmtl.declare.layout import LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.features.rows import ArrayRows
from tfmtl.few_shot.cold_start import cold_start


def test_pseudo_labelled_rows_are_not_judged():
    rows, groups = world()
    made_up = np.random.default_rng(5).random(rows[LABELS].shape) < 0.4
    # Far from the truth, so that a single one of them would show.
    labels = np.where(made_up, 1 - rows[LABELS], rows[LABELS]).astype(np.float32)
    judged = {**rows, LABELS: labels, PSEUDO: made_up.astype(np.float32)}
    without = {**rows, LABELS: labels, WEIGHTS: np.where(made_up, 0, 1).astype(np.float32)}
    model = model_of()
    one, other = (
        cold_start(model, ArrayRows(packed), groups, meta=Meta(inner_rate=0.1), ks=(0,), **FAST)
        for packed in (judged, without)
    )
    assert one.metrics == other.metrics
    for metric in one.metrics:
        (found,), (expected,) = (report.curve(metric, None) for report in (one, other))
        assert repr(found.value) == repr(expected.value), metric
