import json

import numpy as np
import pyarrow as pa
import pytest

from tfmtl.data.checks import Checks
from tfmtl.data.sampling import IdSet, RowSample
from tfmtl.data.splits import assign, columns_to_read
from tfmtl.data.table import read_table
from tfmtl.data.types import arrow_schema
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.declare.split import by_column, by_hash, by_row_number, by_time
from tfmtl.errors import DataError, SpecError

ROWS = 2000


def problem(features=(), tasks=None, **context):
    tasks = tasks or (
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
    )
    return ProblemSpec(
        features=(categorical("ad"), numerical("price"), *features), tasks=tasks, **context
    )


def clean(**changes):
    random = np.random.default_rng(3)
    click = (random.random(ROWS) < 0.4).astype(np.float32)
    data = {
        "ad": [f"a{i}" for i in random.integers(0, 50, ROWS)],
        "price": random.normal(size=ROWS).astype(np.float32),
        "click": click,
        "conversion": click * (random.random(ROWS) < 0.3).astype(np.float32),
    }
    return {**data, **changes}


def check(spec, data, split=None, *, batch_rows=300, **arguments):
    split = split or by_row_number()
    schema = arrow_schema(columns_to_read(spec, split))
    arrays = [pa.array(data[f.name], from_pandas=True).cast(f.type) for f in schema]
    checks = Checks(spec, split, **arguments)
    for batch in pa.Table.from_arrays(arrays, schema=schema).to_batches(batch_rows):
        checks.update(batch, assign(split, batch, checks.rows_seen))
    return checks.finish()


def fails(spec, data, split=None, **arguments):
    with pytest.raises(DataError) as error:
        check(spec, data, split, **arguments)
    return str(error.value)


def test_clean_rows_pass_and_are_counted_per_split_and_task():
    data = clean()
    report = check(problem(), data)
    assert report.rows == {"train": 1200, "validation": 400, "test": 400}
    assert report.warnings == [] and report.errors == []
    train = np.arange(ROWS) % 10 < 6
    clicks = int(data["click"][train].sum())
    assert report.tasks["ctr"]["train"] == {
        "observed": 1200,
        "positives": clicks,
        "negatives": 1200 - clicks,
    }
    assert report.tasks["cvr"]["train"]["observed"] == clicks
    assert json.loads(report.to_json())["rows"] == report.rows
    assert report.summary()[0] == "rows: train 1,200, validation 400, test 400"
    assert f"train {clicks:,} of 1,200 positive" in report.summary()[1]


@pytest.mark.parametrize("side, value", [("positives", 0.0), ("negatives", 1.0)])
def test_a_task_without_positives_or_negatives_in_train_is_an_error(side, value):
    message = fails(problem(), clean(click=np.full(ROWS, value), conversion=np.zeros(ROWS)))
    assert f"task 'ctr' has no {side}: label 'click' has none among 1,200 observed rows" in message


def test_a_task_without_positives_in_its_own_space_is_an_error():
    message = fails(problem(), clean(conversion=np.zeros(ROWS)))
    assert message.startswith("task 'cvr' has no positives")
    assert "(@click) of train" in message and "\n" not in message


def test_a_task_without_positives_in_test_alone_is_a_warning():
    data = clean()
    data["conversion"][np.arange(ROWS) % 10 >= 8] = 0
    assert [w for w in check(problem(), data).warnings if "no positives" in w and "of test" in w]


def test_a_text_label_whose_positive_never_occurs_shows_its_values():
    tasks = (binary("buy", label="bought", positive="Yes"),)
    message = fails(problem(tasks=tasks), clean(bought=["yes", "no"] * (ROWS // 2)))
    assert "Its values are ['no', 'yes']; positive='Yes' is none of them." in message
    assert "Did you mean 'yes'?" in message


def test_a_label_among_the_features_is_refused_by_the_declaration():
    with pytest.raises(SpecError, match="would leak the answer"):
        problem(features=(numerical("click"),))


def test_a_feature_that_equals_a_label_in_every_row_is_an_error():
    tasks = (binary("ctr", label="click"), regression("spend", label="spend"))
    spend = np.arange(ROWS, dtype=np.float32) % 7
    copied = problem(features=(categorical("amount"),), tasks=tasks)
    message = fails(copied, clean(spend=spend, amount=[str(int(s)) for s in spend]))
    assert "feature 'amount' equals label 'spend' in all 2,000 rows" in message
    almost = [str(int(s)) for s in spend]
    almost[-1] = "99"
    assert check(copied, clean(spend=spend, amount=almost)).errors == []


def test_conversions_without_clicks_are_counted_and_dropped_only_where_asked():
    data = clean()
    data["conversion"][np.flatnonzero(data["click"] == 0)[:7]] = 1
    report = check(problem(), data)
    assert report.contradictions == {"conversion without click": 7} and report.dropped == 0
    assert sum(report.rows.values()) == ROWS
    assert (
        "7 rows have conversion without click (kept; drop_if=('click', 'conversion')"
        in (report.warnings[0])
    )
    report = check(problem(drop_if=("click", "conversion")), data)
    assert report.dropped == 7 and sum(report.rows.values()) == ROWS - 7
    assert "(dropped, as drop_if says)" in report.warnings[0]


def test_a_number_that_alone_orders_the_label_is_an_error_in_either_direction():
    data = clean()
    for sign in (1, -1):
        late = (sign * data["click"] * 5 + np.random.default_rng(0).random(ROWS)).astype("f4")
        message = fails(problem(features=(numerical("late"),)), {**data, "late": late})
        assert "feature 'late' alone gives task 'ctr' an AUC of 1.00000" in message
        assert "(@imp)" in message


def test_a_number_missing_exactly_where_the_label_is_negative_is_an_error():
    data = clean()
    late = np.where(data["click"] > 0, np.random.default_rng(0).random(ROWS), np.nan)
    assert "'late' alone" in fails(problem(features=(numerical("late"),)), {**data, "late": late})


def test_a_category_that_alone_orders_the_label_on_its_own_space_is_an_error():
    # Among clicked rows alone the status tells the conversion; among all it does not.
    data = clean()
    status = np.where(data["conversion"] > 0, "paid", "open")
    status = np.where(
        data["click"] > 0, status, np.random.default_rng(0).choice(["paid", "open"], ROWS)
    )
    message = fails(problem(features=(categorical("status"),)), {**data, "status": status})
    assert "feature 'status' alone gives task 'cvr' an AUC of" in message and "(@click)" in message
    assert "'ctr'" not in message


def test_a_list_whose_length_tells_the_label_is_an_error():
    data = clean()
    tags = [["t"] * (2 if c else 1) for c in data["click"]]
    spec = problem(features=(categorical("tags", max_values=4),))
    assert "'tags' alone" in fails(spec, {**data, "tags": tags})


def test_an_id_of_its_own_in_every_row_is_no_leak():
    data = clean(row=[f"r{i}" for i in range(ROWS)])
    assert check(problem(features=(categorical("row"),)), data).errors == []


def test_a_constant_and_a_strong_but_honest_feature_are_no_leak():
    data = clean()
    strong = data["click"] + np.random.default_rng(0).normal(size=ROWS) * 0.4
    spec = problem(features=(numerical("strong"), categorical("same")))
    assert check(spec, {**data, "strong": strong, "same": ["x"] * ROWS}).errors == []


def test_requests_cut_apart_by_a_split_are_an_error():
    data = clean(request=[f"r{i // 4}" for i in range(ROWS)], day=np.arange(ROWS).astype(str))
    spec = problem(request_id="request", time="day")
    split = by_time("day", validation_from=1001, test_from=1600)
    message = fails(spec, data, split)
    assert message == (
        "1 of 150 requests of validation stand in train too: splitting by time cuts requests "
        "('request') apart. Split by_hash('request'), or at bounds between them."
    )
    assert check(spec, data, by_time("day", validation_from=1000, test_from=1600)).errors == []
    assert check(spec, data, by_hash("request")).shared == {}


def test_users_in_two_splits_are_told_but_are_no_error():
    report = check(problem(user_id="user"), clean(user=[f"u{i % 100}" for i in range(ROWS)]))
    # User u and row number r agree modulo 10, so none is shared; modulo 7 all are.
    assert report.shared == {}
    report = check(problem(user_id="user"), clean(user=[f"u{i % 7}" for i in range(ROWS)]))
    assert report.shared["user: train and test"] == 7 and report.warnings == []


def test_an_empty_split_is_an_error():
    data = clean(part=["train", "test"] * (ROWS // 2))
    message = fails(problem(), data, by_column("part"))
    assert message.startswith("split 'validation' is empty: by_column('part') put none of the")


def test_a_feature_without_values_in_train_is_an_error_and_elsewhere_a_warning():
    message = fails(problem(), clean(price=np.full(ROWS, np.nan)))
    assert message == (
        "feature 'price' has no value in any of 1,200 rows of train: column 'price' is empty. "
        "Remove it, or fill it in."
    )
    data = clean()
    data["price"][np.arange(ROWS) % 10 >= 8] = np.nan
    report = check(problem(), data)
    assert len(report.warnings) == 1 and "of test" in report.warnings[0]
    data["price"][0] = np.nan
    assert check(problem(), data).missing == {"ad": 0, "price": 1}


def test_labels_and_weights_of_wrong_range_are_named_by_row_and_value():
    data = clean(w=np.ones(ROWS), y=np.arange(ROWS) % 3.0)
    data["click"][4] = 2
    data["w"][6] = -1
    data["y"][8] = np.inf
    tasks = (binary("ctr", label="click", weight="w"), regression("y", label="y"))
    assert fails(problem(tasks=tasks), data).splitlines() == [
        "the data are not fit for training:",
        "- label 'click' of task 'ctr': 1 values of a binary label are neither 0 nor 1, first in "
        "row 5 (2).",
        "- weight 'w' of task 'ctr': 1 values are negative or infinite, first in row 7 (-1).",
        "- label 'y' of task 'y': 1 values are not finite, first in row 9 (inf).",
    ]


def test_soft_labels_lie_between_0_and_1():
    soft = (binary("ctr", label="teacher", soft=True),)
    teacher = np.random.default_rng(0).random(ROWS)
    assert check(problem(tasks=soft), clean(teacher=teacher)).errors == []
    teacher[0] = 1.5
    assert "lie outside [0, 1], first in row 1 (1.5)" in fails(
        problem(tasks=soft), clean(teacher=teacher)
    )


def test_a_regression_label_that_never_changes_is_an_error():
    tasks = (regression("q", label="q"),)
    assert "label 'q' is 3 in all 1,200 observed rows" in fails(
        problem(tasks=tasks), clean(q=np.full(ROWS, 3.0))
    )


def test_an_infinite_number_is_an_error():
    data = clean()
    data["price"][10] = -np.inf
    assert "column 'price': 1 values are infinite, first in row 11 (-inf)" in fails(problem(), data)


def test_missing_labels_and_cut_lists_are_warnings():
    data = clean(tags=[["a", "b", "c"]] * 5 + [["a"]] * (ROWS - 5))
    data["click"][:3] = np.nan
    data["conversion"][:3] = 0
    report = check(problem(features=(categorical("tags", max_values=2),)), data)
    assert report.warnings == [
        "label 'click' of task 'ctr': 3 rows have no value, first in row 1.",
        "column 'tags': 5 lists are longer than max_values=2 and are cut off, first in row 1.",
    ]
    assert sum(t["observed"] for t in report.tasks["ctr"].values()) == ROWS - 3


def test_batches_of_any_size_give_one_report():
    data = clean(request=[f"r{i // 4}" for i in range(ROWS)])
    spec = problem(request_id="request")
    whole, parts = (check(spec, data, by_hash("request"), batch_rows=n) for n in (ROWS, 37))
    assert whole == parts


def test_a_leak_is_found_in_a_sample():
    data = clean()
    late = data["click"] * 5 + np.random.default_rng(0).random(ROWS)
    spec = problem(features=(numerical("late"),))
    assert "'late' alone" in fails(spec, {**data, "late": late}, sample_rows=200, batch_rows=50)


def test_a_sample_is_bounded_uniform_and_independent_of_batches():
    def sample(step):
        kept = RowSample(1000)
        for start in range(0, 20000, step):
            numbers = np.arange(start, start + step)
            kept.add(pa.RecordBatch.from_pydict({"n": numbers}), numbers)
        return kept.table()["n"].to_numpy()

    first = sample(500)
    assert len(first) == 1000
    np.testing.assert_array_equal(np.sort(first), np.sort(sample(4000)))
    np.testing.assert_allclose(np.bincount(first // 5000) / 1000, 0.25, atol=0.05)


def test_an_id_set_counts_each_id_once():
    first, second = IdSet(), IdSet()
    for part in np.split(np.arange(100, dtype=np.uint64), 10):
        first.add(part)
        first.add(part[:5])
        second.add(part[::2])
    assert len(first.ids()) == 100 and first.shared_with(second) == 50


def test_read_table_returns_checked_splits_with_folds(tmp_path):
    data = clean(request=[f"r{i // 4}" for i in range(ROWS)])
    lines = [",".join(map(str, row)) for row in zip(*data.values(), strict=True)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(data), *lines]) + "\n")
    tables = read_table(str(path), problem(request_id="request"))
    assert sum(t.num_rows for t in tables.values()) == ROWS
    requests = {name: set(t["request"].to_pylist()) for name, t in tables.items()}
    assert not requests["train"] & requests["test"]
    assert min(tables["train"]["_fold"].to_pylist()) >= 0
    assert set(tables["test"]["_fold"].to_pylist()) == {-1}
    with pytest.raises(DataError, match="requests of test stand in"):
        day = by_column(
            "ad",
            train=[f"a{i}" for i in range(40)],
            validation=["a40"],
            test=[f"a{i}" for i in range(41, 50)],
        )
        read_table(str(path), problem(request_id="request"), split=day)
