"""Tasks to meta-train on: disjoint halves, every row once, groups of one value."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import ArrayRows, FileRows
from tfmtl.meta.tasks import OBJECTIVES, QUERY, SUPPORT, ids_of, tasks_of

COUNT = 530
# Advertisers 1 to 5 have 200, 100, 90, 60 and 50 rows, the other thirty one each.
SIZES = [200, 100, 90, 60, 50, *[1] * 30]
PROBLEM = ProblemSpec(
    features=(
        categorical("row", encoding="identity", size=COUNT),
        categorical("advertiser", encoding="identity", size=len(SIZES), side="ad"),
        numerical("price", side="ad"),
    ),
    tasks=tuple(binary(name, label=name) for name in ("ctr", "like", "share")),
)


def rows(sizes=SIZES):
    """Rows that know their own number and their advertiser, in random order."""
    advertiser = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    np.random.default_rng(0).shuffle(advertiser)
    number = np.arange(len(advertiser))
    return ArrayRows(
        {
            "ids_context": number[:, np.newaxis],
            "ids_ad": advertiser[:, np.newaxis],
            "numbers_ad": number[:, np.newaxis].astype(np.float32),
            LABELS: np.zeros([len(number), 3], np.float32),
            WEIGHTS: np.ones([len(number), 3], np.float32),
        }
    )


def made(meta, given=None, batch_size=32):
    return tasks_of(PROBLEM, given or rows(), meta, batch_size=batch_size, objectives=3)


def steps(tasks, seed=0, skip=0):
    return list(tasks.batches(seed, skip).as_numpy_iterator())


def halves(step):
    """Of each task its support's and its query's observed rows, each as (numbers, advertisers)."""
    for task in range(len(step[OBJECTIVES])):
        yield [
            [step[half][name][task, step[half][WEIGHTS][task, :, 0] > 0, 0] for name in names]
            for half in (SUPPORT, QUERY)
            for names in [("ids_context", "ids_ad")]
        ]


SAMPLERS = pytest.mark.parametrize(
    "meta",
    [
        Meta(tasks="random", tasks_per_step=3),
        Meta(tasks="random", tasks_per_step=3, task_rows=7),
        Meta(tasks="objective", tasks_per_step=4),
        Meta(tasks="group:advertiser", tasks_per_step=2),
        Meta(tasks="group:advertiser", tasks_per_step=3, task_rows=2),
        Meta(tasks="group:advertiser", tasks_per_step=3, task_rows=14, min_rows=1),
        Meta(tasks="group:advertiser", tasks_per_step=1, task_rows=500, min_rows=40),
    ],
    ids=lambda meta: f"{meta.tasks}-{meta.task_rows}",
)


@SAMPLERS
def test_halves_share_no_row_and_a_pass_has_every_row_at_most_once(meta):
    tasks = made(meta)
    found = steps(tasks)
    assert len(found) == tasks.steps > 0
    seen = []
    for step in found:
        assert len(step[OBJECTIVES]) == meta.tasks_per_step
        for (support, _), (query, _) in halves(step):
            assert len(support) and abs(len(query) - len(support)) <= 1
            seen += [*support, *query]
    assert len(seen) == len(set(seen))
    largest = max(meta.task_rows or 32, 2 * meta.min_rows)
    assert len(seen) > COUNT - (meta.tasks_per_step + 1) * largest - len(SIZES)


@SAMPLERS
def test_a_seed_decides_and_what_is_skipped_is_the_beginning(meta):
    tasks = made(meta)
    whole, again = steps(tasks, seed=3), steps(tasks, seed=3)
    tf.nest.map_structure(np.testing.assert_array_equal, whole, again)
    for skip in (1, tasks.steps):
        rest = steps(tasks, seed=3, skip=skip)
        assert len(rest) == tasks.steps - skip
        tf.nest.map_structure(np.testing.assert_array_equal, whole[skip:], rest)
    other = steps(tasks, seed=4)[0][SUPPORT]["ids_context"]
    assert not np.array_equal(whole[0][SUPPORT]["ids_context"], other)


def test_a_task_of_a_group_has_one_value_but_for_the_small_ones_put_together():
    merged, sizes = 0, []
    for step in steps(made(Meta(tasks="group:advertiser", tasks_per_step=1, task_rows=70))):
        for (_, one), (_, other) in halves(step):
            values = {*one, *other}
            assert len(values) == 1 or min(values) > 5
            merged += len(values) > 1
            sizes.append(len(one) + len(other))
    # 200 rows are three tasks, 100 and 90 two each, 60 and 50 one, and thirty rows of one each.
    assert merged == 1 and sorted(sizes) == [30, 45, 45, 50, 50, 50, 60, 66, 67, 67]


@pytest.mark.parametrize(("min_rows", "own"), [(25, 5), (26, 4), (100, 1), (101, 0)])
def test_groups_with_fewer_rows_than_two_halves_need_are_put_together(min_rows, own):
    meta = Meta(tasks="group:advertiser", tasks_per_step=1, task_rows=1000, min_rows=min_rows)
    kinds = [
        len({*one, *other}) for step in steps(made(meta)) for (_, one), (_, other) in halves(step)
    ]
    assert sorted(kinds) == [*[1] * own, len(SIZES) - own]


def test_a_place_without_a_row_repeats_the_half_s_own_rows_unobserved():
    (step,) = steps(made(Meta(tasks="group:advertiser", tasks_per_step=6, task_rows=1000)))
    repeated = 0
    for half in (SUPPORT, QUERY):
        for task, weights in enumerate(step[half][WEIGHTS]):
            observed = weights[:, 0] > 0
            assert set(weights.ravel()) <= {0.0, 1.0} and (weights == weights[:, :1]).all()
            # The rows come first, and then again from the first one.
            length = observed.sum()
            assert observed[:length].all()
            for name in ("ids_context", "ids_ad", "numbers_ad"):
                values = step[half][name][task]
                np.testing.assert_array_equal(values, np.resize(values[:length], values.shape))
            repeated += len(observed) - length
    assert repeated > 1000


def test_without_a_number_of_rows_a_group_s_task_is_as_large_as_the_usual_group():
    def width(sizes, **settings):
        tasks = made(Meta(tasks="group:advertiser", tasks_per_step=1), rows(sizes), **settings)
        return 2 * steps(tasks)[0][SUPPORT][LABELS].shape[1]

    assert width([20] * 10 + [30, 40], batch_size=500) == 20
    assert width([21] * 10, batch_size=500) == 22
    # Never more than a batch, nor fewer than two halves of min_rows.
    assert width([20] * 10 + [300], batch_size=64) == 64
    assert width([18] * 10, batch_size=2) == 16


def test_three_objectives_in_turn_share_four_places_a_step_evenly():
    found = [step[OBJECTIVES] for step in steps(made(Meta(tasks="objective", tasks_per_step=4)))]
    turns = np.concatenate(found)
    assert (turns.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(turns[:3].sum(axis=0), [1, 1, 1])
    np.testing.assert_array_equal(np.concatenate(found[:3]).sum(axis=0), [4, 4, 4])
    every = steps(made(Meta(tasks="random")))[0][OBJECTIVES]
    assert every.shape == (4, 3) and every.all()


def test_a_feature_s_ids_are_found_among_those_of_its_own_side():
    found = ids_of(PROBLEM, rows(), "advertiser")
    assert np.bincount(found).tolist() == [0, *SIZES]
    np.testing.assert_array_equal(ids_of(PROBLEM, rows(), "row"), np.arange(COUNT))


@pytest.mark.parametrize(
    ("meta", "sizes", "message"),
    [
        (Meta(tasks_per_step=4), [7], "7 training rows do not make 4 tasks of two rows"),
        (Meta(tasks="group:advertiser", tasks_per_step=4), [20, 20], "2 groups and 2 tasks"),
        (Meta(tasks="group:advertiser", tasks_per_step=1), [1], "0 groups and 0 tasks"),
    ],
)
def test_too_few_rows_are_refused_by_their_number(meta, sizes, message):
    with pytest.raises(DataError, match=message):
        made(meta, rows(sizes))


def test_groups_are_not_gathered_from_files(tmp_path):
    files = FileRows(PROBLEM, [str(tmp_path / "rows")])
    with pytest.raises(DataError, match="give FileRows"):
        made(Meta(tasks="group:advertiser"), files)


@pytest.mark.parametrize("kind", ["random", "group:advertiser"])
def test_a_hidden_feature_is_unknown_on_every_row_and_no_other_is(kind):
    plain = made(Meta(tasks=kind, tasks_per_step=2))
    hiding = made(Meta(tasks=kind, tasks_per_step=2, hide=("advertiser",)))
    assert plain.steps == hiding.steps
    for seen, hidden in zip(steps(plain), steps(hiding), strict=True):
        for half in (SUPPORT, QUERY):
            assert not hidden[half]["ids_ad"].any() and seen[half]["ids_ad"].all()
            np.testing.assert_array_equal(hidden[half]["ids_context"], seen[half]["ids_context"])
            np.testing.assert_array_equal(hidden[half][WEIGHTS], seen[half][WEIGHTS])


def test_what_cannot_be_hidden_is_refused_by_its_name():
    with pytest.raises(SpecError, match="'price', which is no feature with ids"):
        Meta(hide=("price",)).check_problem(PROBLEM)
    with pytest.raises(SpecError, match="several names"):
        Meta(hide="advertiser")
