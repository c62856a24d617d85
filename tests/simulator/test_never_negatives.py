"""A log that says 0 where nobody saw the ad: what a declaration makes of it, trained for real."""

import pyarrow.compute as pc
import pytest

from benchmarks.papers.early_stage import arms as arms
from tfmtl.declare import early_stage
from tfmtl.declare.problem import binary
from tfmtl.simulator import Funnel, consolidated_log, draw_world, logging_policy

REQUESTS, TEST, SEED = 6_000, 1_000, 3
SIZES = arms.Sizes(requests=REQUESTS, test=TEST, online=0, epochs=2)
RIGHT = early_stage.tasks(teacher="none")
# The mutant: every row's click counts.
NAIVE = (binary("ctr", label="click", observed_if="ctr_traffic"), RIGHT[1])


def no_click(log):
    """The log with clicks of 0 where there was no impression, as a careless join writes it."""
    index = log.column_names.index("click")
    return log.set_column(index, "click", pc.fill_null(log["click"], 0))


@pytest.fixture(scope="module")
def logs():
    world = draw_world(SEED, days=arms.DAYS, constants=arms.world_constants())
    policy = logging_policy(world, seed=SEED)
    where = {"seed": SEED, "keep_early": 0.06}
    train = consolidated_log(
        world, Funnel(), policy, requests=REQUESTS, days=arms.TRAIN_DAYS + 1, **where
    )
    test = consolidated_log(
        world,
        Funnel(),
        policy,
        requests=TEST,
        first_request=REQUESTS,
        days=1,
        first_day=arms.TRAIN_DAYS + 1,
        **where,
    )
    return no_click(train), no_click(test)


def measured(logs, tasks):
    train, test = logs
    recipe = arms.Recipe(tasks=tasks)
    prepared = arms._prepare(train, recipe)
    model = arms._train(recipe, prepared, SEED, SIZES)
    return arms._offline(model, prepared.preprocessor, test)


@pytest.mark.slow
def test_ads_that_were_not_shown_are_no_negatives_unless_declared_so(logs):
    right, naive = (measured(logs, tasks) for tasks in (RIGHT, NAIVE))
    assert 0.8 < right["calibration@not_shown"] < 1.25
    assert naive["calibration@not_shown"] < 0.4 * right["calibration@not_shown"]
    # Nor does what was shown keep its rate among so many false negatives.
    assert right["ne@imp"] < naive["ne@imp"]
