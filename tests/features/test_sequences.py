"""Which events a row keeps, their ids, and the vocabulary that they share with the row's values."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.histories import problem, rows
from tfmtl.data.types import ABSENT
from tfmtl.declare.columns import FIRST, MISSING, PADDING, UNKNOWN
from tfmtl.declare.layout import layout_of, tables_of
from tfmtl.declare.problem import ProblemSpec, binary, categorical, event, sequence
from tfmtl.errors import DataError, SpecError
from tfmtl.features.encode import encode
from tfmtl.features.events import age_bounds, kept_events
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import NO_INTEGER

CTR = binary("ctr", label="click")


def history(**changes):
    settings = {
        "events": (event("clicked", of="ad"), event("action", encoding="identity", size=4)),
        "order": "oldest_first",
        "time": "at",
        "row_time": "now",
        "max_length": 3,
    }
    settings |= changes
    if settings["time"] is None:
        settings["row_time"] = None
    return sequence("h", **settings)


def spec(**changes):
    features = (categorical("ad", side="ad"), history(**changes))
    return ProblemSpec(features=features, tasks=(CTR,))


ROWS = {
    "ad": ["x", "y", "x", "z"],
    "clicked": ["x|y|z|w|v", "", "x||h", "k|x"],
    "action": ["0|1|2|3|0", "", "1|2|", "1|9"],
    "at": ["1|2|3|4|200", "", "5|6|7", "9|8"],
    "now": [100, 100, 7, 300],
    "click": [1, 0, 1, 0],
}


def packed_of(problem, columns=ROWS):
    preprocessor = Preprocessor(problem)
    return preprocessor, preprocessor.fit(columns)


def events_of(preprocessor, packed, row):
    """The leading values of a row in packed order."""
    tokens = preprocessor._fitted.state["vocabulary/ad"]
    ids = packed["ids_user"].numpy()[row, :3]
    return [tokens[i - FIRST].decode() for i in ids if i >= FIRST]


def test_the_newest_events_are_kept_newest_first_and_what_is_too_late_is_cut_before():
    preprocessor, packed = packed_of(spec())
    assert events_of(preprocessor, packed, 0) == ["w", "z", "y"]


def test_an_event_at_the_rows_own_time_is_too_late_and_a_gap_moves_the_cut():
    preprocessor, packed = packed_of(spec())
    assert events_of(preprocessor, packed, 2) == ["x"]
    preprocessor, packed = packed_of(spec(gap=2))
    assert events_of(preprocessor, packed, 2) == []


def test_late_events_are_kept_where_declared_and_refused_with_an_example():
    preprocessor, packed = packed_of(spec(late="keep"))
    assert events_of(preprocessor, packed, 0) == ["v", "w", "z"]
    message = r"2 events in 2 rows .*first in row 1: 'v' at at=200, the row's own now=100"
    with pytest.raises(DataError, match=message):
        packed_of(spec(late="refuse"))


def test_lists_are_sorted_by_time_and_without_times_their_order_is_believed():
    preprocessor, packed = packed_of(spec())
    assert events_of(preprocessor, packed, 3) == ["k", "x"]
    for order, expected in (("oldest_first", ["h", "x"]), ("newest_first", ["x", "h"])):
        preprocessor, packed = packed_of(spec(time=None, order=order))
        # The gap is closed.
        assert events_of(preprocessor, packed, 2) == expected


def test_missing_empty_and_gaps_alone_are_the_same_empty_history():
    columns = {k: [v[0]] * 3 for k, v in ROWS.items()}
    columns |= {
        "clicked": [None, "", "||"],
        "action": [None, "", "1|2|3"],
        "at": [None, "", "1|2|3"],
    }
    _, packed = packed_of(spec(), columns)
    np.testing.assert_array_equal(packed["ids_user"], PADDING)


def test_a_gap_in_another_column_is_a_missing_value_and_an_unknown_one_unknown():
    _, packed = packed_of(spec(time=None))
    actions = packed["ids_user"].numpy()[:, 3:6]
    np.testing.assert_array_equal(actions[2], [MISSING, FIRST + 1, PADDING])
    np.testing.assert_array_equal(actions[3], [UNKNOWN, FIRST + 1, PADDING])


def test_a_history_renumbers_no_value_of_the_feature_and_its_own_values_follow():
    features = (categorical("ad", side="ad"),)
    alone, _ = packed_of(ProblemSpec(features=features, tasks=(CTR,)))
    joint, packed = packed_of(spec())
    before = alone._fitted.state["vocabulary/ad"]
    after = joint._fitted.state["vocabulary/ad"]
    np.testing.assert_array_equal(after[: len(before)], before)
    # Only values of kept events: `v` and `h` were too late.
    assert set(after[len(before) :]) == {b"w", b"k"}
    assert joint.table_rows() == {"ad": FIRST + 5, "h/action": FIRST + 4}
    # A value that only histories held in training has its row where it is the row's own.
    served = joint({**ROWS, "ad": ["w"] * 4})
    assert (served["ids_ad"].numpy() == FIRST + list(after).index(b"w")).all()


def test_plain_features_share_a_vocabulary_and_a_table_too():
    features = (categorical("ad", side="ad"), categorical("last", of="ad", side="user"))
    problem = ProblemSpec(features=features, tasks=(CTR,))
    columns = {"ad": ["x", "y"], "last": ["y", "q"], "click": [0, 1]}
    preprocessor, packed = packed_of(problem, columns)
    assert packed["ids_user"].numpy().ravel().tolist()[0] == packed["ids_ad"].numpy().ravel()[1]
    assert preprocessor.table_rows() == {"ad": FIRST + 3}
    assert [t.name for t in tables_of(problem)] == ["ad"]


def test_ages_are_exact_buckets_and_missing_where_the_row_has_no_time():
    bounds = age_bounds("s")
    ages = np.array([1, 59, 60, 179, 180, int(bounds[-1]), int(bounds[-1]) + 10**12])
    feature = dataclasses.replace(
        history(max_length=10),
        events=(event("clicked", encoding="identity", size=9),),
    )
    columns = {
        "clicked": tf.zeros([2, len(ages)], tf.int64),
        "at": tf.constant(2 * 10**9 - ages[None].repeat(2, 0)),
        "now": tf.constant([2 * 10**9, NO_INTEGER]),
    }
    ids = kept_events(feature, columns).ages.numpy()
    np.testing.assert_array_equal(ids[0, :7] - FIRST, [0, 0, 1, 1, 2, 31, 31])
    np.testing.assert_array_equal(ids[1, :7], MISSING)
    assert (ids[:, 7:] == PADDING).all()


def test_times_in_milliseconds_are_compared_exactly():
    now = 1_700_000_000_123
    columns = {k: v[:2] for k, v in ROWS.items()} | {
        "clicked": ["x|y", "x|y"],
        "action": ["0|1", "0|1"],
        "at": [f"{now - 2}|{now - 1}", f"{now - 1}|{now}"],
        "now": [now, now],
    }
    preprocessor, packed = packed_of(spec(time_unit="ms"), columns)
    assert events_of(preprocessor, packed, 0) == ["y", "x"]
    assert events_of(preprocessor, packed, 1) == ["x"]


def test_shifting_all_times_by_a_constant_changes_nothing():
    columns = rows(60)
    later = {
        **columns,
        "now": columns["now"] + 10**7,
        "clicked_times": [[t + 10**7 for t in times] for times in columns["clicked_times"]],
    }
    first, second = (Preprocessor(problem()).fit(c)["ids_user"] for c in (columns, later))
    np.testing.assert_array_equal(first, second)


def test_an_older_event_beyond_the_longest_history_changes_nothing():
    columns = rows(60)
    full = [len(h) >= 5 for h in columns["clicked_ads"]]
    longer = dict(columns)
    for name, value in (
        ("clicked_ads", "a1"),
        ("clicked_categories", "c1"),
        ("clicked_actions", 0),
        ("clicked_times", 5),
    ):
        longer[name] = [[value] + h if f else h for h, f in zip(columns[name], full, strict=True)]
    first, second = (Preprocessor(problem()).fit(c)["ids_user"] for c in (columns, longer))
    np.testing.assert_array_equal(first, second)


def test_text_lists_sparse_and_ragged_columns_give_equal_ids():
    preprocessor, expected = packed_of(spec())
    for kind in ("lists", "ragged", "sparse", "dense"):
        columns = dict(ROWS)
        for name, dtype in (("clicked", str), ("action", int), ("at", int)):
            absent = ABSENT["string"] if dtype is str else NO_INTEGER
            parts = [
                [dtype(v) if v else absent for v in t.split("|")] if t else [] for t in ROWS[name]
            ]
            ragged = tf.ragged.constant(parts, tf.string if dtype is str else tf.int64)
            columns[name] = {
                "lists": parts,
                "ragged": ragged,
                "sparse": ragged.to_sparse(),
                "dense": ragged.to_tensor(absent),
            }[kind]
        np.testing.assert_array_equal(preprocessor(columns)["ids_user"], expected["ids_user"], kind)


def test_rows_in_memory_and_the_graph_keep_the_same_events():
    """The flat rule cuts rows in memory; `encode` alone has to give the same."""
    for changes in (
        {},
        {"order": "newest_first"},
        {"time": None, "row_time": None},
        {"late": "keep"},
    ):
        declared = problem(**changes)
        columns = rows(80)
        preprocessor = Preprocessor(declared)
        expected = preprocessor.fit(columns)
        raw = {}
        for name, column in declared.feature_columns().items():
            if column.whole:
                raw[name] = tf.ragged.constant(
                    columns[name], tf.string if column.dtype == "string" else tf.int64
                )
            else:
                raw[name] = tf.constant(columns[name], column.dtype)
        packed = encode(declared, raw, preprocessor._fitted)
        np.testing.assert_array_equal(packed["ids_user"], expected["ids_user"])


def test_columns_of_unequal_length_are_refused_with_both_names_and_lengths():
    columns = {**ROWS, "action": ["0|1|2", "", "1|2|", "1|9"]}
    with pytest.raises(
        DataError, match=r"row 1: column 'clicked' has 5 values and column 'action' has 3"
    ):
        packed_of(spec(), columns)


def test_the_layout_has_a_slot_per_event_and_one_of_ages():
    declared = problem()
    (slots,) = layout_of(declared).sequences
    assert slots.width == 5 * 4 and slots.columns(1) == slice(slots.start + 5, slots.start + 10)
    assert ProblemSpec.from_json(json.loads(json.dumps(declared.to_json()))) == declared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": (event("x", of="adx"),)}, "of='adx' is no categorical .* Did you mean 'ad'"),
        ({"events": ()}, r"declares no column"),
        ({"events": (event("x", of="ad"), event("x", of="ad"))}, "'x' is named twice"),
        ({"order": "old"}, "order='old' is none of"),
        ({"row_time": None}, r"give row_time=, or ProblemSpec\(time"),
        ({"search": "action"}, "search='action' is no event column with of="),
        ({"max_length": 0}, "max_length=0 must be a whole number, at least 1|at least 1"),
        ({"late": "ignore"}, "late='ignore' is none of"),
    ],
)
def test_a_contradiction_in_a_sequence_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        spec(**changes)


def test_what_of_decides_is_not_given_again():
    with pytest.raises(SpecError, match="size=8 is given beside of='ad'"):
        event("clicked", of="ad", size=8)
    with pytest.raises(SpecError, match="dim=8 is given beside of='ad'"):
        categorical("last", of="ad", dim=8)
