"""Values that parse and still go wrong: counted, and said with what would be right."""

import numpy as np
import pyarrow as pa
import pytest

from tfmtl.data.checks import Checks
from tfmtl.data.spellings import Spellings
from tfmtl.data.splits import assign, columns_to_read
from tfmtl.data.table import read_table
from tfmtl.data.types import arrow_schema
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.declare.split import by_row_number
from tfmtl.errors import DataError, SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.prepare import prepare

ROWS = 1000


def check(problem, **columns):
    random = np.random.default_rng(5)
    columns = {"click": random.integers(0, 2, ROWS).astype(np.float32), **columns}
    schema = arrow_schema(columns_to_read(problem, by_row_number()))
    arrays = [pa.array(columns[f.name], from_pandas=True).cast(f.type) for f in schema]
    checks = Checks(problem, by_row_number())
    for batch in pa.Table.from_arrays(arrays, schema=schema).to_batches(130):
        checks.update(batch, assign(by_row_number(), batch, checks.rows_seen))
    return checks.finish()


CTR = binary("ctr", label="click")


def problem(*features, tasks=(CTR,)):
    return ProblemSpec(features=features, tasks=tasks)


def test_files_with_7_and_with_7_0_are_warned_of_with_counts(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    random = np.random.default_rng(1)
    (tmp_path / "d").mkdir()
    for name, text in (("a", "{}"), ("b", "{}.0")):
        rows = [f"{text.format(u)},{random.integers(0, 2)}" for u in random.integers(0, 30, 400)]
        (tmp_path / "d" / f"{name}.csv").write_text("\n".join(["user,click", *rows]) + "\n")
    read_table(str(tmp_path / "d"), problem(categorical("user")))
    (line,) = [m for m in caplog.messages if "several ways" in m]
    assert line.startswith("warning: column 'user': 30 values are written in several ways, such as")
    assert "each way is an id of its own. Write them in one way." in line


@pytest.mark.parametrize(
    "one, other",
    [("7", "7.0"), ("7", "7."), ("True", "true"), ("1000", "1e3"), ("a", " a"), ("7", "+7")],
)
def test_every_second_spelling_of_a_value_is_found_with_both(one, other):
    report = check(problem(categorical("x")), x=[one, other, "b", "c"] * (ROWS // 4))
    (line,) = report.warnings
    assert (
        f"column 'x': 1 values are written in several ways, such as {one!r} and {other!r}" in line
    )


@pytest.mark.parametrize(
    "values", [("7.0", "8.0"), ("true", "false"), ("1.5", "15"), ("007", "7"), (" a", "b")]
)
def test_one_spelling_of_each_value_is_no_warning(values):
    values = [*values] * (ROWS // 2)
    assert check(problem(categorical("x")), x=values).warnings == []


def test_spellings_of_many_values_are_counted_in_bounded_memory():
    spellings = Spellings()
    for start in range(0, 600_000, 50_000):
        numbers = np.arange(start, start + 50_000)
        spellings.update(pa.array(numbers.astype(str)))
        spellings.update(pa.array(np.char.add(numbers[::2].astype(str), ".0")))
    kept = sum(len(part) for part in (*spellings._usual, *spellings._odd))
    assert kept <= 3 * 2**17
    words = spellings.line().split()
    assert words[0] == "about" and int(words[1].replace(",", "")) == pytest.approx(3e5, rel=0.02)


FUNNEL = (
    binary("ctr", label="click"),
    binary("cvr", label="buy", observed_if="click"),
    binary("ctcvr", label="buy"),
)


def funnel_rows():
    random = np.random.default_rng(8)
    click = random.integers(0, 2, ROWS).astype(np.float32)
    buy = (click * random.integers(0, 2, ROWS)).astype(np.float32)
    orphan = (click == 0) & (random.random(ROWS) < 0.1)
    buy[orphan] = 1
    return {"x": random.random(ROWS).astype(np.float32), "click": click, "buy": buy}, orphan


@pytest.mark.parametrize("orphans", ["negative", "positive"])
def test_a_conversion_without_a_click_is_what_orphans_says_and_is_counted(orphans):
    rows, orphan = funnel_rows()
    spec = ProblemSpec(features=(numerical("x"),), tasks=FUNNEL, orphans=orphans)
    expected = rows["buy"] * rows["click"] if orphans == "negative" else rows["buy"]
    packed = Preprocessor(spec).fit(rows)
    np.testing.assert_array_equal(packed["labels"][:, 2], expected)
    np.testing.assert_array_equal(packed["label_weights"][:, 1], rows["click"])
    report = check(spec, **rows)
    positives = sum(split["positives"] for split in report.tasks["ctcvr"].values())
    assert positives == expected.sum()
    (line,) = report.warnings
    assert line.startswith(f"{orphan.sum()} rows have buy without click (kept; drop_if=")
    said = "negatives of 'ctcvr', which is click and buy: orphans='positive' would"
    assert (said in line) == (orphans == "negative")
    assert ("as orphans='positive' says" in line) == (orphans == "positive")


def test_a_conversion_whose_click_is_unknown_stays_one():
    spec = ProblemSpec(features=(numerical("x"),), tasks=FUNNEL)
    rows = {"x": [1.0, 2, 3], "click": [np.nan, 0, 1], "buy": [1.0, 1, 1]}
    np.testing.assert_array_equal(Preprocessor(spec).fit(rows)["labels"][:, 2], [1, 0, 1])


def test_orphans_survive_json_and_another_word_is_refused():
    spec = ProblemSpec(features=(numerical("x"),), tasks=FUNNEL, orphans="positive")
    assert ProblemSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="orphans='drop' is none of"):
        ProblemSpec(features=(numerical("x"),), tasks=FUNNEL, orphans="drop")


def test_ids_outside_their_range_are_counted_and_named():
    x = np.arange(ROWS) % 10
    x[[3, 500]] = -5, 10
    feature = categorical("x", encoding="identity", size=10)
    (line,) = check(problem(feature), x=x).warnings
    assert line == (
        "column 'x' of feature 'x': 2 values lie outside 0 … 9 and are all the one unknown id, "
        "first in row 4 (-5)."
    )


def test_ids_outside_their_range_are_counted_in_lists_and_gaps_are_none():
    lists = [[0, 1], [2, 30], None, [int(np.iinfo(np.int64).min), 1]] * (ROWS // 4)
    feature = categorical("x", encoding="identity", size=10, max_values=2)
    (line,) = check(problem(feature), x=lists).warnings
    assert f": {ROWS // 4} values lie outside 0 … 9" in line and "first in row 2 (30)" in line


def test_ids_all_outside_their_range_are_an_error():
    feature = categorical("x", encoding="identity", size=10)
    with pytest.raises(DataError, match="all 1,000 values of column 'x' lie outside 0 … 9"):
        check(problem(feature), x=np.arange(ROWS) + 10)


@pytest.mark.parametrize("value", [1e38, -1e38, 1e19])
def test_a_label_whose_square_float32_cannot_hold_is_refused(value):
    y = np.random.default_rng(0).random(ROWS)
    y[7] = value
    spec = problem(numerical("x"), tasks=(regression("pay", label="y"),))
    with pytest.raises(DataError, match=r"1 values are above 1e\+18, .* first in row 8"):
        check(spec, x=y[::-1].copy(), y=y)


def test_one_label_a_million_times_the_others_is_warned_of():
    y = np.random.default_rng(0).random(ROWS)
    y[7] = 1e9
    spec = problem(numerical("x"), tasks=(regression("pay", label="y"),))
    random = np.random.default_rng(1).random(ROWS)
    (line,) = check(spec, x=random, y=y).warnings
    assert line.startswith("label 'y' of task 'pay': one value, 1e+09, is 1,9")
    y[7] = 1e3  # Amounts have long tails.
    assert check(spec, x=random, y=y).warnings == []


@pytest.mark.parametrize("unit", [1, 1000])
def test_hours_of_epoch_seconds_are_encoded_by_their_spread(unit):
    ts = (1.7e9 + np.arange(ROWS) * 14400 / ROWS) * unit
    packed = Preprocessor(
        problem(numerical("ts"), numerical("l", column="ts", encoding="log"))
    ).fit({"ts": ts, "click": np.arange(ROWS) % 2})
    numbers = packed["numbers_context"].numpy()
    np.testing.assert_allclose(numbers.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(numbers.std(0), 1, atol=1e-3)
    assert np.abs(numbers).max() == pytest.approx(3**0.5, abs=0.05)


def test_hours_of_epoch_seconds_are_warned_of_with_what_to_declare():
    ts = 1.7e9 + np.arange(ROWS) * 14400 / ROWS
    (line,) = check(problem(numerical("ts")), ts=ts.astype(np.float32)).warnings
    assert line.startswith("column 'ts': values from 1700000000 to 170001")
    assert "only 112 steps of float32 apart" in line and "seconds since midnight" in line
    for fine in (ts - 1.7e9, np.full(ROWS, 1.7e9), np.arange(ROWS) % 2):
        assert check(problem(numerical("ts")), ts=fine.astype(np.float32)).warnings == []


def test_a_model_of_epoch_seconds_reads_what_the_table_reads(tmp_path):
    random = np.random.default_rng(3)
    rows = [f"{1_700_000_000 + 15 * i},{random.integers(0, 2)}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["ts,click", *rows]) + "\n")
    spec = problem(numerical("ts"))
    prepared = prepare(spec, read_table(str(tmp_path / "t.csv"), spec))
    numbers = prepared.data.train.tensors["numbers_context"].numpy()
    assert np.abs(numbers).max() < 2 and numbers.std() == pytest.approx(1, abs=1e-3)
