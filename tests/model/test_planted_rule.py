"""A rule that only a pooling which compares events with the target can learn.

A history holds ten categories, half of them liked and half disliked; a click is likely if the
matching event was a like. Sums over columns do not say which action went with which category.
"""

import numpy as np
import pyarrow as pa
import pytest

from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, event, sequence
from tfmtl.declare.split import by_row_number
from tfmtl.features.prepare import prepare
from tfmtl.run import train

CATEGORIES, LENGTH = 50, 10


def log(rows, seed):
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(CATEGORIES), (rows, 1)), axis=1)[:, :LENGTH]
    actions = rng.permuted(np.tile(np.arange(LENGTH) % 2, (rows, 1)), axis=1)
    chosen = rng.integers(0, LENGTH, rows)
    liked = actions[np.arange(rows), chosen] == 1
    return pa.table(
        {
            "category": order[np.arange(rows), chosen],
            "past_categories": order.tolist(),
            "past_actions": actions.tolist(),
            "click": (rng.random(rows) < np.where(liked, 0.9, 0.1)).astype(np.float32),
        }
    )


def auc_of(pooling, seed=0, rows=30_000):
    problem = ProblemSpec(
        features=(
            categorical("category", side="ad", encoding="identity", size=CATEGORIES),
            sequence(
                "past",
                events=(
                    event("past_categories", of="category"),
                    event("past_actions", encoding="identity", size=2),
                ),
                order="oldest_first",
                max_length=LENGTH,
                pooling=pooling,
            ),
        ),
        tasks=(binary("ctr", label="click"),),
    )
    table = log(rows, seed)
    cuts = [0, int(0.8 * rows), int(0.9 * rows), rows]
    names = ("train", "validation", "test")
    tables = {n: table.slice(a, b - a) for n, a, b in zip(names, cuts, cuts[1:], strict=False)}
    prepared = prepare(problem, tables)
    experiment = ExperimentConfig(
        name="planted",
        problem=problem,
        split=by_row_number(),
        model=Model(
            backbone={"name": "shared_bottom", "bottom_units": (64,)}, dim=16, tower_units=(32,)
        ),
        training=Training(epochs=15, batch_size=256, learning_rate=5e-3, patience=4, seed=seed),
    )
    model = train(experiment, prepared.data, verbose=0).model
    return model.evaluate(prepared.test.batches(4096))["ctr/auc@imp"]


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["din", "target_attention", "bst"])
def test_a_pooling_that_compares_with_the_target_learns_the_rule(pooling):
    assert max(auc_of(pooling, seed) for seed in (0, 1)) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_a_pooling_of_columns_alone_is_at_chance(pooling):
    assert abs(auc_of(pooling) - 0.5) < 0.03
